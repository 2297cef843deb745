"""The two sides of a proxied connection: any transport that reads, writes and drains."""

from __future__ import annotations

import asyncio
from typing import Protocol

from backend.egress._http import HEAD_MAX_BYTES, Malformed

READ_BYTES = 65_536
HEAD_END = b"\r\n\r\n"
IDLE_S = 60.0  # between two requests, and for each read and write within one
HEAD_S = 10.0  # from a head's first byte to its last: a slow writer is cut off


class Reader(Protocol):
    """asyncio's or asyncssh's."""

    async def read(self, n: int = -1, /) -> bytes: ...


class Writer(Protocol):
    """asyncio's or asyncssh's."""

    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...


class Side:
    """One side, buffered, with a time limit on every wait."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()

    async def head(self) -> bytes:
        """The next head with its empty line; empty at the end of the stream.

        Raises:
            Malformed: too long.
            TimeoutError: nothing came, or it came too slowly.
        """
        if not self._buffer:
            async with asyncio.timeout(IDLE_S):
                self._buffer += await self._reader.read(READ_BYTES)
        async with asyncio.timeout(HEAD_S):
            seen = 0
            while (end := self._buffer.find(HEAD_END, max(0, seen - len(HEAD_END)))) < 0:
                seen = len(self._buffer)
                if seen > HEAD_MAX_BYTES:
                    break
                data = await self._reader.read(READ_BYTES)
                if not data:
                    if self._buffer:
                        raise Malformed("the head ends early")
                    return b""
                self._buffer += data
        if end < 0 or end > HEAD_MAX_BYTES:
            raise Malformed(f"a head over {HEAD_MAX_BYTES} bytes")
        return self._cut(end + len(HEAD_END))

    async def some(self, limit: int = READ_BYTES, *, idle_s: float = IDLE_S) -> bytes:
        """Up to ``limit`` bytes; empty at the end of the stream."""
        if self._buffer:
            return self._cut(min(limit, len(self._buffer)))
        async with asyncio.timeout(idle_s):
            return await self._reader.read(min(limit, READ_BYTES))

    def unread(self, data: bytes) -> None:
        """Put back what belongs to the next message."""
        self._buffer[:0] = data

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(IDLE_S):
            await self._writer.drain()

    def end(self) -> None:
        """No more will be written."""
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    def _cut(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data
