"""An agent's terminal, typed into: one connection of its own, bytes one way and events the other.

HTTP libraries send a whole body before they read an answer, so this speaks HTTP/1.1 itself (RFC 9112): the
body goes in chunks for as long as it lasts, while the answer's chunks are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from backend.client.answers import cut_off, denied, down, error_of, parse, raise_if_error
from backend.client.call import QUICK_S, Call, noun
from backend.client.door import DoorAddress
from backend.client.sse import Frame, Parser

if TYPE_CHECKING:
    from backend.models import TakeOverEnd

CONNECT_S = 5.0
QUIET_S = 60.0
"""The backend beats every 15 s: a stream that is silent for longer is dead."""
HEAD_BYTES = 65_536
OK = 200


class TakenPane:
    """``type`` bytes as a terminal sends them; ``hand_back``; ``over`` waits for the end."""

    def __init__(
        self, address: DoorAddress, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._address = address
        self._reader = reader
        self._writer = writer
        self._events = self._read()

    async def type(self, data: bytes) -> None:
        """Raises :class:`backend.errors.BackendDown`."""
        if data:
            await self._send(b"%x\r\n%b\r\n" % (len(data), data))

    async def hand_back(self) -> None:
        """The end follows, once all that was typed has been."""
        await self._send(b"0\r\n\r\n")

    async def over(self) -> TakeOverEnd:
        """Why it ended. Raises BackendDown when nobody says so: then too the agent has its terminal back."""
        frame = await self._until("ended")
        end: TakeOverEnd = noun("TakeOverEnd")(frame.json())
        return end

    async def begin(self, head: bytes) -> None:
        """Returns once the pane is taken; raises what stands in the way."""
        await self._send(head)
        await _accepted(self._reader)
        await self._until("taken")

    async def _until(self, event: str) -> Frame:
        async for frame in self._events:
            raise_if_error(frame)
            if frame.event == event:
                return frame
        raise cut_off()

    async def _read(self) -> AsyncIterator[Frame]:
        parser = Parser()
        async for chunk in self._chunks():
            for frame in parser.feed(chunk):
                yield frame

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            while True:
                async with asyncio.timeout(QUIET_S):
                    size = int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16)
                    data = await self._reader.readexactly(size + 2)
                if not size:
                    return
                yield data[:-2]
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError) as error:
            raise cut_off() from error

    async def _send(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise down(self._address, str(error)) from error


@asynccontextmanager
async def taken_pane(address: DoorAddress, call: Call[None]) -> AsyncIterator[TakenPane]:
    """The pane is ours until the block ends; a connection that breaks hands it back too.

    Raises:
        BackendDown, and what the backend answers: PaneTaken, PaneNotFound, RoleDenied …
    """
    reader, writer = await _connect(address)
    pane = TakenPane(address, reader, writer)
    try:
        head = [
            f"{call.method} {address.base}{call.target} HTTP/1.1",
            f"Host: {address.authority}",
            "Content-Type: application/octet-stream",
            "Transfer-Encoding: chunked",
        ]
        try:
            async with asyncio.timeout(QUICK_S):
                await pane.begin("\r\n".join([*head, "", ""]).encode("ascii"))
        except TimeoutError as error:
            raise cut_off() from error
        yield pane
    finally:
        writer.close()


async def _connect(address: DoorAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(CONNECT_S):
            if address.socket:
                return await asyncio.open_unix_connection(address.socket, limit=HEAD_BYTES)
            return await asyncio.open_connection(address.host, address.port, limit=HEAD_BYTES)
    except PermissionError as error:
        raise denied(address) from error
    except (OSError, TimeoutError) as error:
        raise down(address, str(error) or type(error).__name__) from error


async def _accepted(reader: asyncio.StreamReader) -> None:
    """Past the head of an answer that goes on; another one is raised as the error that it is."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split()[1])
        if status == OK:
            return
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        body = await reader.readexactly(int(fields.get("content-length", "0")))
    except (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError) as error:
        raise cut_off() from error
    raise error_of(status, parse(body))
