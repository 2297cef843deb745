"""Talk to the daemon inside a guest over its virtio-serial port (virDomainOpenChannel; remote hosts too).

The guest is hostile: a line is cut at a limit, what is no JSON object is dropped, every wait has an end, and
an answer is a hint. Only SSH meeting the right host key proves an identity.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from typing import Any

import libvirt

from backend.errors import GuestDown, TimedOut
from backend.hypervisor.connection import Connection

PORT_NAME = "org.fluid.guest.0"
LINE_BYTES_MAX = 65_536
BYTES_MAX = 1 << 20  # of one conversation
READ_BYTES = 65_536
RESEND_S = 2.0  # a booting guest's port may lose what was written before it was opened
WOULD_BLOCK = -2  # virStreamRecv, virStreamSend
READABLE = (
    libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
)

_ids = itertools.count(1)


async def ask(
    connection: Connection,
    domain: str,
    operation: str,
    *,
    limit_s: float,
    resend: bool = False,
    **values: Any,
) -> dict[str, Any]:
    """Send one request and return the guest's reply.

    ``resend`` repeats the request while the guest boots; only for operations that may run twice. Raises
    TimedOut after ``limit_s``, GuestDown when the channel ends or the guest refuses.
    """
    number = next(_ids)
    request = json.dumps({"id": number, "op": operation, **values}).encode() + b"\n"
    try:
        async with asyncio.timeout(limit_s), _Conversation(connection, domain) as talk:
            reply = await talk.request(request, number, RESEND_S if resend else None)
    except TimeoutError:
        raise TimedOut(
            f"the guest of {domain} did not answer {operation!r} within {limit_s:g} s",
            remedy="look at its console, or destroy it",
        ) from None
    if reply.get("ok") is not True:
        raise GuestDown(
            f"the guest of {domain} refused {operation!r}: {str(reply.get('error'))[:200]}",
            remedy="look at its console, or destroy it",
        )
    return reply


def parse(line: bytes) -> dict[str, Any] | None:
    """A reply, or None for anything that is not a JSON object of bounded size."""
    if len(line) > LINE_BYTES_MAX:
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class _Conversation:
    """One opened channel. Data arrives on libvirt's event thread and is handed to the loop."""

    def __init__(self, connection: Connection, domain: str) -> None:
        self._connection = connection
        self._domain = domain
        self._stream: libvirt.virStream | None = None
        self._received: asyncio.Queue[bytes] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._total = 0

    async def __aenter__(self) -> _Conversation:
        self._stream = await self._connection.call(self._open, what=f"open the channel of {self._domain}")
        return self

    async def __aexit__(self, *_: object) -> None:
        stream, self._stream = self._stream, None
        if stream:
            # Shielded: a channel left open would be refused to the next one who asks.
            await asyncio.shield(self._connection.call(lambda _: _abort(stream), what="close a channel"))

    async def request(self, data: bytes, number: int, resend_s: float | None) -> dict[str, Any]:
        """Send, and wait for the reply with our number; anything else that comes is dropped."""
        buffer = b""
        await self._send(data)
        while True:
            try:
                async with asyncio.timeout(resend_s):
                    chunk = await self._received.get()
            except TimeoutError:
                await self._send(data)
                continue
            if not chunk:
                raise GuestDown(f"the channel of {self._domain} closed", remedy="see whether the domain runs")
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                if (reply := parse(line)) and reply.get("id") == number:
                    return reply
            if len(buffer) > LINE_BYTES_MAX:
                raise GuestDown(
                    f"the guest of {self._domain} sent a line of more than {LINE_BYTES_MAX} bytes",
                    remedy="destroy it",
                )

    async def _send(self, data: bytes) -> None:
        stream = self._stream
        assert stream is not None  # noqa: S101
        sent: int = await self._connection.call(
            lambda _: stream.send(data), what=f"write to the channel of {self._domain}"
        )
        if sent != len(data):
            raise GuestDown(f"the channel of {self._domain} is stuck", remedy="see whether the guest runs")

    def _open(self, connection: libvirt.virConnect) -> libvirt.virStream:
        stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        connection.lookupByName(self._domain).openChannel(PORT_NAME, stream, libvirt.VIR_DOMAIN_CHANNEL_FORCE)
        stream.eventAddCallback(READABLE, self._readable, None)
        return stream

    def _readable(self, stream: libvirt.virStream, events: int, _opaque: Any) -> None:
        """On libvirt's event thread: take what is there, and stop listening at an end or at a flood."""
        try:
            data = stream.recv(READ_BYTES)
        except libvirt.libvirtError:
            data = b""
        if data == WOULD_BLOCK:
            if not events & (libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP):
                return
            data = b""
        self._total += len(data)
        if not data or self._total > BYTES_MAX:
            data = b""
            with contextlib.suppress(libvirt.libvirtError):
                stream.eventRemoveCallback()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._received.put_nowait, data)


def _abort(stream: libvirt.virStream) -> None:
    with contextlib.suppress(libvirt.libvirtError):
        stream.eventRemoveCallback()
    with contextlib.suppress(libvirt.libvirtError):
        stream.abort()
