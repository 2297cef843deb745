"""Contents of changed files: fingerprints, and the bytes themselves when nobody must be kept from them.

A secret's bytes do not leave the worker: only that it is one, its SHA-256, and of configuration what stands
around its passwords.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from backend.disks.compare import Comparer
from backend.disks.ext4 import S_IFMT, S_IFREG, Ext4, Inode
from backend.disks.files import chunks
from backend.disks.passwords import MAX_HINTED_BYTES, Unsearched, masked
from backend.disks.tree import find
from backend.secret_marks import KEY_HEADER, KEY_MARKS, TOKEN

PRIVATE_KEY = "private key"
PASSWORDS = "password hashes"
CREDENTIALS = "credentials"
OPAQUE = "not looked into"
VOUCHED = "the package's own"
UNSEARCHED = f"over {MAX_HINTED_BYTES} bytes to be searched for passwords"

_WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
for _, _name in _WIDE:
    codecs.lookup(_name)  # a confined process cannot load it any more
_SHADOW = (b"/etc/shadow", b"/etc/shadow-", b"/etc/gshadow", b"/etc/gshadow-", b"/etc/security/opasswd")
_CREDENTIAL_NAMES = (
    ".netrc", ".pgpass", ".my.cnf", ".git-credentials", "credentials", "credentials.*", ".htpasswd", "*.key",
    "*.p12", "*.pfx", "*.jks", "*.keytab", "*.kdbx", ".vault_pass*", "id_rsa", "id_dsa", "id_ecdsa",
    "id_ed25519", ".dockercfg", "*_token", "*.token", ".env", "*-secrets", "*.secrets", "sasl_passwd",
    ".msmtprc", "msmtprc", ".fetchmailrc", "chrony.keys", "ntp.keys", "privatekey", "*.psk", "userlist.txt",
    "passwd.client", "sasl_passwd.*", "sasldb2", "htpasswd", "*.htpasswd", "htpasswd.*",
)  # fmt: skip
_TUNNEL_KEY = re.compile(  # wg(8), systemd.netdev(5)
    rb"(?:PrivateKey|PresharedKey)[ \t]{0,9}=[ \t]{0,9}[A-Za-z0-9+/]{43}="
)
_BINARY_KEY = re.compile(  # PKCS #1, #8 and #12, and SEC 1, as DER
    rb"\x30(?:\x82..|\x81.|[\x10-\x7f])\x02\x01[\x00\x01\x03][\x02\x04\x30]", re.DOTALL
)
_SUMS = re.compile(rb"^/var/lib/dpkg/info/[^/]+\.md5sums$")
_DAYS = re.compile(rb"[ \t\v\f\r]*[+-]?[0-9]{0,30}")
_USERS = re.compile(rb"(?:[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?,?)*")
_MERGED = (b"/bin/", b"/sbin/", b"/lib/", b"/lib32/", b"/lib64/")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A file's content. ``data`` is None when it is withheld or over a limit; ``withheld`` says why. With
    ``credentials`` there may be ``data`` without them."""

    size: int
    sha256: str | None
    md5: str | None
    data: bytes | None = None
    withheld: str = ""


@dataclass
class Budget:
    """What may still be read and handed over."""

    file_bytes: int  # kept of one file
    total_bytes: int  # kept in all
    hash_bytes: int  # hashed of one file
    large_s: float  # for all files of more than ``file_bytes``, so that they leave time for the others
    opaque: tuple[bytes, ...] = ()  # folders whose files are fingerprinted and no more
    vouched: dict[bytes, str] = field(default_factory=dict)  # path → MD5 that a package states

    def read(self, fs: Ext4, inode: Inode) -> Iterator[bytes]:
        """The content in pieces; what is done with one takes of the time, too. Raises :class:`_OutOfTime`."""
        last = time.monotonic()
        for piece in chunks(fs, inode):
            yield piece
            if inode.size > self.file_bytes:
                now = time.monotonic()
                self.large_s -= now - last
                last = now
                if self.large_s < 0:
                    raise _OutOfTime


class _OutOfTime(Exception):
    """Large files have had their time."""


def secret_kind(path: bytes, data: bytes) -> str:
    """Why a file's content is withheld; empty for an ordinary file."""
    if path in _SHADOW:
        return PASSWORDS
    data = as_utf8(data)
    if any(mark in data for mark in KEY_MARKS) and KEY_HEADER.search(data):
        return PRIVATE_KEY
    name = path.rpartition(b"/")[2].decode("utf-8", "replace")
    if any(fnmatchcase(name, pattern) for pattern in _CREDENTIAL_NAMES):
        return CREDENTIALS
    given_away = any(mark.search(data) for mark in (TOKEN, _TUNNEL_KEY)) or _BINARY_KEY.match(data)
    return CREDENTIALS if given_away else ""


def as_utf8(data: bytes) -> bytes:
    """A text with the mark of another Unicode form in UTF-8, all else as it is."""
    encoding = next((name for mark, name in _WIDE if data.startswith(mark)), "")
    return data.decode(encoding, "replace").encode("utf-8", "replace") if encoding else data


