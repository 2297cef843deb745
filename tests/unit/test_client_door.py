"""What a client takes for a door."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from backend.cli import common, console
from backend.client import AsyncFluid, Fluid, aio
from backend.client.door import DoorAddress, door_address
from backend.errors import BackendDown, DatabaseDown, InvalidValue, RoleDenied, TimedOut, UpgradeRequired
from backend.paths import Paths
from backend.places import far_door


@pytest.mark.parametrize(
    ("at", "address"),
    [
        ("/run/fluid/agent.sock", DoorAddress(Path("/run/fluid/agent.sock"))),
        ("http://127.0.0.1:8080", DoorAddress(None, "127.0.0.1", 8080)),
        ("http://localhost", DoorAddress(None, "localhost", 80)),
        ("http://[::1]:8080/", DoorAddress(None, "::1", 8080)),
        ("http://127.0.0.1:8080/t/word/", DoorAddress(None, "127.0.0.1", 8080, "/t/word")),
    ],
)
def test_a_path_or_a_url_is_a_door(at: str, address: DoorAddress) -> None:
    assert door_address(at) == address


@pytest.mark.parametrize("at", ["https://127.0.0.1:8080", "http://127.0.0.1:99999/t/secret", "http://[::1/x"])
def test_what_is_no_door_is_told_without_a_token(at: str) -> None:
    with pytest.raises(InvalidValue, match="no door") as refused:
        door_address(at)
    assert "secret" not in refused.value.message
    assert "http://HOST:PORT" in refused.value.remedy


def test_the_address_is_one_that_another_client_takes() -> None:
    assert Fluid("http://[::1]:8080/t/word").address == "http://[::1]:8080/t/word"
    assert str(door_address("http://[::1]:8080/t/word")) == "[::1]:8080", "no token where a person reads"


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Paths, Paths]:
    """An ordinary user's own folders and the machine's: nothing is in either yet."""
    own, system = Paths.under(tmp_path / "own"), Paths.under(tmp_path / "system")
    for name in ("FLUID_HOME", "FLUID_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Paths, "default", lambda: own)
    monkeypatch.setattr(Paths, "system", lambda: system)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return own, system


@contextmanager
def _served(door: Path) -> Iterator[None]:
    door.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(str(door))
        served.listen()
        yield
    door.unlink()


def test_who_runs_no_backend_takes_the_doors_of_the_machines_own(ordinary: tuple[Paths, Paths]) -> None:
    own, system = ordinary
    assert common.door_path() == own.operator_socket, "there is none"
    with _served(system.operator_socket):
        assert common.door_path() == system.operator_socket
        assert door_address(None).socket == system.agent_socket
        with _served(own.operator_socket):
            assert common.door_path() == own.operator_socket
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(own.operator_socket))
        assert common.door_path() == system.operator_socket, "what is left of a backend does not answer"


def test_folders_that_were_named_are_meant(
    ordinary: tuple[Paths, Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, system = ordinary
    monkeypatch.setenv("FLUID_HOME", "/elsewhere")
    with _served(system.operator_socket):
        assert common.door_path() == own.operator_socket


def test_a_login_leads_to_the_door_that_the_machines_backend_has() -> None:
    assert far_door("ops@control").socket == str(Paths.system().operator_socket)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Where the console was opened; or that a backend was started for it."""
    told: list[object] = []
    monkeypatch.setattr(console, "need_terminal", lambda _: None)
    monkeypatch.setattr(console, "start_backend", lambda _: told.append("started") or 7)
    monkeypatch.setattr(console, "_run", lambda door, *_, **__: told.append(door) or 0)
    return told


@pytest.mark.parametrize("installed", ["state", "config_file", "operator_socket"])
def test_the_console_waits_for_the_machines_backend_and_starts_none_beside_it(
    ordinary: tuple[Paths, Paths], opened: list[object], installed: str
) -> None:
    _, system = ordinary
    path: Path = getattr(system, installed)
    path.parent.mkdir(parents=True)
    path.touch()
    console.open_console()
    assert opened == [system.operator_socket]
    with pytest.raises(BackendDown, match="no backend answers") as told:
        Fluid(common.door_path()).health()
    assert "systemctl start fluid" in told.value.remedy


def test_the_console_starts_a_backend_where_the_machine_has_none(
    ordinary: tuple[Paths, Paths], opened: list[object]
) -> None:
    console.open_console()
    assert opened == ["started", ordinary[0].operator_socket]


