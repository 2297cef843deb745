"""The process that reads guest disks: one job from stdin, one answer on stdout, then it ends.

It is started as ``python -I -S -c "…" PATH…`` with the images open, and drops what it can before it reads.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from backend.disks import wire
from backend.disks.compare import Comparer
from backend.disks.confine import confine
from backend.disks.contents import (
    PRIVATE_KEY,
    Budget,
    Fingerprint,
    ShadowMask,
    fingerprints,
    read_whole,
    vouched_sums,
)
from backend.disks.directories import list_directory
from backend.disks.elsewhere import Elsewhere, elsewhere
from backend.disks.ext4 import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, Ext4, Inode
from backend.disks.files import link_target
from backend.disks.hardlinks import shared
from backend.disks.journal import open_filesystem
from backend.disks.layers import open_chain
from backend.disks.links import leads_to
from backend.disks.partitions import find_filesystem
from backend.disks.records import Node, pack
from backend.disks.removals import removals
from backend.disks.survey import survey
from backend.disks.tree import find, manifest_pieces, node
from backend.errors import DiskUnreadable

MAX_LISTED = 100_000
_MASKED, _MASKED_GROUPS = b"/etc/shadow", b"/etc/gshadow"

Answer = tuple[dict[str, Any], list[bytes]]


def open_one(chain: Sequence[Sequence[Any]], door: int | None = None) -> Ext4:
    """The file system of a chain of ``[fd, name]``, base first. ``door``: where its pages are asked for."""
    disk = open_chain([(int(fd), str(name)) for fd, name in chain], door)
    return open_filesystem(disk, *find_filesystem(disk))


def manifest(job: dict[str, Any]) -> Answer:
    """All names of one disk, in pieces."""
    return {}, manifest_pieces(open_one(job["after"]))


def edits(job: dict[str, Any]) -> Answer:
    """The names whose records may differ between two disks: those that are there now, joined, and those that
    are gone."""
    comparer = Comparer(open_one(job["before"]), open_one(job["after"]))
    now: list[bytes] = []
    gone: list[str] = []
    pairs = comparer.pairs()
    comparer.must_explain_records()
    for path, _old, new in pairs:
        if new is None:
            gone.append(wire.text(path))
        else:
            now.append(pack(node(comparer.after, new, path)))
    return {"gone": gone}, [b"".join(now)]


def read(job: dict[str, Any]) -> Answer:
    """Whole files of one disk, None for those that are not there or too long."""
    fs, blobs = open_one(job["after"], job["door"]), wire.Blobs()
    found = [blobs.add(read_whole(fs, wire.raw(path), job["limit_bytes"])) for path in job["paths"]]
    return {"files": found}, blobs.parts


def led(job: dict[str, Any]) -> Answer:
    """Where names come to by the links of one disk."""
    fs = open_one(job["after"])

    @cache
    def target(path: bytes) -> bytes | None:
        inode = find(fs, path)
        return link_target(fs, inode) if inode is not None and inode.mode & S_IFMT == S_IFLNK else None

    return {"paths": [wire.text(leads_to(wire.raw(path), target)) for path in job["paths"]]}, []


def declared(job: dict[str, Any]) -> Answer:
    """The facts of certificates and keys at paths of both disks. The files stay here."""
    from backend.disks.facts import MAX_PEM_BYTES, facts

    sides = []
    for side in ("before", "after"):
        fs = open_one(job[side])
        found = {path: read_whole(fs, wire.raw(path), MAX_PEM_BYTES) for path in job["paths"][side]}
        sides.append({path: facts(data) for path, data in found.items() if data is not None})
    return {"before": sides[0], "after": sides[1]}, []


def surveyed(job: dict[str, Any]) -> Answer:
    """Names and secrets of one disk."""
    told = survey(open_one(job["after"], job["door"]), [wire.raw(path) for path in job["paths"]])
    names = [[kind, wire.text(target)] for kind, target in told.names]
    secrets = [[wire.text(path), kind] for path, kind in told.secrets]
    return {"names": names, "secrets": secrets, "cut": told.cut, "elsewhere": _elsewhere(told.elsewhere)}, []


def _elsewhere(found: Sequence[Elsewhere]) -> list[list[Any]]:
    return [[one.number, one.size, one.role, [wire.text(point) for point in one.points]] for one in found]


def compare(job: dict[str, Any]) -> Answer:
    """Names that differ, with contents; named files and listings of both sides when anything differs."""
    comparer = Comparer(open_one(job["before"]), open_one(job["after"]))
    candidates = comparer.pairs()
    blobs = wire.Blobs()
    others = _elsewhere(elsewhere(comparer.after))
    if not candidates:
        return {"pairs": [], "elsewhere": others}, blobs.parts
    budget = Budget(job["file_bytes"], job["total_bytes"], job["hash_bytes"], job["large_s"])
    budget.opaque = tuple(wire.raw(folder) for folder in job["opaque"])
    budget.vouched = vouched_sums(comparer.after, [path for path, _old, new in candidates if new is not None])
    went = removals(comparer, candidates)
    names = shared(
        _linked((path, old) for path, old, _new in candidates),
        _linked((path, new) for path, _old, new in candidates),
    )
    pairs = []
    for path, old, new in candidates:
        old_print, new_print = fingerprints(comparer, path, old, new, budget)
        before = node(comparer.before, old, path) if old else None
        after = node(comparer.after, new, path) if new else None
        renamed = names[0].get(path) is not names[1].get(path)
        if before is None or after is None or renamed or _differs(before, after, old_print, new_print):
            pairs.append([
                blobs.add(pack(before)) if before else None, blobs.add(pack(after)) if after else None,
                _print(old_print, blobs), _print(new_print, blobs), old_print is new_print,
                went.get(path),
            ])  # fmt: skip
    mask = ShadowMask()
    sides = {
        side: {
            "whole": {path: blobs.add(_whole(fs, wire.raw(path), mask)) for path in job["whole"]},
            "listed": {path: _listing(fs, wire.raw(path)) for path in job["listed"]},
        }
        for side, fs in (("before", comparer.before), ("after", comparer.after))
    }
    return {"pairs": pairs, "elsewhere": others, **sides}, blobs.parts


def _linked(inodes: Iterable[tuple[bytes, Inode | None]]) -> Iterator[tuple[bytes, int]]:
    """Those that may have other names."""
    for path, inode in inodes:
        if inode is not None and inode.links > 1 and inode.mode & S_IFMT != S_IFDIR:
            yield path, inode.number


def _differs(before: Node, after: Node, old: Fingerprint | None, new: Fingerprint | None) -> bool:
    """Whether more than times, link counts and a directory's size differ."""
    if (before.mode, before.uid, before.gid, before.rdev, before.target, before.xattrs) != (
        after.mode, after.uid, after.gid, after.rdev, after.target, after.xattrs,
    ):  # fmt: skip
        return True
    if old is None or new is None:
        return False
    return old is not new and (old.sha256 is None or (old.size, old.sha256) != (new.size, new.sha256))


