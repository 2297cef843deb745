"""The doors served for real on stub services, and callers of other uids."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.api import Services, bind_tcp, serve_doors
from backend.config import Config, ListenAddress, listen_address
from backend.errors import SandboxNotFound
from backend.models import (
    Ask,
    AskRequest,
    AskState,
    Command,
    CommandRequest,
    Component,
    CreateSandbox,
    Event,
    FleetView,
    Identity,
    PaneScreen,
    Phase,
    Sandbox,
    now,
)
from backend.paths import Paths

NOBODY_UID = 65_534
CALL_S = 60
needs_ipv6 = pytest.mark.skipif(
    not Path("/proc/net/if_inet6").exists(), reason="a kernel without IPv6 has no [::1] to listen on"
)
SYSTEM_PYTHON = "/usr/bin/python3"  # one that any uid may start
CALL_AS = """
import http.client, json, socket, sys
class C(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX); self.sock.connect(sys.argv[1])
url = sys.argv[1].partition("http://")[2]
c = http.client.HTTPConnection(url) if url else C("fluid")
try:
    body = sys.argv[4] if len(sys.argv) > 4 else None
    c.request(sys.argv[2], sys.argv[3], body, {"Content-Type": "application/json"} if body else {})
    r = c.getresponse()
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
    """Numbers without end, from 1 on if none is named. It is its own subscription."""

    last_seq = 0

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
    async def screens(self, actor: Identity, pane_id: str) -> AsyncIterator[PaneScreen]:
        yield PaneScreen(rows=["$ id", "uid=0(root)"])
        yield PaneScreen(rows=["$ ls", "uid=0(root)"], cursor=(2, 0))
        yield PaneScreen(rows=["$ "], cursor=(2, 0))


class Backend:
    """``url`` is the TCP door's while it is served."""

    def __init__(self, home: Path) -> None:
        self.paths = Paths.under(home)
        self.paths.run.mkdir(parents=True)
        self.stopped = asyncio.Event()
        self.url = ""
        self.fleet = StubFleet()
        self.asks = StubAsks()
        self.approvals: Any = None  # a test's own
        self.components: list[Component] = []

    async def _components(self) -> list[Component]:
        return self.components

    @asynccontextmanager
    async def serving(self, config: Config) -> AsyncIterator[asyncio.Event]:
        stop = asyncio.Event()
        services = SimpleNamespace(
            fleet=self.fleet,
            asks=self.asks,
            approvals=self.approvals,
            events=StubEvents(),
            panes=StubPanes(),
            panic=SimpleNamespace(refuse_agent=lambda _: None),
            components=self._components,
        )
        async with AsyncExitStack() as stack:
            tcp = None
            if config.server.listen:
                tcp = stack.enter_context(closing(bind_tcp(listen_address(config.server.listen))))
                self.url = f"http://{ListenAddress(*tcp.getsockname()[:2])}"
            task = asyncio.create_task(serve_doors(cast("Services", services), config, self.paths, stop, tcp))
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


def call_as(
    uid: int,
    door: Path | str,
    method: str,
    path: str,
    groups: list[int] | None = None,
    body: dict[str, Any] | None = None,
) -> tuple[int, Any]:
    given = [json.dumps(body)] if body is not None else []
    with subprocess.Popen(
        [SYSTEM_PYTHON, "-S", "-c", CALL_AS, str(door), method, path, *given],
        user=uid,
        group=uid,
        extra_groups=groups or [],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    ) as caller:
        try:
            said, wrong = caller.communicate(timeout=CALL_S)
        except subprocess.TimeoutExpired as error:
            told = where_it_waits(caller.pid)
            caller.kill()
            raise AssertionError(f"{method} {path}: no answer within {CALL_S} s\n{told}") from error
    assert caller.returncode == 0, wrong
    status, body = json.loads(said)
    return status, body


def where_it_waits(pid: int) -> str:
    """What a process that calls us waits for in the kernel, and all that this process is at."""
    there = [f"{name}: {Path(f'/proc/{pid}/{name}').read_text().strip()}" for name in ("wchan", "syscall")]
    threads = ["".join(traceback.format_stack(frame)) for frame in sys._current_frames().values()]
    tasks = [repr(task) for task in list(getattr(asyncio.tasks, "_all_tasks", ()))]
    return "\n".join([f"process {pid}", *there, *threads, *tasks])


async def as_uid(uid: int, door: Path | str, path: str, groups: list[int] | None = None) -> tuple[int, Any]:
    return await asyncio.to_thread(call_as, uid, door, "GET", path, groups)
