"""What is on a disk before anybody clones it: whether certain names are there, and which files hold secrets.

Only paths and the kind of a secret leave the worker, never a byte of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backend.disks.contents import PASSWORDS, secret_kind
from backend.disks.elsewhere import Elsewhere, elsewhere
from backend.disks.ext4 import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, Ext4
from backend.disks.files import chunks, link_target
from backend.disks.paged import NoMorePages
from backend.disks.records import Node, unpack
from backend.disks.tree import find, manifest_pieces

SECRET_BYTES = 256 << 10  # a key or a token lies in a small file
SCANNED_BYTES = 512 << 20
TOLD_MAX = 500
_SHIPPED = (
    b"/usr/", b"/lib", b"/bin/", b"/sbin/", b"/boot/", b"/proc/", b"/sys/", b"/dev/", b"/run/", b"/snap/",
    b"/var/lib/dpkg/", b"/var/cache/", b"/var/lib/apt/",
)  # fmt: skip
"""What packages bring and what is no file of anybody's."""
_OWN = b"/usr/local/"


@dataclass(frozen=True)
class Surveyed:
    """``names``: for each path ``f``, ``d``, ``l`` or ``o`` with a link's target, empty where nothing is.
    ``secrets``: path and kind. ``cut``: there may be more of them."""

    names: list[tuple[str, bytes]]
    secrets: list[tuple[bytes, str]]
    cut: bool
    elsewhere: list[Elsewhere]


def survey(fs: Ext4, paths: list[bytes]) -> Surveyed:
    """Look for the names, without following links on the way, and for secrets in all that nobody shipped."""
    names = [_name(fs, path) for path in paths]
    others = elsewhere(fs)
    secrets: list[tuple[bytes, str]] = []
    try:
        cut = not _collected(fs, secrets)
    except NoMorePages:
        cut = True
    return Surveyed(names, secrets, cut, others)


def _collected(fs: Ext4, secrets: list[tuple[bytes, str]]) -> bool:
    """Add the secrets; whether those are all."""
    left = SCANNED_BYTES
    for node in _small_files(fs):
        left -= node.size
        if left < 0 or len(secrets) == TOLD_MAX:
            return False
        data = b"".join(chunks(fs, fs.inode(node.inode)))
        kind = secret_kind(node.path, data)
        if kind and (kind != PASSWORDS or _has_hash(data)):
            secrets.append((node.path, kind))
    return True


def _small_files(fs: Ext4) -> Iterator[Node]:
    for node in unpack(b"".join(manifest_pieces(fs))):
        if node.mode & S_IFMT == S_IFREG and 0 < node.size <= SECRET_BYTES and not is_shipped(node.path):
            yield node


def is_shipped(path: bytes) -> bool:
    """Whether packages bring it, or it is no file of anybody's."""
    return path.startswith(_SHIPPED) and not path.startswith(_OWN)


def _has_hash(data: bytes) -> bool:
    """Whether an account of a shadow file can be tried for its password."""
    fields = (line.split(b":") for line in data.split(b"\n"))
    return any(len(one) > 1 and one[1] and one[1][:1] not in b"!*" for one in fields)


def _name(fs: Ext4, path: bytes) -> tuple[str, bytes]:
    inode = find(fs, path)
    if inode is None:
        return "", b""
    kind = {S_IFDIR: "d", S_IFLNK: "l", S_IFREG: "f"}.get(inode.mode & S_IFMT, "o")
    return kind, link_target(fs, inode) if kind == "l" else b""
