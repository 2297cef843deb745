"""A disk that lies on another host, looked into from here: what is read of it is brought, and no more."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path

from backend.disks import PAGE_BYTES
from backend.errors import DiskUnreadable
from backend.hypervisor import Hypervisor


@dataclass
class _File:
    path: Path
    size: int
    there: set[int] = field(default_factory=set)


class FarDisk:
    """Brings at most ``limit_bytes`` of the files of ``machine``'s host."""

    def __init__(self, machine: Hypervisor, limit_bytes: int) -> None:
        self._machine = machine
        self._left_bytes = limit_bytes
        self._files: dict[Path, _File] = {}

    async def stand_for(self, path: Path, into: Path) -> None:
        """Make ``into`` a file as long as ``path`` of that host, with its first page in it.

        Raises:
            ImageRefused: it is in no pool of that host's. DiskUnreadable: no file here can be as long.
        """
        size = await self._machine.source_file_bytes(path)
        await asyncio.to_thread(_make_hole, into, size)
        self._files[into] = _File(path, size)
        await self.bring(into, 0)

    async def bring(self, layer: Path, page: int) -> bool:
        """See :class:`backend.disks.paged.Pages`. Raises what libvirt's failures are."""
        file, offset = self._files[layer], page * PAGE_BYTES
        if page in file.there:
            return True
        length = min(PAGE_BYTES, file.size - offset)
        if length <= 0:
            raise DiskUnreadable(f"page {page} is beyond the end of {file.path}")
        if length > self._left_bytes:
            return False
        data = await self._machine.read_source_file(file.path, offset, length)
        await asyncio.to_thread(_fill, layer, offset, data)
        self._left_bytes -= length
        file.there.add(page)
        return True


def _make_hole(file: Path, size: int) -> None:
    file.touch(mode=0o600, exist_ok=False)
    try:
        os.truncate(file, size)
    except (OSError, OverflowError) as error:
        raise DiskUnreadable(f"a file of {size >> 30} GB cannot be looked into from here") from error


def _fill(file: Path, offset: int, data: bytes) -> None:
    with file.open("r+b") as target:
        target.seek(offset)
        target.write(data)
