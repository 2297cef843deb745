"""Waiting for a file to change, by inotify(7): the kernel tells, nobody polls.

A writer that is killed closes its files, which is an event too: that is how a lost run is noticed.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from pathlib import Path
from types import TracebackType

IN_MODIFY, IN_CLOSE_WRITE, IN_MOVED_TO, IN_CREATE = 0x2, 0x8, 0x80, 0x100
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_BUFFER = 65_536


class Watch:
    """``async with Watch(folder) as watch: await watch.changed()``. Changes between calls are not missed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = -1
        self._event = asyncio.Event()

    async def __aenter__(self) -> Watch:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(_FLAGS)
        mask = IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(self._folder), mask) < 0:
            error = ctypes.get_errno()
            self._close()
            raise OSError(error, os.strerror(error), str(self._folder))
        asyncio.get_running_loop().add_reader(self._fd, self._drain)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        self._close()

    async def changed(self) -> None:
        """Return once something has changed since the last call."""
        await self._event.wait()
        self._event.clear()

    def _drain(self) -> None:
        try:
            os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return
        self._event.set()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
