"""Real sockets, real uids, the SDK on one side and the doors on the other; only the services are stubs."""

from __future__ import annotations

import asyncio
import grp
import itertools
import json
import os
import socket
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.api import Services, serve_doors
from backend.api.server import bind_door
from backend.client import AsyncFluid, Fluid
from backend.config import Config, ServerConfig
from backend.errors import AlreadyRunning, BackendDown, ConfigError, RoleDenied, SandboxNotFound, TooLarge
from backend.models import (
    Ask,
    AskRequest,
    AskState,
    Command,
    CommandRequest,
    CreateSandbox,
    Event,
    FleetView,
    Identity,
    Phase,
    Sandbox,
    now,
)
from backend.paths import Paths

NOBODY_UID = 65_534
SYSTEM_PYTHON = "/usr/bin/python3"  # one that any uid may start
CALL_AS = """
import http.client, json, socket, sys
class C(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX); self.sock.connect(sys.argv[1])
c = C("fluid")
try:
    c.request(sys.argv[2], sys.argv[3]); r = c.getresponse()
    print(json.dumps([r.status, json.loads(r.read())]))
except PermissionError:
    print(json.dumps([0, {}]))
"""


class StubFleet:
    def __init__(self) -> None:
        self.actors: list[Identity] = []

    async def create(self, actor: Identity, request: CreateSandbox) -> Sandbox:
        self.actors.append(actor)
        return Sandbox(
            id="SBX-0000000a",
            sandbox_name="web",
            base_image=request.source_vm_name,
            phase=Phase.RUNNING,
            created_at=now(),
            updated_at=now(),
        )

    async def get(self, actor: Identity, id: str) -> Sandbox:
        raise SandboxNotFound(f"no sandbox {id}", remedy="list yours")

    async def run(self, actor: Identity, id: str, request: CommandRequest, on_output: Any = None) -> Command:
        if on_output:
            for word in (b"a\n", b"b\n"):
                on_output("stdout", word)
                await asyncio.sleep(0)
        return Command(
            id="CMD-00000001",
            sandbox_id=id,
            command=request.command,
            exit_code=7,
            stdout="a\nb\n",
            started_at=now(),
        )

    async def view(self, actor: Identity) -> FleetView:
        return FleetView(seq=3, at=now(), audit_rows=12)