def test_the_console_is_not_opened_at_a_door_that_is_closed(
    ordinary: tuple[Paths, Paths], opened: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with _served(ordinary[1].operator_socket), pytest.raises(RoleDenied, match="closed to this user"):
        console.open_console()
    assert not opened


class SilentOnce(httpx2.AsyncBaseTransport):
    """The first stream stays silent; each later one brings an event."""

    def __init__(self) -> None:
        self.asked = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        if self.asked == 1:
            raise httpx2.ReadTimeout("")
        return httpx2.Response(200, content=_event(7))


class Answers(httpx2.AsyncBaseTransport):
    """The same body for whatever is asked."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=self._content)


NEWER = {"sandboxes": [{"id": "SBX-1", "phase": "hibernating", "labels": {"password": "s3cret"}}]}


@pytest.mark.parametrize("answer", [NEWER, {}, [], None], ids=["value", "no key", "list", "null"])
@pytest.mark.parametrize(
    ("streamed", "ask"),
    [
        (False, lambda fluid: fluid.fleet()),
        (False, lambda fluid: fluid.sandboxes()),
        (False, lambda fluid: fluid.sandbox("SBX-1")),
        (True, lambda fluid: anext(fluid.events(1))),
        (True, lambda fluid: anext(fluid.pane_screens("%1"))),
    ],
    ids=["fleet", "list", "one", "event", "pane"],
)
async def test_what_a_newer_backend_says_is_an_error_that_says_so(
    streamed: bool, ask: Callable[[AsyncFluid], Awaitable[object]], answer: object
) -> None:
    body = json.dumps(answer).encode()
    transport = Answers(b"data: " + body + b"\n\n" if streamed else body)
    async with AsyncFluid("/nonexistent", transport=transport) as fluid:
        with pytest.raises(UpgradeRequired, match="older than the backend") as told:
            await ask(fluid)
    assert "s3cret" not in str(told.value)


def _event(seq: int) -> bytes:
    event = {"seq": seq, "at": "2026-11-30T10:00:00Z", "kind": "ask.changed", "noun": "ask", "id": "ASK-1"}
    return f"data: {json.dumps(event)}\n\n".encode()


async def test_events_go_on_after_a_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "RECONNECT_S", 0.001)
    async with AsyncFluid("http://localhost", transport=SilentOnce()) as fluid:
        assert (await anext(fluid.events())).seq == 7


class Ailing(httpx2.AsyncBaseTransport):
    """A stream that brings an event and then says that the database is gone; a door that says so twice; and
    one that is well again, or, with ``denied``, one that is shut."""

    def __init__(self, *, denied: bool = False) -> None:
        self.resumed: list[str | None] = []
        self._denied = denied

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.resumed.append(request.headers.get("Last-Event-ID"))
        gone = DatabaseDown("PostgreSQL does not answer").body("")
        if len(self.resumed) == 1:
            return httpx2.Response(
                200, content=_event(7) + f"event: error\ndata: {json.dumps(gone)}\n\n".encode()
            )
        if len(self.resumed) <= 3:
            return httpx2.Response(503, json=gone)
        if self._denied:
            return httpx2.Response(403, json=RoleDenied("not yours").body(""))
        return httpx2.Response(200, content=_event(8))


async def test_events_go_on_by_themselves_after_an_outage_of_the_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rested: list[float] = []

    async def rest(seconds: float) -> None:
        rested.append(seconds)

    monkeypatch.setattr(aio.asyncio, "sleep", rest)
    door = Ailing()
    async with AsyncFluid("http://localhost", transport=door) as fluid:
        feed = fluid.events(after=6)
        assert [(await anext(feed)).seq for _ in range(2)] == [7, 8]
    assert door.resumed == ["6", "7", "7", "7"], "it goes on where it was cut"
    assert rested == [2 * aio.RECONNECT_S, 4 * aio.RECONNECT_S, 8 * aio.RECONNECT_S]


async def test_who_was_cut_before_the_first_event_goes_on_where_the_stream_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resumed: list[str | None] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        resumed.append(request.headers.get("Last-Event-ID"))
        said = b": beat\n\nid: 41\n\n" if len(resumed) == 1 else _event(42)
        return httpx2.Response(200, content=said)

    monkeypatch.setattr(aio, "RECONNECT_S", 0.001)
    async with AsyncFluid("http://localhost", transport=httpx2.MockTransport(answer)) as fluid:
        assert (await anext(fluid.events())).seq == 42
    assert resumed == [None, "41"]


async def test_events_end_where_no_wait_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "RECONNECT_S", 0.001)
    async with AsyncFluid("http://localhost", transport=Ailing(denied=True)) as fluid:
        feed = fluid.events()
        await anext(feed)
        with pytest.raises(RoleDenied, match="not yours"):
            await anext(feed)


async def test_a_stream_that_is_silent_says_for_how_long() -> None:
    async with AsyncFluid("http://localhost", transport=SilentOnce()) as fluid:
        with pytest.raises(TimedOut, match=f"within {aio.QUIET_S:g} s"):
            await anext(fluid.pane_screens("%1"))
