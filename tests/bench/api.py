"""The backend and its doors: lists, decisions, and the audit."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any

from backend.audit import Audit
from backend.audit.chain import Head, link, timestamp
from backend.models import AskState, Identity, Role, now
from backend.store import Store
from tests.bench.figures import Bar, Figure, figure
from tests.bench.stage import CHECKOUT, Stage
from tests.processes import memory_mb

SANDBOXES = 1000
WARM_UP, LISTS = 10, 200
BLOCKED = 500
DECISIONS = 100
LIMITS = {"asks_per_requester": BLOCKED + DECISIONS}
STATUSES = 20
ANSWER_S = 60.0
LOOK_S = 0.05
WRITTEN_AT_ONCE = 5_000
ANN = Identity(uid=1000, name="ann", role=Role.AGENT)


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        async with Stage() as stage, stage.store() as store:
            figures = await audit(store, Path(folder), appends=1000, rows=300_000)
        async with Stage(limits=LIMITS) as stage:
            await stage.fill(SANDBOXES)
            await stage.start()
            figures.append(await asyncio.to_thread(_list, stage.paths.operator_socket))
            figures.append(await _decisions(stage))
            figures.append(await asyncio.to_thread(_status, stage))
            how = f"VmRSS with {SANDBOXES:,} sandboxes and no pane, after the lists and decisions above"
            figures.append(figure("backend: memory", [memory_mb(stage.pid)], "MB", how, Bar(p50=200)))
    return figures


# --- the audit ------------------------------------------------------------------------------------------


async def audit(store: Store, folder: Path, *, appends: int, rows: int) -> list[Figure]:
    """Appending one row after another, then verifying the chain with ``rows`` more."""
    log = Audit(store, folder / "spool", folder / "audit.key", folder / "audit.head")
    took = []
    for number in range(appends):
        began = perf_counter()
        await log.note(ANN, "command.run", "command", f"CMD-{number:08x}", "SBX-1", command="nginx -t")
        took.append((perf_counter() - began) * 1000)
    await _lengthen(store, rows)
    await log.seal()
    rates = []
    for _ in range(3):
        began = perf_counter()
        report = await log.verify()
        rates.append(report.rows / (perf_counter() - began))
        assert (report.ok, report.rows) == (True, appends + rows), report
    return [
        figure(
            "audit: append",
            took,
            "ms",
            "one row after another, each committed with fsync, embedded PostgreSQL",
            Bar(p95=5),
        ),
        figure(
            "audit: verify",
            rates,
            "rows/s",
            f"a chain of {appends + rows:,} rows, hashes, links and signed head",
            Bar(p50=100_000, least=True),
        ),
    ]


async def _lengthen(store: Store, rows: int) -> None:
    """Chain in many rows at once."""
    head = Head(*await store.audit.head())
    draft = {
        "at": timestamp(now()),
        "actor_uid": ANN.uid,
        "actor_name": ANN.name,
        "role": ANN.role.value,
        "action": "command.run",
        "step": "outcome",
        "noun": "command",
        "id": "CMD-1f0c9a2b",
        "sandbox_id": "SBX-1f0c9a2b",
        "data": {"ok": True, "exit_code": 0, "stdout_bytes": 1234, "intent": 12},
    }
    for first in range(0, rows, WRITTEN_AT_ONCE):
        links, head = link([draft] * min(WRITTEN_AT_ONCE, rows - first), head)
        await store.audit.append([(one.line, one.hash) for one in links])


# --- a list ---------------------------------------------------------------------------------------------


class Door(http.client.HTTPConnection):
    """One kept connection to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("fluid", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))

    def ask(self, method: str, path: str, body: Any = None) -> bytes:
        """The answer's body; anything but 2xx ends the benchmark."""
        sent = json.dumps(body) if body is not None else None
        self.request(method, path, sent, {"content-type": "application/json"})
        answer = self.getresponse()
        told = answer.read()
        assert answer.status < 300, told
        return told


def _list(path: Path) -> Figure:
    took = []
    with closing(Door(path)) as door:
        for _ in range(WARM_UP + LISTS):
            began = perf_counter()
            body = door.ask("GET", "/v1/sandboxes?limit=1000")
            took.append((perf_counter() - began) * 1000)
    assert json.loads(body)["total"] == SANDBOXES
    how = f"GET /v1/sandboxes, rows in PostgreSQL, {len(body) >> 10} KiB over a kept connection of the socket"
    return figure("list of 1,000 sandboxes", took[WARM_UP:], "ms", how, Bar(p50=10, p95=20))


# --- decisions ------------------------------------------------------------------------------------------


async def _decisions(stage: Stage) -> Figure:
    """More agents ask than must be blocked, so that never fewer are while one after another is answered."""
    returned: dict[str, asyncio.Future[float]] = {}
    agents = [f"agent {number}: drop the old cluster?" for number in range(BLOCKED + DECISIONS)]
    for prompt in agents:
        returned[prompt] = asyncio.get_running_loop().create_future()
    async with stage.store() as store, asyncio.TaskGroup() as group:
        asking = [group.create_task(_ask(stage, prompt, returned[prompt])) for prompt in agents]
        waiting = {"status": AskState.PENDING}
        async with asyncio.timeout(ANSWER_S):
            while (await store.asks.list(waiting, limit=1))[1] < len(agents):
                await asyncio.sleep(LOOK_S)
        rows, _ = await store.asks.list(waiting, limit=DECISIONS)
        took = []
        with closing(Door(stage.paths.operator_socket)) as door:
            for row in rows:
                began = perf_counter()
                path = f"/v1/asks/{row.request_id}/answer"
                await asyncio.to_thread(door.ask, "POST", path, {"approved": True, "comment": "yes"})
                took.append((await returned[row.prompt] - began) * 1000)
        for task in asking:
            task.cancel()
    how = f"operator's answer sent until the agent's blocked call returned, {BLOCKED} and more agents blocked"
    return figure("decision to the blocked agent", took, "ms", how, Bar(p95=100))


async def _ask(stage: Stage, prompt: str, returned: asyncio.Future[float]) -> None:
    """One agent's blocking call on a connection of its own; when it returned goes into ``returned``."""
    reader, writer = await asyncio.open_unix_connection(stage.paths.agent_socket)
    body = json.dumps({"prompt": prompt, "action_type": "question", "timeout_secs": 600}).encode()
    head = f"POST /v1/human/ask HTTP/1.1\r\nhost: fluid\r\ncontent-length: {len(body)}\r\n"
    writer.write(f"{head}content-type: application/json\r\nconnection: close\r\n\r\n".encode() + body)
    try:
        answer = await reader.read()
        returned.set_result(perf_counter())
        assert b'"approved":true' in answer, answer
    finally:
        writer.close()


# --- fluid status ---------------------------------------------------------------------------------------


def _status(stage: Stage) -> Figure:
    took = []
    for _ in range(STATUSES):
        began = perf_counter()
        subprocess.run(
            [CHECKOUT / "fluid", "status"],
            env={**os.environ, "FLUID_HOME": stage.environment["FLUID_HOME"]},
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=ANSWER_S,
        )
        took.append(perf_counter() - began)
    how = f"./fluid status as a whole process, {SANDBOXES:,} sandboxes and {BLOCKED} open questions"
    return figure("fluid status", took, "s", how, Bar(p50=0.25))
