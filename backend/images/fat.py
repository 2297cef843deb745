"""Writes a small FAT16 image with files in its root folder: what cloud-init's NoCloud reads a seed from.

Source: Microsoft's FAT specification of 2000 (fatgen103). Long names stand beside generated short ones.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from backend.errors import TooLarge

SECTOR_BYTES = 512  # and a cluster is one sector
SECTORS = 8192
RESERVED_SECTORS, FATS, FAT_SECTORS = 1, 2, 32
ROOT_ENTRIES = 64
ENTRY_BYTES = 32
MEDIA = 0xF8
LAST_CLUSTER = 0xFFFF
_VOLUME, _ARCHIVE, _LONG_NAME = 0x08, 0x20, 0x0F
_LAST_LONG = 0x40
_LONG_CHARS = 13
_DATE_1980 = 0x21  # the first day that the format knows


def image(label: str, files: Mapping[str, bytes]) -> bytes:
    """The whole image. ``label``: up to 11 ASCII characters.

    Raises:
        TooLarge: more than four megabytes, or too many names.
    """
    fat = [MEDIA | 0xFF00, LAST_CLUSTER]
    folder = _entry(label.encode().ljust(11), _VOLUME, 0, 0)
    data = b""
    for number, (name, content) in enumerate(files.items()):
        first, count = len(fat), -(-len(content) // SECTOR_BYTES)
        fat += [*range(first + 1, first + count), LAST_CLUSTER] if count else []
        short = f"FILE{number:04}".encode() + b"   "
        folder += _long_name(name, short) + _entry(short, _ARCHIVE, first if count else 0, len(content))
        data += content.ljust(count * SECTOR_BYTES, b"\0")
    table = struct.pack(f"<{len(fat)}H", *fat)
    room = SECTORS - RESERVED_SECTORS - FATS * FAT_SECTORS - ROOT_ENTRIES * ENTRY_BYTES // SECTOR_BYTES
    if len(data) > room * SECTOR_BYTES or len(folder) > ROOT_ENTRIES * ENTRY_BYTES:
        raise TooLarge("the seed of an image is too large", remedy="make the guest's payload smaller")
    parts = _boot_sector(label), *[table.ljust(FAT_SECTORS * SECTOR_BYTES, b"\0")] * FATS
    head = b"".join(parts) + folder.ljust(ROOT_ENTRIES * ENTRY_BYTES, b"\0")
    return (head + data).ljust(SECTORS * SECTOR_BYTES, b"\0")


def _boot_sector(label: str) -> bytes:
    """BIOS parameter block; nothing boots from it."""
    block = struct.pack(
        "<3s8sHBHBHHBHHHII",
        b"\xeb\x3c\x90",
        b"fluid   ",
        SECTOR_BYTES,
        1,
        RESERVED_SECTORS,
        FATS,
        ROOT_ENTRIES,
        SECTORS,
        MEDIA,
        FAT_SECTORS,
        32,  # sectors a track, heads: for a BIOS that nobody asks
        64,
        0,
        0,
    )
    extended = struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 0, label.encode().ljust(11), b"FAT16   ")
    return (block + extended).ljust(SECTOR_BYTES - 2, b"\0") + b"\x55\xaa"


def _entry(name: bytes, attributes: int, first: int, size: int) -> bytes:
    return struct.pack(
        "<11sBBBHHHHHHHI", name, attributes, 0, 0, 0, _DATE_1980, _DATE_1980, 0, 0, _DATE_1980, first, size
    )


def _long_name(name: str, short: bytes) -> bytes:
    """The entries before the short one, the end of the name first."""
    units = name.encode("utf-16-le")
    pieces = [units[at : at + _LONG_CHARS * 2] for at in range(0, len(units), _LONG_CHARS * 2)]
    check = 0
    for byte in short:
        check = ((check & 1) << 7 | check >> 1) + byte & 0xFF
    entries = []
    for number, piece in enumerate(pieces, start=1):
        whole = piece if len(piece) == _LONG_CHARS * 2 else (piece + b"\0\0").ljust(_LONG_CHARS * 2, b"\xff")
        order = number | (_LAST_LONG if number == len(pieces) else 0)
        entries.append(
            struct.pack(
                "<B10sBBB12sH4s", order, whole[:10], _LONG_NAME, 0, check, whole[10:22], 0, whole[22:]
            )
        )
    return b"".join(reversed(entries))
