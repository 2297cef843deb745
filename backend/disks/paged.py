"""Files of another machine that are brought here page by page, when they are first read.

Each is a file with holes. The worker asks its parent at a door, a socket, for a page that it has not seen,
and reads on once that lies in the file. It needs no more rights for that, and names no file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from backend.errors import DiskUnreadable

PAGE_BYTES = 1 << 20  # a survey of 8 GiB with 130,000 names asks for 105 pages, and 64 KiB ones 1,539 times
ASK = struct.Struct("<IQ")  # the layer's place in its chain, and a page of it
THERE, NO_MORE = b"\1", b"\0"

Pread = Callable[[int, int], bytes]
"""As :func:`os.pread` of an open file: length, offset."""


class Pages(Protocol):
    """The parent's part."""

    async def bring(self, layer: Path, page: int) -> bool:
        """See that a page of ``PAGE_BYTES`` lies in the file ``layer``; False where that would be more than
        may be brought. Raises what ends the reading."""
        ...


class NoMorePages(DiskUnreadable):
    """What may be brought of a disk was brought."""


class Paged:
    """The worker's part, for the layer at ``place`` of its chain."""

    def __init__(self, fd: int, place: int, door: int) -> None:
        self._fd, self._place, self._door = fd, place, door
        self._size = os.fstat(fd).st_size
        self._there: set[int] = set()

    def pread(self, length: int, offset: int) -> bytes:
        """Raises :class:`NoMorePages`."""
        for page in range(offset // PAGE_BYTES, -(-min(offset + length, self._size) // PAGE_BYTES)):
            if page not in self._there:
                self._ask(page)
        return os.pread(self._fd, length, offset)

    def _ask(self, page: int) -> None:
        os.write(self._door, ASK.pack(self._place, page))
        if os.read(self._door, 1) != THERE:
            raise NoMorePages("more of the disk would have to be brought here than may be")
        self._there.add(page)