def fingerprint(fs: Ext4, inode: Inode, path: bytes, budget: Budget) -> Fingerprint:
    """Hash a regular file and keep its bytes where that is allowed."""
    if inode.size > budget.hash_bytes:
        return Fingerprint(inode.size, None, None, withheld=f"over {budget.hash_bytes} bytes")
    try:
        return _hashed(fs, inode, path, budget)
    except _OutOfTime:
        return Fingerprint(inode.size, None, None, withheld="over the time for large files")


def _hashed(fs: Ext4, inode: Inode, path: bytes, budget: Budget) -> Fingerprint:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    if path.startswith(budget.opaque):
        for piece in budget.read(fs, inode):
            sha256.update(piece)
        return Fingerprint(inode.size, sha256.hexdigest(), None, withheld=OPAQUE)
    kept: list[bytes] = []
    held = 0
    for piece in budget.read(fs, inode):
        sha256.update(piece)
        md5.update(piece)
        if held < budget.file_bytes:
            kept.append(piece)
            held += len(piece)
    data: bytes | None = b"".join(kept)
    withheld = _withheld(path, data or b"", inode.size, md5.hexdigest(), budget)
    if withheld:
        data = None
    elif data is not None:
        data, withheld = without_passwords(path, data)
    if data is not None:
        budget.total_bytes -= len(data)
    return Fingerprint(inode.size, sha256.hexdigest(), md5.hexdigest(), data, withheld)


def _withheld(path: bytes, data: bytes, size: int, md5: str, budget: Budget) -> str:
    """Why nothing of a content is handed over; empty where it is."""
    if budget.vouched.get(path) == md5:
        return VOUCHED
    if kind := secret_kind(path, data):
        return kind
    if size > budget.file_bytes:
        return f"over {budget.file_bytes} bytes"
    return "too many changed bytes" if size > budget.total_bytes else ""


def without_passwords(path: bytes, data: bytes) -> tuple[bytes | None, str]:
    """What may be kept of a content that is no secret as a whole, and why that is not all of it."""
    try:
        shown = masked(path, as_utf8(data))
    except Unsearched:
        return None, UNSEARCHED
    return (data, "") if shown is None else (shown, CREDENTIALS)


def vouched_sums(fs: Ext4, paths: Sequence[bytes]) -> dict[bytes, str]:
    """Path → MD5 from dpkg's sums among ``paths``. A path under a merged folder is noted in both forms."""
    found: dict[bytes, str] = {}
    for path in paths:
        if not _SUMS.match(path):
            continue
        for line in (read_whole(fs, path, 64 << 20) or b"").split(b"\n"):
            md5, _, name = line.partition(b"  ")
            name = b"/" + name
            found[name] = md5.decode("ascii", "replace")
            if name.startswith(_MERGED):
                found[b"/usr" + name] = found[name]
    return found


def read_whole(fs: Ext4, path: bytes, limit_bytes: int) -> bytes | None:
    """A regular file's content; None when there is none at ``path`` or it is longer than the limit."""
    inode = find(fs, path)
    if inode is None or inode.mode & S_IFMT != S_IFREG or inode.size > limit_bytes:
        return None
    return b"".join(chunks(fs, inode))


def fingerprints(
    comparer: Comparer, path: bytes, before: Inode | None, after: Inode | None, budget: Budget
) -> tuple[Fingerprint | None, Fingerprint | None]:
    """Both sides of a candidate; a content that did not change is read once, and one print is both."""
    old = before if before is not None and before.mode & S_IFMT == S_IFREG else None
    new = after if after is not None and after.mode & S_IFMT == S_IFREG else None
    new_print = fingerprint(comparer.after, new, path, budget) if new else None
    if old is None:
        return None, new_print
    if new is not None and comparer.same_content(old, new):
        return new_print, new_print
    return fingerprint(comparer.before, old, path, budget), new_print


class ShadowMask:
    """Password fields as ``none``, ``locked`` or ``set~TOKEN``; tokens are equal only for equal fields under
    one key, which without another is that of one comparison, and useless without it."""

    def __init__(self, key: bytes = b"") -> None:
        self._key = key or secrets.token_bytes(32)

    def mask(self, data: bytes) -> bytes:
        """An ``/etc/shadow`` without its hashes, wherever in a row somebody wrote them: ``?`` stands for what
        is neither a name, a password nor a number."""
        lines = []
        for line in data.split(b"\n"):
            name, *rest = line.split(b":")
            if rest:
                rest[:1] = [self._state(rest[0])]
                rest[1:] = [one if _DAYS.fullmatch(one) else b"?" for one in rest[1:]]
            elif name.strip() and not name.lstrip().startswith(b"#"):
                name = b"?"
            lines.append(b":".join([name, *rest]))
        return b"\n".join(lines)

    def mask_groups(self, data: bytes) -> bytes:
        """The same of an ``/etc/gshadow``, whose third and fourth fields are names of users."""
        lines = []
        for line in data.split(b"\n"):
            name, *rest = line.split(b":")
            if rest:
                rest[:1] = [self._state(rest[0])]
                rest[1:] = [one if _USERS.fullmatch(one) else b"?" for one in rest[1:3]]
                lines.append(b":".join([name, *rest]))
        return b"\n".join(lines)

    def _state(self, password: bytes) -> bytes:
        if not password:
            return b"none"
        if password[:1] in (b"!", b"*"):
            return b"locked"
        return b"set~" + hashlib.blake2b(password, key=self._key, digest_size=12).hexdigest().encode()
