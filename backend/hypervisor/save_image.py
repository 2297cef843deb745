"""libvirt's save image: read its header, and write another domain's XML into it.

Not an API: the layout is that of ``struct _virQEMUSaveHeader`` (libvirt, src/qemu/qemu_saveimage.h),
version 2, and is refused when it is anything else. The memory behind the header is never interpreted.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from backend.errors import HypervisorFailed

MAGIC = b"LibvirtQemudSave"
VERSION = 2
# magic, version, data_len, was_running, compressed, cookieOffset, 14 spare words
HEADER = struct.Struct("<16s5I56x")
XML_BYTES_MAX = 1 << 20
RAW = 0  # enum virQEMUSaveFormat
COPY_CHUNK = 1 << 30


@dataclass(frozen=True)
class SaveHeader:
    """What precedes the memory. ``data_len`` is the room for XML and cookie, both NUL-terminated."""

    data_len: int
    was_running: int
    compressed: int
    xml: bytes
    cookie: bytes

    @property
    def memory_offset(self) -> int:
        """Where QEMU's migration stream begins, in bytes."""
        return HEADER.size + self.data_len


def broken(name: str, why: str) -> HypervisorFailed:
    return HypervisorFailed(
        f"{name} is not a save image that this program knows: {why}",
        remedy="remove the template folder and let it be built again, or boot cold",
    )


def read_header(path: Path) -> SaveHeader:
    """Parse and check the header of a raw save image; HypervisorFailed when it is strange."""
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        return parse_header(head + file.read(header_bytes(head, path.name) - HEADER.size), path.name)


def header_bytes(head: bytes, name: str) -> int:
    """How long the header is that begins with ``head``: where QEMU's migration stream begins."""
    return HEADER.size + _fixed(head, name)[0]


def parse_header(data: bytes, name: str) -> SaveHeader:
    """The header from the first bytes of a save image, :func:`header_bytes` of them at least."""
    data_len, was_running, compressed, cookie_offset = _fixed(data, name)
    data = data[HEADER.size : HEADER.size + data_len]
    if len(data) < data_len:
        raise broken(name, "cut inside its XML")
    xml, end, _ = data[: cookie_offset or None].partition(b"\0")
    if not end or not xml:
        raise broken(name, "XML without an end")
    cookie = data[cookie_offset:].partition(b"\0")[0] if cookie_offset else b""
    return SaveHeader(data_len, was_running, compressed, xml, cookie)


def _fixed(head: bytes, name: str) -> tuple[int, int, int, int]:
    """data_len, was_running, compressed and cookieOffset, checked."""
    if len(head) < HEADER.size:
        raise broken(name, "shorter than a header")
    magic, version, data_len, was_running, compressed, cookie_offset = HEADER.unpack_from(head)
    if magic != MAGIC:
        raise broken(name, f"magic {magic!r}")
    if version != VERSION:
        raise broken(name, f"version {version}")
    if compressed != RAW:
        raise broken(name, f"compression {compressed}")
    if not 0 < data_len <= XML_BYTES_MAX or cookie_offset >= data_len:
        raise broken(name, f"lengths {data_len} and {cookie_offset}")
    return data_len, was_running, compressed, cookie_offset


def pack_header(header: SaveHeader, xml: bytes) -> bytes:
    """The same header around another XML, exactly as long: the memory keeps its place."""
    data = xml + b"\0"
    cookie_offset = 0
    if header.cookie:
        cookie_offset = len(data)
        data += header.cookie + b"\0"
    if len(data) > header.data_len:
        raise HypervisorFailed(
            f"the domain's XML needs {len(data)} bytes and the save image has room for {header.data_len}",
            remedy="shorten labels and paths, or boot cold",
        )
    fixed = HEADER.pack(MAGIC, VERSION, header.data_len, header.was_running, header.compressed, cookie_offset)
    return fixed + data.ljust(header.data_len, b"\0")


def copy_with_xml(source: Path, target: Path, xml: bytes) -> None:
    """Copy a save image with another domain's XML in it (shared blocks where the file system can)."""
    copy_bytes(source, target, pack_header(read_header(source), xml))


def copy_bytes(source: Path, target: Path, head: bytes = b"") -> None:
    """Copy a file (shared blocks where the file system can) with other first bytes."""
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with source.open("rb") as reader, os.fdopen(descriptor, "r+b") as writer:
        while os.copy_file_range(reader.fileno(), writer.fileno(), COPY_CHUNK):
            pass
        writer.seek(0)
        writer.write(head)
