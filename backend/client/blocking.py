"""The client that blocks, on the standard library alone so that it starts fast."""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from backend.client.answers import cut_off, denied, down, raise_if_error, read_answer, too_slow
from backend.client.call import Call, Flow, Pause, as_is
from backend.client.door import DoorAddress, door_address
from backend.client.methods import AgentMethods, OperatorMethods, SandboxMethods
from backend.client.sse import Frame, Parser
from backend.errors import FluidError

if TYPE_CHECKING:
    from backend.models import Sandbox

T = TypeVar("T")

READ_BYTES = 65_536
WORDS_S = 0.3
IDLE_S = 30.0
"""An older connection may have been closed by the backend: a new one costs less than a lost POST."""


class FluidSandbox(SandboxMethods):
    """A sandbox's handle: the calls without its id. ``noun`` is the sandbox as it was when created."""

    def __init__(self, door: Fluid, noun: Sandbox) -> None:
        self.door = door
        self.noun = noun

    @property
    def id(self) -> str:
        return self.noun.id


class Fluid(AgentMethods, OperatorMethods):
    """One connection per thread, kept open. Errors are :mod:`backend.errors`."""

    def __init__(self, at: str | Path | DoorAddress | None = None) -> None:
        self._address = door_address(at)
        self._local = threading.local()

    @property
    def address(self) -> str | DoorAddress:
        """Where it knocks, as another client takes it."""
        door = self._address
        if door.tunnel is not None:
            return door
        return str(door.socket) if door.socket else f"http://{door.authority}{door.base}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()

    def create_sandbox(self, source: str, *, agent_id: str, **options: Any) -> FluidSandbox:
        """:meth:`create`, as a handle."""
        return FluidSandbox(self, self.create(source, agent_id=agent_id, **options))

    def drive(self, flow: Flow[T]) -> T:
        """Run a flow to its end."""
        step, thing = flow.send, None
        try:
            while True:
                wanted = step(thing)
                step, thing = flow.send, None
                try:
                    if isinstance(wanted, Pause):
                        time.sleep(wanted.seconds)
                    else:
                        thing = self.send(wanted)
                except FluidError as error:
                    step, thing = flow.throw, error
        except StopIteration as end:
            value: T = end.value
            return value

    def send(self, call: Call[T]) -> T:
        """Send one call and read its answer."""
        try:
            response = self._request(call)
            if call.follow is None or response.status >= 400:
                return read_answer(call, response.status, response.read())
            try:
                for frame in _frames(response):
                    raise_if_error(frame)
                    if (found := call.follow(frame)) is not None:
                        return call.read(found)
            finally:
                self.close()  # with an unread end of the stream it takes no other call
            raise cut_off()
        except TimeoutError as error:
            self.close()
            raise too_slow(str(self._address), call) from error
        except PermissionError as error:
            raise denied(self._address) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise down(self._address, _why(error), patience_s=WORDS_S) from error

    def json(self, call: Call[Any]) -> Any:
        """The parsed JSON of an answer, without making nouns of it."""
        return self.send(replace(call, read=as_is))

    def _request(self, call: Call[Any]) -> http.client.HTTPResponse:
        connection = self._connection(call.timeout_s)
        headers = {"Accept": "text/event-stream" if call.follow else "application/json"}
        content = call.content
        if call.body is not None:
            content = json.dumps(call.body).encode()
            headers["Content-Type"] = "application/json"
        connection.request(call.method, self._address.base + call.target, content, headers)
        response = connection.getresponse()
        self._local.used_at = time.monotonic()
        return response

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        used_at: float = getattr(self._local, "used_at", 0.0)
        stale = connection is not None and (time.monotonic() - used_at > IDLE_S or _has_ended(connection))
        if connection is None or connection.sock is None or stale:
            self.close()
            connection = self._local.connection = _connect(self._address, timeout_s)
        connection.sock.settimeout(timeout_s)
        return connection


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("fluid", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _has_ended(connection: http.client.HTTPConnection) -> bool:
    """Whether the backend hung up meanwhile: nothing else comes on a connection that nobody asked over."""
    if connection.sock is None:
        return True
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _connect(address: DoorAddress, timeout_s: float) -> http.client.HTTPConnection:
    connection = (
        _UnixConnection(address.socket, timeout_s)
        if address.socket
        else http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    )
    connection.connect()
    return connection


def _frames(response: http.client.HTTPResponse) -> Iterator[Frame]:
    parser = Parser()
    while chunk := response.read1(READ_BYTES):
        yield from parser.feed(chunk)


def _why(error: Exception) -> str:
    return (
        os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    ) or "closed"
