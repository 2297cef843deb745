"""The client that awaits, on httpx2: what the console and asynchronous agents use."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx2

from backend.client import operator_calls
from backend.client.answers import (
    cut_off,
    denied,
    down,
    error_of,
    parse,
    raise_if_error,
    read_answer,
    too_slow,
)
from backend.client.call import Call, Flow, Pause, nothing, noun, path
from backend.client.door import DoorAddress, door_address
from backend.client.methods import AgentMethods, OperatorMethods, SandboxMethods
from backend.client.sse import Frame, Parser
from backend.client.taking import TakenPane, taken_pane
from backend.errors import FluidError, TimedOut, Unavailable

if TYPE_CHECKING:
    from backend.models import Event, PaneScreen, Sandbox

T = TypeVar("T")

CONNECT_S = 5.0
QUIET_S = 60.0
"""The backend beats every 15 s: a stream that is silent for longer is dead."""
RECONNECT_S = 1.0
RECONNECT_MAX_S = 10.0


class AsyncSandbox(SandboxMethods):
    """A sandbox's handle: the calls without its id. ``noun`` is the sandbox as it was when created."""

    def __init__(self, door: AsyncFluid, noun: Sandbox) -> None:
        self.door = door
        self.noun = noun

    @property
    def id(self) -> str:
        return self.noun.id


class AsyncFluid(AgentMethods, OperatorMethods):
    """A pool of connections. Errors are :mod:`backend.errors`."""

    def __init__(
        self,
        at: str | Path | DoorAddress | None = None,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._address = door_address(at)
        self._http = _client(self._address, transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def create_sandbox(self, source: str, *, agent_id: str, **options: Any) -> AsyncSandbox:
        """:meth:`create`, as a handle."""
        return AsyncSandbox(self, await self.create(source, agent_id=agent_id, **options))

    async def drive(self, flow: Flow[T]) -> T:
        """Run a flow to its end."""
        step: Any = flow.send
        thing: Any = None
        try:
            while True:
                wanted = step(thing)
                step, thing = flow.send, None
                try:
                    if isinstance(wanted, Pause):
                        await asyncio.sleep(wanted.seconds)
                    else:
                        thing = await self.send(wanted)
                except FluidError as error:
                    step, thing = flow.throw, error
        except StopIteration as end:
            value: T = end.value
            return value

    async def send(self, call: Call[T]) -> T:
        """Send one call and read its answer."""
        if call.follow is not None:
            async for frame in self._frames(call):
                if (found := call.follow(frame)) is not None:
                    return call.read(found)
            raise cut_off()
        try:
            response = await self._http.send(self._request(call))
        except httpx2.HTTPError as error:
            raise self._failed(call, error) from error
        return read_answer(call, response.status_code, response.content)

    async def events(self, after: int | None = None) -> AsyncIterator[Event]:
        """The fleet's events after number ``after``, for ever: a backend that is lost or silent is knocked at
        again, and the stream goes on where it was cut. The kind ``events.gap`` says that some are lost."""
        one = noun("Event")
        wait_s = RECONNECT_S
        last = after
        while True:
            headers, parser = {"Last-Event-ID": str(last)} if last is not None else {}, Parser()
            try:
                async for frame in self._frames(Call("GET", path("events"), nothing), headers, parser):
                    event: Event = one(frame.json())
                    last, wait_s = event.seq, RECONNECT_S
                    yield event
            except (Unavailable, TimedOut):
                wait_s = min(wait_s * 2, RECONNECT_MAX_S)
            if last is None and parser.last_id.isdecimal():
                last = int(parser.last_id)  # cut before the first event, the stream had said where it began
            await asyncio.sleep(wait_s)

    async def pane_stream(self, pane_id: str) -> AsyncIterator[list[str]]:
        """The rows of :meth:`pane_screens`."""
        async for shown in self.pane_screens(pane_id):
            yield shown.rows

    async def pane_screens(self, pane_id: str) -> AsyncIterator[PaneScreen]:
        """The pane's rows and its cursor, now and after each change, until the pane or the backend ends."""
        whole, part = noun("PaneScreen"), noun("PaneChange")
        call = Call("GET", path("panes", pane_id, "stream"), nothing, query={"deltas": True})
        shown: PaneScreen | None = None
        async for frame in self._frames(call):
            if frame.event == "changed" and shown is not None:
                shown = shown.then(part(frame.json()))
            else:
                shown = whole(frame.json())
            yield shown

    def take_over(self, pane_id: str, *, force: bool = False) -> AbstractAsyncContextManager[TakenPane]:
        """Type into an agent's pane instead of it: ``async with fluid.take_over("%3") as pane: …``. With
        ``force`` also where another operator types, who is told. Raises PaneTaken."""
        return taken_pane(self._address, operator_calls.take_over(pane_id, force))

    async def _frames(
        self, call: Call[Any], headers: dict[str, str] | None = None, parser: Parser | None = None
    ) -> AsyncIterator[Frame]:
        call, parser = replace(call, timeout_s=QUIET_S), parser or Parser()
        request = self._request(call, {"Accept": "text/event-stream", **(headers or {})})
        try:
            response = await self._http.send(request, stream=True)
            try:
                if response.status_code >= 400:
                    raise error_of(response.status_code, parse(await response.aread()))
                async for chunk in response.aiter_bytes():
                    for frame in parser.feed(chunk):
                        raise_if_error(frame)
                        yield frame
            finally:
                await response.aclose()
        except httpx2.HTTPError as error:
            raise self._failed(call, error) from error

    def _request(self, call: Call[Any], headers: dict[str, str] | None = None) -> httpx2.Request:
        sent = {"Accept": "application/json", **(headers or {})}
        content = call.content
        if call.body is not None:
            content = json.dumps(call.body).encode()
            sent["Content-Type"] = "application/json"
        return self._http.build_request(
            call.method,
            self._address.base + call.target,
            content=content,
            headers=sent,
            timeout=httpx2.Timeout(call.timeout_s, connect=CONNECT_S),
        )

    def _failed(self, call: Call[Any], error: httpx2.HTTPError) -> FluidError:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, PermissionError):
                return denied(self._address)
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, (httpx2.ReadTimeout, httpx2.WriteTimeout)):
            return too_slow(str(self._address), call)
        return down(self._address, str(error) or type(error).__name__)


def _client(address: DoorAddress, transport: httpx2.AsyncBaseTransport | None) -> httpx2.AsyncClient:
    uds = str(address.socket) if address.socket else None
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=30)
    return httpx2.AsyncClient(
        base_url=f"http://{address.authority}",
        # Neither door speaks TLS: without this, each client loads the machine's certificates (tens of ms).
        transport=transport or httpx2.AsyncHTTPTransport(uds=uds, limits=limits, verify=False),
    )
