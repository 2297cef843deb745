"""The tree of names of a file system: walking it, finding a path, one node in full."""

from __future__ import annotations

import struct

from backend.disks.directories import list_directory
from backend.disks.ext4 import (
    CHATTR,
    CHATTR_MASK,
    FLAG_CASEFOLD,
    ROOT_INODE,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    SET_BY_CHATTR,
    Ext4,
    Inode,
)
from backend.disks.files import device, extended_attributes, link_target
from backend.disks.pieces import LEAST, begins
from backend.disks.records import HEAD, NS_BIAS, Node, pack
from backend.disks.sums import check_inode
from backend.errors import DiskUnreadable

MAX_PATH_BYTES = 16 << 10  # four times PATH_MAX: deeper trees are made to hurt
MAX_ENTRIES = 10_000_000
LISTINGS_KEPT = 16

_USUAL_EXTRA = 32
_PLAIN = struct.Struct("<HHI4xii4xHH4xI4x60x4xII6xHHH4xH2xII16x4xI")  # an inode up to its attributes' magic


def node(fs: Ext4, inode: Inode, path: bytes) -> Node:
    """An inode under one of its names."""
    kind = inode.mode & S_IFMT
    start = 128 + inode.extra
    carries = inode.acl_block or (inode.extra and inode.raw[start : start + 4] == b"\x00\x00\x02\xea")
    attributes = extended_attributes(fs, inode) if carries else {}
    if inode.flags & CHATTR_MASK:
        letters = (letter for flag, letter in SET_BY_CHATTR.items() if inode.flags & flag)
        attributes[CHATTR] = b"".join(letters)
    return Node(
        path, inode.mode, inode.uid, inode.gid, inode.links, inode.number, inode.size, inode.mtime_ns,
        inode.ctime_ns,
        device(inode) if kind in (S_IFCHR, S_IFBLK) else None,
        link_target(fs, inode) if kind == S_IFLNK else None,
        tuple(sorted(attributes.items())),
    )  # fmt: skip


def join(folder: bytes, name: bytes) -> bytes:
    """A path from the root; the root itself is ``/``."""
    path = folder + name if folder == b"/" else folder + b"/" + name
    if len(path) > MAX_PATH_BYTES:
        raise DiskUnreadable(f"a path is longer than {MAX_PATH_BYTES} bytes")
    return path


def manifest_pieces(fs: Ext4) -> list[bytes]:
    """The records of all names, sorted by path and cut into pieces; contents are not read.

    A folder's names are in order when each folder among them is entered at its name with a slash: so records
    are written as they are found, and nothing but the open folders is held.
    """
    root = fs.inode(ROOT_INODE)
    pieces: list[bytes] = []
    out = bytearray(pack(node(fs, root, b"/")))
    visited = {ROOT_INODE}
    open_folders = [_rows(fs, root, b"/")]
    entries = held = 1
    while open_folders:
        rows = open_folders[-1]
        if not rows:
            open_folders.pop()
            continue
        path, record, folder = rows.pop()
        if folder is None:
            if held >= LEAST and begins(path, held):
                pieces.append(bytes(out))
                out.clear()
                held = 0
            out += record
            held += 1
            entries += 1
        elif folder:
            enter(visited, folder)
            open_folders.append(_rows(fs, fs.inode(folder), path))
        if entries > MAX_ENTRIES:
            raise DiskUnreadable(f"there are more than {MAX_ENTRIES} names")
    pieces.append(bytes(out))
    return pieces


def _rows(fs: Ext4, parent: Inode, prefix: bytes) -> list[tuple[bytes, bytes, int | None]]:
    """What a folder holds, last first: path, record, None; and for a folder in it also its path with a slash,
    no record, its inode."""
    if len(prefix) > MAX_PATH_BYTES - 256:
        raise DiskUnreadable(f"a path is longer than {MAX_PATH_BYTES} bytes")
    rows: list[tuple[bytes, bytes, int | None]] = []
    for name, number in list_directory(fs, parent)[0].items():
        path = prefix + name
        record = plain_record(fs, number, path)
        if record is None:
            inode = fs.inode(number)
            record = pack(node(fs, inode, path))
            if inode.mode & S_IFMT == S_IFDIR:
                rows.append((path + b"/", b"", number))
        rows.append((path, record, None))
    rows.sort(reverse=True)
    return rows


def plain_record(fs: Ext4, number: int, path: bytes) -> bytes | None:
    """What :func:`pack` gives for a plain regular file, three times faster; None for all else."""
    if fs.inode_size < _PLAIN.size:
        return None
    chunk, at = fs.inode_place(number)
    (mode, uid, size, ctime, mtime, gid, links, flags, acl, size_high, acl_high, uid_high, gid_high, extra,
     ctime_extra, mtime_extra, magic) = _PLAIN.unpack_from(chunk, at)  # fmt: skip
    unusual = extra != _USUAL_EXTRA or magic or acl or acl_high or not links or size_high & 0x8000_0000
    unusual = unusual or flags & CHATTR_MASK
    if mode & S_IFMT != S_IFREG or unusual:
        return None
    if fs.seed is not None:
        check_inode(fs.seed, number, chunk[at : at + fs.inode_size], extra)
    return (
        HEAD.pack(
            mode, uid | uid_high << 16, gid | gid_high << 16, links, number, size | size_high << 32,
            (mtime + ((mtime_extra & 3) << 32)) * 1_000_000_000 + (mtime_extra >> 2) + NS_BIAS,
            (ctime + ((ctime_extra & 3) << 32)) * 1_000_000_000 + (ctime_extra >> 2) + NS_BIAS,
            0, 0, 0, len(path), 0,
        )
        + path
    )  # fmt: skip


def enter(visited: set[int], number: int) -> None:
    """Note that a directory was reached; a second time means that the tree has a loop."""
    if number in visited:
        raise DiskUnreadable(f"directory inode {number} is reached twice: the tree has a loop")
    visited.add(number)


def _names(fs: Ext4, folder: Inode) -> dict[bytes, int]:
    """A folder's names; those of the last few are kept, for paths come in order."""
    names = fs.listings.get(folder.number)
    if names is None:
        names = list_directory(fs, folder)[0]
        if len(fs.listings) >= LISTINGS_KEPT:
            fs.listings.clear()
        fs.listings[folder.number] = names
    return names


def find(fs: Ext4, path: bytes) -> Inode | None:
    """The inode at an absolute path; links on the way are not followed."""
    inode = fs.inode(ROOT_INODE)
    for name in path.split(b"/"):
        if not name:
            continue
        if inode.mode & S_IFMT != S_IFDIR:
            return None
        number = _names(fs, inode).get(name)
        if number is None:
            if inode.flags & FLAG_CASEFOLD:
                raise DiskUnreadable(
                    f"{path!r}: a folder on the way is case-folded, and may mean another name"
                )
            return None
        inode = fs.inode(number)
    return inode