class StubAsks:
    """One question, answered through the operator door."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answered = asyncio.Event()
        self.state = AskState.PENDING

    def _ask(self) -> Ask:
        return Ask(
            request_id="ASK-00000001",
            prompt="Drop it?",
            action_type="irreversible",
            status=self.state,
            created_at=now(),
            expires_at=now(),
        )

    async def ask(self, actor: Identity, request: AskRequest) -> Ask:
        self.asked.set()
        return self._ask()

    async def wait(self, actor: Identity, id: str, seconds: float) -> Ask:
        await asyncio.wait_for(self.answered.wait(), seconds)
        return self._ask()

    async def answer(
        self, actor: Identity, request_id: str, approved: bool, comment: str, alternative: str | None
    ) -> Ask:
        self.state = AskState.APPROVED if approved else AskState.REJECTED
        self.answered.set()
        return self._ask()


class StubEvents:
    """Numbers without end. It is its own subscription."""

    def __init__(self, after_seq: int = 0) -> None:
        self._numbers = itertools.count(after_seq + 1)

    def subscribe(self, after_seq: int | None = None) -> StubEvents:
        return StubEvents(after_seq or 0)

    def __enter__(self) -> StubEvents:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> StubEvents:
        return self

    async def __anext__(self) -> Event:
        await asyncio.sleep(0.01)
        seq = next(self._numbers)
        return Event(seq=seq, at=now(), kind="sandbox.changed", noun="sandbox", id="SBX-0000000a")


class StubPanes:
    async def follow(self, actor: Identity, pane_id: str) -> AsyncIterator[Sequence[str]]:
        yield ["$ id", "uid=0(root)"]
        yield ["$ "]


class Backend:
    def __init__(self, home: Path) -> None:
        self.paths = Paths.under(home)
        self.paths.run.mkdir(parents=True)
        self.stopped = asyncio.Event()
        self.fleet = StubFleet()
        self.asks = StubAsks()

    @asynccontextmanager
    async def serving(self, config: Config) -> AsyncIterator[asyncio.Event]:
        stop = asyncio.Event()
        services = SimpleNamespace(fleet=self.fleet, asks=self.asks, events=StubEvents(), panes=StubPanes())
        task = asyncio.create_task(serve_doors(cast("Services", services), config, self.paths, stop))
        task.add_done_callback(lambda _: self.stopped.set())
        await self._answers(task)
        try:
            yield stop
        finally:
            stop.set()
            await asyncio.wait_for(task, 5)

    async def _answers(self, task: asyncio.Task[None]) -> None:
        async with asyncio.timeout(20):
            while not task.done():
                try:
                    _, writer = await asyncio.open_unix_connection(self.paths.operator_socket)
                except OSError:
                    await asyncio.sleep(0.01)
                    continue
                writer.close()
                return
        await task


@pytest.fixture
def backend(open_folder: Path) -> Backend:
    return Backend(open_folder)


def call_as(uid: int, door: Path, method: str, path: str, groups: list[int] | None = None) -> tuple[int, Any]:
    done = subprocess.run(
        [SYSTEM_PYTHON, "-S", "-c", CALL_AS, str(door), method, path],
        user=uid,
        group=uid,
        extra_groups=groups or [],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
        cwd="/",
    )
    status, body = json.loads(done.stdout)
    return status, body


async def as_uid(uid: int, door: Path, path: str, groups: list[int] | None = None) -> tuple[int, Any]:
    return await asyncio.to_thread(call_as, uid, door, "GET", path, groups)


GROUP = grp.getgrgid(1).gr_name  # any group that root's children can be given and nobody is not in


async def test_the_doors_are_closed_to_those_outside_their_group(backend: Backend) -> None:
    config = Config(server=ServerConfig(socket_group_agents=GROUP))
    async with backend.serving(config):
        mode = backend.paths.agent_socket.stat()
        assert (stat.S_IMODE(mode.st_mode), mode.st_gid) == (0o660, 1)
        assert stat.S_IMODE(backend.paths.operator_socket.stat().st_mode) == 0o660
        outside, _ = await as_uid(NOBODY_UID, backend.paths.agent_socket, "/v1/whoami")
        inside, body = await as_uid(NOBODY_UID, backend.paths.agent_socket, "/v1/whoami", [1])
    assert outside == 0
    assert inside == 200
    assert (body["uid"], body["role"], GROUP in body["groups"]) == (NOBODY_UID, "agent", True)
    assert body["pid"] > 1


async def test_a_user_of_both_lists_is_served_on_the_agent_door_only(backend: Backend) -> None:
    config = Config(
        operators=[f"@{GROUP}", "root"],
        agents=["nobody"],
        server=ServerConfig(socket_group_agents=GROUP, socket_group_operators=GROUP),
    )
    async with backend.serving(config):
        as_operator, told = await as_uid(NOBODY_UID, backend.paths.operator_socket, "/v1/whoami", [1])
        as_agent, _ = await as_uid(NOBODY_UID, backend.paths.agent_socket, "/v1/whoami", [1])
    assert (as_operator, as_agent) == (403, 200)
    assert "agent door only" in told["error"]


async def test_root_is_no_operator_unless_named(backend: Backend) -> None:
    async with backend.serving(Config(operators=["nobody"])):
        with pytest.raises(RoleDenied, match="operators"):
            async with AsyncFluid(backend.paths.operator_socket) as fluid:
                await fluid.whoami()


async def test_without_lists_whoever_runs_it_is_operator_and_agent(backend: Backend) -> None:
    async with backend.serving(Config()):
        async with AsyncFluid(backend.paths.operator_socket) as operator:
            assert (await operator.whoami()).role == "operator"
        async with AsyncFluid(backend.paths.agent_socket) as agent:
            assert (await agent.whoami()).role == "agent"


async def test_an_sdk_error_is_the_class_of_its_code(backend: Backend) -> None:
    async with backend.serving(Config()), AsyncFluid(backend.paths.agent_socket) as fluid:
        with pytest.raises(SandboxNotFound) as missing:
            await fluid.sandbox("SBX-0000000b")
        with pytest.raises(TooLarge):
            await fluid.run("SBX-0000000a", "x" * 1_100_000)
    assert missing.value.remedy == "list yours"


async def test_both_clients_run_a_command_and_hear_it_as_it_prints(backend: Backend) -> None:
    heard: list[tuple[str, str]] = []

    def blocking() -> int | None:
        with Fluid(backend.paths.agent_socket) as fluid:
            sandbox = fluid.create_sandbox("debian-12", agent_id="me")
            return sandbox.run("true", on_output=lambda name, text: heard.append((name, text))).exit_code

    async with backend.serving(Config()):
        assert await asyncio.to_thread(blocking) == 7
        async with AsyncFluid(backend.paths.agent_socket) as fluid:
            sandbox = await fluid.create_sandbox("debian-12", agent_id="me")
            ran = await sandbox.run("true", on_output=lambda name, text: heard.append((name, text)))
    assert ran.exit_code == 7
    assert heard == [("stdout", "a\n"), ("stdout", "b\n")] * 2
    assert backend.fleet.actors[0].uid == os.getuid()


async def test_a_blocked_question_returns_when_the_operator_answers(backend: Backend) -> None:
    async with (
        backend.serving(Config()),
        AsyncFluid(backend.paths.agent_socket) as agent,
        AsyncFluid(backend.paths.operator_socket) as operator,
        asyncio.TaskGroup() as tasks,
    ):
        blocked = tasks.create_task(agent.drive(_question()))
        await asyncio.wait_for(backend.asks.asked.wait(), 10)
        assert not blocked.done()
        await operator.answer("ASK-00000001", True, "go on")
    assert blocked.result().approved


def _question() -> Any:
    from backend.client.calls import ask

    return ask("Drop it?", action_type="irreversible")


async def test_events_go_on_where_a_restart_cut_them(backend: Backend) -> None:
    seen: list[int] = []
    async with AsyncFluid(backend.paths.operator_socket) as fluid:
        feed = fluid.events(after=0)
        for _ in range(2):
            async with backend.serving(Config()):
                seen += [(await asyncio.wait_for(anext(feed), 10)).seq for _ in range(3)]
        await feed.aclose()  # type: ignore[attr-defined]
    assert seen[:3] == [1, 2, 3]
    assert seen == sorted(set(seen)), "no event twice"


async def test_a_pane_stream_brings_rows_and_ends_with_the_pane(backend: Backend) -> None:
    async with backend.serving(Config()), AsyncFluid(backend.paths.operator_socket) as fluid:
        screens = [rows async for rows in fluid.pane_stream("%1")]
    assert screens == [["$ id", "uid=0(root)"], ["$ "]]


async def test_it_stops_within_two_seconds_though_streams_are_open(backend: Backend) -> None:
    async with backend.serving(Config()) as stop, AsyncFluid(backend.paths.operator_socket) as fluid:
        feed = fluid.events(after=0)
        await asyncio.wait_for(anext(feed), 10)
        began = time.monotonic()
        stop.set()
        await asyncio.wait_for(backend.stopped.wait(), 10)
        assert time.monotonic() - began < 2
        await feed.aclose()  # type: ignore[attr-defined]
    assert not backend.paths.operator_socket.exists()


async def test_nobody_home_is_said_with_the_remedy(backend: Backend) -> None:
    with pytest.raises(BackendDown, match="no backend answers at") as blocking:
        Fluid(backend.paths.agent_socket).health()
    async with AsyncFluid(backend.paths.agent_socket) as fluid:
        with pytest.raises(BackendDown):
            await fluid.health()
    assert "fluid serve" in blocking.value.remedy


async def test_a_stale_socket_is_taken_over_and_a_served_one_is_not(backend: Backend) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(backend.paths.agent_socket))
    stale.close()
    async with backend.serving(Config()):
        with pytest.raises(AlreadyRunning, match=r"agent\.sock"):
            bind_door(backend.paths.agent_socket, None)
    assert not backend.paths.agent_socket.exists()


def test_an_unknown_socket_group_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-group") as refused:
        bind_door(tmp_path / "agent.sock", "no-such-group")
    assert refused.value.remedy == "groupadd --system no-such-group"


async def test_broken_http_gets_the_same_error_body(backend: Backend) -> None:
    async with backend.serving(Config()):
        reader, writer = await asyncio.open_unix_connection(backend.paths.agent_socket)
        writer.write(b"NONSENSE\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error_code"] == "bad_request"