def _print(one: Fingerprint | None, blobs: wire.Blobs) -> list[Any] | None:
    if one is None:
        return None
    declares = one.withheld == PRIVATE_KEY or (
        one.data is not None and (b"-----BEGIN " in one.data or one.data.startswith((b"ssh-", b"ecdsa-")))
    )
    return [one.size, one.sha256, one.md5, blobs.add(one.data), one.withheld, declares]


def _whole(fs: Ext4, path: bytes, mask: ShadowMask) -> bytes | None:
    data = read_whole(fs, path, 64 << 20)
    if data is None or path not in (_MASKED, _MASKED_GROUPS):
        return data
    return mask.mask(data) if path == _MASKED else mask.mask_groups(data)


def _listing(fs: Ext4, folder: bytes) -> list[list[str]]:
    """``[relative path, kind, target]`` of what is in a folder and its direct subfolders."""
    top = find(fs, folder)
    if top is None or top.mode & S_IFMT != S_IFDIR:
        return []
    found: list[list[str]] = []
    for name, inode in _members(fs, top):
        found.append(_listed(fs, name, inode))
        if inode.mode & S_IFMT == S_IFDIR:
            found.extend(_listed(fs, name + b"/" + inner, child) for inner, child in _members(fs, inode))
        if len(found) > MAX_LISTED:
            raise DiskUnreadable(f"{folder!r} holds more than {MAX_LISTED} names")
    return found


def _members(fs: Ext4, folder: Inode) -> list[tuple[bytes, Inode]]:
    return [(name, fs.inode(number)) for name, number in sorted(list_directory(fs, folder)[0].items())]


def _listed(fs: Ext4, name: bytes, inode: Inode) -> list[str]:
    kind = {S_IFDIR: "d", S_IFLNK: "l", S_IFREG: "f"}.get(inode.mode & S_IFMT, "o")
    return [wire.text(name), kind, wire.text(link_target(fs, inode)) if kind == "l" else ""]


_ROOM = Path(__file__).parent

_TASKS: dict[str, Callable[[dict[str, Any]], Answer]] = {
    "manifest": manifest,
    "edits": edits,
    "read": read,
    "led": led,
    "survey": surveyed,
    "declared": declared,
    "compare": compare,
}


def _where(error: Exception) -> str:
    """The kind of an error and the line of ours that met it, without a word of the guest's."""
    met, at = "", error.__traceback__
    while at is not None:
        file = Path(at.tb_frame.f_code.co_filename)
        met = f" at {file.name}:{at.tb_lineno}" if file.parent == _ROOM else met
        at = at.tb_next
    return type(error).__name__ + met


def main() -> None:
    """Read the job, confine the process, answer. What a strange disk makes a reader raise is an answer."""
    job = json.loads(sys.stdin.buffer.read())
    if job["task"] == "declared":
        import backend.disks.facts  # noqa: F401  before the uid changes: its files may be root's alone
    gc.disable()
    confine(uid=job["uid"], memory_bytes=job["memory_bytes"], cpu_s=job["cpu_s"], files=job["open_files"])
    try:
        head, parts = _TASKS[job["task"]](job)
    except DiskUnreadable as error:
        head, parts = {"refused": error.message, "remedy": error.remedy}, []
    except MemoryError:
        head, parts = {"refused": f"reading needs more than {job['memory_bytes'] >> 20} MB of memory"}, []
    except Exception as error:  # a parser met what it cannot read: that is the answer, not a crash
        head, parts = {"refused": f"the file system is damaged ({_where(error)})"}, []
    for piece in wire.frame(head, parts):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
    os._exit(0)
