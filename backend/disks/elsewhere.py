"""What of a machine lies on other partitions than the one that is read, so that nothing of it is in any diff.

Which mount point a partition has is the word of /etc/fstab: it names it by number, or by an identity that the
partition table or a file system's own head holds. Sources: fstab(5), and the heads of ext4, XFS and Btrfs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from backend.disks.contents import read_whole
from backend.disks.ext4 import Ext4
from backend.disks.layers import Disk
from backend.disks.partitions import Partition, partitions

FSTAB = b"/etc/fstab"
FSTAB_BYTES = 256 << 10
TOLD_MAX = 32
DATA, BOOT, SWAP = "data", "boot", "swap"
_BOOT_POINTS = (b"/boot", b"/boot/efi", b"/efi")
_OCTAL = re.compile(rb"\\([0-7]{3})")
_NUMBER = re.compile(rb"/dev/(?:[a-z]+|[a-z0-9]+[0-9]p)([0-9]{1,3})")
_TAG = re.compile(rb"(UUID|PARTUUID|LABEL)=\"?([^\"]+)\"?")
_EXT4_AT, _BTRFS_AT = 1024, 65536


@dataclass(frozen=True)
class Elsewhere:
    """A partition that is not read. ``points``: where fstab mounts it; ``role``: ``data``, ``boot`` or
    ``swap``."""

    number: int
    size: int
    role: str
    points: tuple[bytes, ...]


def elsewhere(fs: Ext4) -> list[Elsewhere]:
    """The other partitions of the disk of ``fs``."""
    others = [one for one in partitions(fs.disk) if one.offset != fs.offset]
    if not others:
        return []
    rows = list(_mounts(read_whole(fs, FSTAB, FSTAB_BYTES) or b""))
    found = []
    for one in others[:TOLD_MAX]:
        names = _names(fs.disk, one)
        mine = [(point, kind) for device, point, kind in rows if _identity(device) in names]
        role = one.role
        if any(kind == b"swap" for _, kind in mine) or _at(fs.disk, one, 4086, 10) == b"SWAPSPACE2":
            role = SWAP
        elif any(point in _BOOT_POINTS for point, _ in mine):
            role = BOOT
        elif mine:
            role = DATA
        points = tuple(point for point, kind in mine if kind != b"swap")
        found.append(Elsewhere(one.number, one.length, role, points))
    return found


def _mounts(fstab: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Device, mount point and type of each row."""
    for line in fstab.split(b"\n"):
        words = [_OCTAL.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), word) for word in line.split()]
        if len(words) > 2 and not words[0].startswith(b"#"):
            yield words[0], words[1], words[2]


def _identity(device: bytes) -> tuple[str, bytes]:
    """How fstab names a device, in one form; an empty one where it is none of a partition."""
    if match := _TAG.fullmatch(device):
        return match[1].decode(), match[2] if match[1] == b"LABEL" else match[2].lower()
    match = _NUMBER.fullmatch(device)
    return ("number", match[1]) if match else ("", b"")


def _names(disk: Disk, one: Partition) -> set[tuple[str, bytes]]:
    """What fstab may call a partition."""
    found = {("number", b"%d" % one.number), ("PARTUUID", one.identity)}
    ext4 = _at(disk, one, _EXT4_AT, 256)
    btrfs = _at(disk, one, _BTRFS_AT, 0x240)
    if ext4[56:58] == b"\x53\xef":
        found |= {("UUID", _uuid(ext4[104:120])), ("LABEL", ext4[120:136].rstrip(b"\0"))}
    elif (xfs := _at(disk, one, 0, 120))[:4] == b"XFSB":
        found |= {("UUID", _uuid(xfs[32:48])), ("LABEL", xfs[108:120].rstrip(b"\0"))}
    elif btrfs[64:72] == b"_BHRfS_M":
        found |= {("UUID", _uuid(btrfs[32:48])), ("LABEL", btrfs[0x12B:0x22B].partition(b"\0")[0])}
    return found


def _uuid(raw: bytes) -> bytes:
    return str(UUID(bytes=raw)).encode()


def _at(disk: Disk, one: Partition, at: int, count: int) -> bytes:
    """Bytes of a partition; none where they are beyond its end or the disk's."""
    if at + count > one.length or one.offset + at + count > disk.size:
        return b""
    return disk.read(one.offset + at, count)
