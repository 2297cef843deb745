"""Where a worker asks its parent for the pages of layers that are not all here."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path

from backend.disks.paged import ASK, NO_MORE, THERE, Pages
from backend.errors import DiskUnreadable


class Door:
    """For one worker, which has the end ``theirs``."""

    def __init__(self, layers: Sequence[Path], pages: Pages) -> None:
        self._layers, self._pages = layers, pages
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)

    async def answer(self) -> None:
        """From the worker's start until its end. One that a guest took over is believed no more than a disk:
        it is given pages of its own layers, or ended.

        Raises:
            DiskUnreadable: it asked for what there is not. What ``pages`` raises.
        """
        self.theirs.close()  # the worker's own is the last: when it ends, nobody asks
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while ask := await loop.sock_recv(self._ours, ASK.size):
                there = await self._bring(ask)
                await loop.sock_sendall(self._ours, THERE if there else NO_MORE)

    async def _bring(self, ask: bytes) -> bool:
        place, page = ASK.unpack(ask) if len(ask) == ASK.size else (len(self._layers), 0)
        if place >= len(self._layers):
            raise DiskUnreadable("the disk reader asked for a layer that there is not")
        return await self._pages.bring(self._layers[place], page)

    def close(self) -> None:
        self._ours.close()
        self.theirs.close()
