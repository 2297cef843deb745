"""One request carried out: the head and body up, the answer down, every byte counted.

A body is passed on as it comes, framing untouched; its end is found, never guessed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from backend.egress._http import ChunkedEnd, Malformed, RequestHead, parse_response
from backend.egress._meter import Meter
from backend.egress._streams import READ_BYTES, Side
from backend.egress.policy import Refusal
from backend.models import now

TUNNEL_IDLE_S = 300.0
INTERIM_MAX = 8  # 1xx answers before the final one
_PHRASES = {
    400: "Bad Request",
    403: "Forbidden by Fluid",
    429: "Too Many Connections",
    502: "Bad Gateway",
    504: "Gateway Timeout",
}


class Stale(Exception):
    """A kept connection had been closed by the origin; nothing was answered, so the request may go again."""


_PassOn = Callable[[bytes], Awaitable[None]]


@dataclass
class Upstream:
    """A connection towards an origin; ``proxied`` when another proxy is in between."""

    side: Side
    origin: tuple[str, int]
    proxied: bool
    reused: bool = False


@dataclass
class Exchange:
    """What is known of one request; ``status`` stays 0 until an answer went to the guest."""

    client: str
    method: str
    host: str
    port: int
    up: int = 0
    down: int = 0
    status: int = 0
    reason: str = ""
    spoiled: bool = False  # the connection to the origin cannot carry another request
    started_at: datetime = field(default_factory=now)
    _active_at: float = 0.0

    async def run(self, head: RequestHead, guest: Side, upstream: Upstream, meter: Meter) -> bool:
        """Carry ``head`` out; whether the guest may send another request.

        Raises:
            Exhausted: the sandbox's bytes are used up.
            Malformed: the origin's answer is not HTTP/1.
            Stale: the kept connection was dead; send the request again over a fresh one.
        """
        self.spoiled = True
        if head.method == "CONNECT":
            await self._tunnel(head, guest, upstream, meter)
            return False
        try:
            await self._request(head, guest, upstream, meter)
            first = await upstream.side.head()
        except ConnectionError as error:
            if upstream.reused and head.body == 0:
                raise Stale from error
            raise
        if not first and upstream.reused and head.body == 0:
            raise Stale
        return await self._response(first, head, guest, upstream, meter)

    async def _request(self, head: RequestHead, guest: Side, upstream: Upstream, meter: Meter) -> None:
        if head.expects_continue and head.body != 0:
            await guest.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await self._send_up(head.for_origin(absolute=upstream.proxied), upstream.side, meter)
        await self._body(head.body, guest, lambda data: self._send_up(data, upstream.side, meter))

    async def _response(
        self, raw: bytes, head: RequestHead, guest: Side, upstream: Upstream, meter: Meter
    ) -> bool:
        response = parse_response(raw, method=head.method)
        interim = 0
        while response.status < 200:
            interim += 1
            if interim > INTERIM_MAX or response.status == 101:
                raise Malformed("the server's answer does not come to an end")
            response = parse_response(await upstream.side.head(), method=head.method)
        keep = head.keep_alive and response.body != -1
        self.status = response.status
        await self._send_down(response.for_client(keep_alive=keep), guest, meter)
        await self._body(response.body, upstream.side, lambda data: self._send_down(data, guest, meter))
        self.spoiled = not response.keep_alive
        return keep

    async def _body(self, length: int | None, source: Side, pass_on: _PassOn) -> None:
        """Pass on a body of ``length`` bytes, a chunked one (None) or all there is (-1)."""
        if length is None:
            await self._chunked(source, pass_on)
            return
        left = length
        while left != 0:
            data = await source.some(READ_BYTES if left < 0 else min(left, READ_BYTES))
            if not data:
                if left > 0:
                    raise EOFError
                return
            await pass_on(data)
            left -= len(data) if left > 0 else 0

    async def _chunked(self, source: Side, pass_on: _PassOn) -> None:
        end = ChunkedEnd()
        while not end.done:
            data = await source.some()
            if not data:
                raise EOFError
            size = end.feed(data)
            source.unread(data[size:])
            await pass_on(data[:size])

    async def _tunnel(self, head: RequestHead, guest: Side, upstream: Upstream, meter: Meter) -> None:
        if upstream.proxied:
            await upstream.side.send(_connect_line(head))
            answer = parse_response(await upstream.side.head(), method="CONNECT")
            if answer.status != 200:
                raise Malformed(f"the upstream proxy answered {answer.status}")
        self.status = 200
        await guest.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self._active_at = asyncio.get_running_loop().time()
        pumps = [
            asyncio.create_task(
                self._pump(guest, upstream.side, lambda data: self._send_up(data, upstream.side, meter))
            ),
            asyncio.create_task(
                self._pump(upstream.side, guest, lambda data: self._send_down(data, guest, meter))
            ),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for pump in pumps:
                pump.cancel()
            results = await asyncio.gather(*pumps, return_exceptions=True)
        error = next((r for r in results if isinstance(r, Exception)), None)
        if error is not None:
            raise error

    async def _pump(self, source: Side, sink: Side, pass_on: _PassOn) -> None:
        """One direction until its end; silence counts only when the other direction is silent as well."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await source.some(idle_s=TUNNEL_IDLE_S)
            except TimeoutError:
                if loop.time() - self._active_at >= TUNNEL_IDLE_S:
                    raise
                continue
            if not data:
                with suppress(OSError):
                    sink.end()
                return
            self._active_at = loop.time()
            await pass_on(data)

    async def _send_up(self, data: bytes, side: Side, meter: Meter) -> None:
        await meter.spend(len(data))
        self.up += len(data)
        await side.send(data)

    async def _send_down(self, data: bytes, side: Side, meter: Meter) -> None:
        await meter.spend(len(data))
        self.down += len(data)
        await side.send(data)


def refusal_answer(refusal: Refusal, *, keep_alive: bool, bodiless: bool = False) -> bytes:
    """The answer that tells a guest why; the rule also stands in the first line, which apt prints."""
    body = f"{refusal.message} (rule {refusal.rule})\n".encode()
    phrase = _PHRASES.get(refusal.status, "Refused")
    head = (
        f"HTTP/1.1 {refusal.status} {phrase}: rule {refusal.rule}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    ).encode()
    return head if bodiless else head + body


def _connect_line(head: RequestHead) -> bytes:
    host = f"[{head.host}]" if ":" in head.host else head.host
    return f"CONNECT {host}:{head.port} HTTP/1.1\r\nHost: {host}:{head.port}\r\n\r\n".encode()
