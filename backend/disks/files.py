"""Contents of inodes: regular files, links, devices, inline data, extended attributes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from backend.disks.ext4 import FLAG_EA_INODE, FLAG_ENCRYPTED, FLAG_INLINE, Ext4, Inode
from backend.disks.sums import check_attribute, check_attributes, crc32c, must_match
from backend.errors import DiskUnreadable

MAX_LINK_BYTES = 4096
MAX_XATTR_BYTES = 64 << 10
READ_BYTES = 1 << 20

_ONE_BLOCK = b"\1\0\0\0"
_XATTR_MAGIC = b"\x00\x00\x02\xea"
_XATTR_ENTRY = struct.Struct("<BBHIII")
_PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
    7: b"system.",
    8: b"system.richacl",
    10: b"gnu.",
}
_INLINE_NAME = b"system.data"
_ACL_NAMES = (_PREFIXES[2], _PREFIXES[3])
_ACL_TAGS = (0x01, 0x02, 0x04, 0x08, 0x10, 0x20)
_ACL_NAMED = (0x02, 0x08)  # entries for a named user or group carry an id


def extended_attributes(fs: Ext4, inode: Inode) -> dict[bytes, bytes]:
    """All attributes by full name, from the inode and its attribute block; inline data left out."""
    found = _all_attributes(fs, inode)
    found.pop(_INLINE_NAME, None)
    return found


def inline_data(fs: Ext4, inode: Inode) -> bytes:
    """The content that an inode with inline data holds in itself."""
    return inode.map + _all_attributes(fs, inode).get(_INLINE_NAME, b"")


def _all_attributes(fs: Ext4, inode: Inode) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    start = 128 + inode.extra
    if fs.inode_size > 128 and inode.extra and inode.raw[start : start + 4] == _XATTR_MAGIC:
        body = inode.raw[start + 4 :]
        _parse_attributes(fs, inode.number, body, 0, 0, found)
    if inode.acl_block:
        block = fs.block(inode.acl_block)
        if block[:4] != _XATTR_MAGIC or block[8:12] != _ONE_BLOCK:
            raise DiskUnreadable(f"inode {inode.number} has a broken attribute block")
        if fs.seed is not None:
            check_attributes(fs.seed, inode.acl_block, block)
        _parse_attributes(fs, inode.number, block, 32, 0, found)
    return found


def _parse_attributes(
    fs: Ext4, number: int, data: bytes, at: int, base: int, found: dict[bytes, bytes]
) -> None:
    """Entries from ``at`` on; values are at offsets from ``base``."""
    while data[at : at + 4] != b"\0\0\0\0":
        if at + _XATTR_ENTRY.size > len(data):
            raise DiskUnreadable(f"inode {number} has an attribute that is cut off")
        length, index, offset, value_inode, size, hashed = _XATTR_ENTRY.unpack_from(data, at)
        at += _XATTR_ENTRY.size
        prefix = _PREFIXES.get(index)
        if prefix is None or at + length > len(data) or size > MAX_XATTR_BYTES:
            raise DiskUnreadable(f"inode {number} has an attribute of kind {index} and {size} bytes")
        short = data[at : at + length]
        if b"\0" in short:  # Linux calls it corrupted
            raise DiskUnreadable(f"inode {number} has an attribute whose name no attribute can have")
        name = prefix + short
        at += (length + 3) & ~3
        if value_inode:
            value = _own_inode(fs, number, value_inode, size)
        else:
            value = data[base + offset : base + offset + size]
        if len(value) != size or name in found:
            raise DiskUnreadable(f"inode {number} has a broken attribute")
        if hashed and not value_inode:
            check_attribute(number, short, value, hashed)
        found[name] = _acl(number, value) if name in _ACL_NAMES else value


def _own_inode(fs: Ext4, number: int, value_inode: int, size: int) -> bytes:
    """A value that has an inode of its own, which keeps the sum of it in place of its time of access."""
    inode = fs.inode(value_inode)
    if not inode.flags & FLAG_EA_INODE or inode.size != size:
        raise DiskUnreadable(f"inode {number} has an attribute in inode {value_inode}, which holds none")
    value = read_file(fs, inode, MAX_XATTR_BYTES)
    must_match(
        crc32c(fs.attribute_seed, value), int.from_bytes(inode.raw[8:12], "little"), f"inode {value_inode}"
    )
    return value


def _acl(number: int, value: bytes) -> bytes:
    """An access list as ``getxattr`` gives it: version 2, eight bytes an entry. ext4 stores shorter ones."""
    if len(value) < 4 or value[:4] != b"\1\0\0\0":
        raise DiskUnreadable(f"inode {number} has an access list of an unknown version")
    parts = [struct.pack("<I", 2)]
    at = 4
    while at < len(value):
        tag, rights = struct.unpack_from("<HH", value, at) if at + 4 <= len(value) else (0, 0)
        if tag not in _ACL_TAGS:
            raise DiskUnreadable(f"inode {number} has an access list with an entry of kind {tag:#x}")
        at += 4
        owner = 0xFFFF_FFFF
        if tag in _ACL_NAMED:
            if at + 4 > len(value):
                raise DiskUnreadable(f"inode {number} has an access list that is cut off")
            (owner,) = struct.unpack_from("<I", value, at)
            at += 4
        parts.append(struct.pack("<HHI", tag, rights, owner))
    return b"".join(parts)


def device(inode: Inode) -> tuple[int, int]:
    """Major and minor number of a device inode, in either encoding."""
    old, new = struct.unpack_from("<II", inode.map)
    if old:
        return (old >> 8) & 0xFF, old & 0xFF
    return (new & 0xFFF00) >> 8, (new & 0xFF) | ((new >> 12) & 0xFFF00)


def link_target(fs: Ext4, inode: Inode) -> bytes:
    """Where a symbolic link points."""
    if inode.flags & FLAG_ENCRYPTED:
        raise DiskUnreadable(f"link inode {inode.number} is encrypted, which cannot be read exactly")
    if inode.size > MAX_LINK_BYTES or not inode.size:
        raise DiskUnreadable(f"link inode {inode.number} has a target of {inode.size} bytes")
    if inode.size < len(inode.map) and not inode.flags & FLAG_INLINE:
        target = inode.map[: inode.size]
    else:
        target = read_file(fs, inode, MAX_LINK_BYTES)
    if b"\0" in target:
        raise DiskUnreadable(f"link inode {inode.number} has a target that no link can have")
    return target


def chunks(fs: Ext4, inode: Inode) -> Iterator[bytes]:
    """The content in pieces of up to 1 MiB, holes as zeros, cut at the size."""
    if inode.flags & FLAG_ENCRYPTED:
        raise DiskUnreadable(f"file inode {inode.number} is encrypted, which cannot be read exactly")
    if inode.flags & FLAG_INLINE:
        data = inline_data(fs, inode)[: inode.size]
        if len(data) != inode.size:
            raise DiskUnreadable(f"file inode {inode.number} has {len(data)} of {inode.size} bytes")
        yield data
        return
    at, size = 0, fs.block_size
    for logical, physical, count, written in fs.extents(inode):
        start = logical * size
        if start >= inode.size:
            break
        yield from _zeros(start - at)
        end = min(start + count * size, inode.size)
        at = end
        if not written:
            yield from _zeros(end - start)
            continue
        step = READ_BYTES // size
        for first in range(0, count, step):
            data = fs.run(physical + first, min(step, count - first))
            left = end - start - first * size
            if left <= 0:
                break
            yield data[:left]
    yield from _zeros(inode.size - at)


def _zeros(count: int) -> Iterator[bytes]:
    block = bytes(min(count, READ_BYTES)) if count > 0 else b""
    while count > 0:
        yield block[:count]
        count -= len(block)


def read_file(fs: Ext4, inode: Inode, limit_bytes: int) -> bytes:
    """The whole content. Raises :class:`DiskUnreadable` when it is longer than ``limit_bytes``."""
    if inode.size > limit_bytes:
        raise DiskUnreadable(f"inode {inode.number} has {inode.size} bytes, the limit is {limit_bytes}")
    return b"".join(chunks(fs, inode))
