"""Waiting for a folder to change or a process to end, by inotify(7) and a pidfd: nobody polls."""

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
    """``async with Watch(folder, process) as watch: await watch.changed()``. Nothing between calls is missed.

    ``process`` is a pidfd, and closed at the end."""

    def __init__(self, folder: Path, process: int) -> None:
        self._folder = folder
        self._process = process
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
        loop = asyncio.get_running_loop()
        loop.add_reader(self._fd, self._drain)
        loop.add_reader(self._process, self._ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._fd)
        loop.remove_reader(self._process)
        self._close()

    async def changed(self) -> None:
        """Return once something has changed, or the process has ended, since the last call."""
        await self._event.wait()
        self._event.clear()

    def _drain(self) -> None:
        try:
            os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return
        self._event.set()

    def _ended(self) -> None:
        """A process tells its end after its files are closed and its locks are free."""
        asyncio.get_running_loop().remove_reader(self._process)
        self._event.set()

    def _close(self) -> None:
        for fd in (self._fd, self._process):
            if fd >= 0:
                os.close(fd)
        self._fd = self._process = -1
