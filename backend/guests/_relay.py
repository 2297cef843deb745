"""Bytes both ways between a caller on this machine and a channel of a host's SSH connection.

The listener outlives the connection: each caller is led through whichever connection is live when it calls.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import asyncssh

from backend.errors import FluidError

CHUNK_BYTES = 64 * 1024
LOOPBACK = "127.0.0.1"
SOCKET_MODE = 0o600
FOLDER_MODE = 0o700
PATH_MAX_BYTES = 107  # sockaddr_un(7)

Streams: TypeAlias = "tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]"
Dial = Callable[[], Awaitable[Streams]]

log = logging.getLogger(__name__)


class Relay:
    """A listening socket of ours; ``dial`` opens the far side for each caller."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._server: asyncio.Server | None = None
        self._calls: set[asyncio.Task[Any]] = set()

    async def listen_at(self, path: Path) -> None:
        """Listen on a Unix socket that only our own user can open, in a folder that only it can enter."""
        listener = _bound(path)
        try:
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=CHUNK_BYTES)
        except BaseException:
            listener.close()
            raise

    async def listen_on_loopback(self) -> int:
        """Listen on a free port of 127.0.0.1, which every user of this machine can call."""
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0, limit=CHUNK_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no longer, and hang up on everybody."""
        if self._server is not None:
            self._server.close()
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if call := asyncio.current_task():
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        try:
            far_reader, far_writer = await self._dial()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, far_writer))
                    group.create_task(_pump(far_reader, writer))
            finally:
                far_writer.close()
        except* FluidError as errors:
            log.debug("a caller is turned away: %s", errors.exceptions[0])
        except* (OSError, asyncssh.Error):
            pass  # one side hung up: the other is told by the closing below
        finally:
            writer.close()


def _bound(path: Path) -> socket.socket:
    path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    path.parent.chmod(FOLDER_MODE)
    path.unlink(missing_ok=True)  # of a backend that was killed
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(SOCKET_MODE)
    except BaseException:
        listener.close()
        raise
    return listener


async def _pump(
    reader: asyncio.StreamReader | asyncssh.SSHReader[bytes],
    writer: asyncio.StreamWriter | asyncssh.SSHWriter[bytes],
) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    with suppress(OSError):  # the other side closed first
        writer.write_eof()
