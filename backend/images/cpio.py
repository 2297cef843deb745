"""Writes cpio archives in the "newc" format that the kernel unpacks as its initial RAM disk.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. Owners are always root.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

MAGIC = "070701"
TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Member:
    """A file of the archive: ``mode`` holds type and permissions, ``data`` a link's target."""

    name: str
    mode: int
    data: bytes = b""


def folder(name: str) -> Member:
    return Member(name, stat.S_IFDIR | 0o755)


def link(name: str, target: str) -> Member:
    return Member(name, stat.S_IFLNK | 0o777, target.encode())


def program(name: str, data: bytes) -> Member:
    return Member(name, stat.S_IFREG | 0o755, data)


def archive(members: Iterable[Member]) -> bytes:
    """The whole archive, uncompressed: under emulation unpacking costs more than reading."""
    out = bytearray()
    for number, member in enumerate([*members, Member(TRAILER, 0)], start=1):
        name = member.name.encode() + b"\0"
        fields = (number, member.mode, 0, 0, 1, 0, len(member.data), 0, 0, 0, 0, len(name), 0)
        out += MAGIC.encode() + b"".join(b"%08x" % value for value in fields) + name
        out += b"\0" * (-len(out) % 4) + member.data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)
