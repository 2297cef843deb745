"""A sandbox's row has many writers: each keeps what is its own, and nobody brings back one that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest
from psycopg import sql

from backend.client import AsyncFluid
from backend.config import Config
from backend.errors import DuplicateName, NoSpace, PanicActive, SandboxNotFound, WrongState
from backend.fleet import Fleet
from backend.fleet.placement import Room
from backend.fleet.stock import is_parked
from backend.fleet.turns import Place
from backend.guests import Outcome
from backend.hypervisor import SnapshotFiles
from backend.models import CommandRequest, Phase, Sandbox, Snapshot, SnapshotRequest, now
from backend.models.sandbox import STANDING_ON
from backend.store import EventBus, Store
from tests.fix_doors import Backend
from tests.service.test_guard import AGENT, HOUR_S, LIMIT_S, OPERATOR, Lab

SAID = SimpleNamespace(status="working", note="tls")
FILES = SnapshotFiles((Path("/d/disk-0"),), None, quiesced=True, stood_still_s=0, took_s=0)
Act = Callable[[Fleet, Sandbox], Awaitable[object]]


def outcome() -> Outcome:
    return Outcome(0, b"", b"", 0, 0, timed_out=False, truncated=False, started_at=now(), ended_at=now())


@pytest.fixture
def lab(store: Store, bus: EventBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Its guests answer whatever they are asked."""
    lab = Lab(Config(), store, bus, tmp_path)
    for name, answer in (
        ("_commands", AsyncMock(run=AsyncMock(return_value=outcome()))),
        ("_files", AsyncMock()),
        ("_manifest", AsyncMock(return_value=("disk", "", 0))),
        ("what_runs", AsyncMock(return_value=None)),
        ("open_egress", AsyncMock()),
        ("guest", lambda row: row.id),
        ("_look_again", AsyncMock()),
        ("domain_of", AsyncMock()),
    ):
        monkeypatch.setattr(lab.fleet, name, answer)
    for name, answer in (("snapshot", FILES), ("delete_snapshot", 0)):
        monkeypatch.setattr(lab.machine, name, AsyncMock(return_value=answer), raising=False)
    monkeypatch.setattr(lab.machine, "start", AsyncMock(), raising=False)
    monkeypatch.setattr(lab.fleet._guests, "ready", AsyncMock(), raising=False)
    return lab


@asynccontextmanager
async def begun(lab: Lab, row: Sandbox, act: Act, **meanwhile: object) -> AsyncIterator[asyncio.Task[Any]]:
    """``act``, for whose write the row has ``meanwhile`` in it, and had not when it was read."""
    rows = lab.store.sandboxes
    async with asyncio.timeout(LIMIT_S), rows._database.transaction() as connection:
        changed = row.model_copy(update=meanwhile)
        await rows._update(connection, changed, sql.SQL("id = %s"), [row.id])
        task = asyncio.ensure_future(act(lab.fleet, row.model_copy()))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not task.done() and await (await connection.execute(waits)).fetchone() == (0,):
            await asyncio.sleep(0.01)
        assert not task.done()
    yield task


@asynccontextmanager
async def queued(lab: Lab, row: Sandbox, act: Act) -> AsyncIterator[asyncio.Task[Any]]:
    """``act``, which waits in the block for whoever is at work on the sandbox."""
    lock = lab.fleet.exclusive(row.id)
    async with asyncio.timeout(LIMIT_S):
        async with lock:
            task = asyncio.ensure_future(act(lab.fleet, row.model_copy()))
            while not (task.done() or lock._waiters):
                await asyncio.sleep(0.01)
            yield task
        await asyncio.wait([task])


QUIET: dict[str, Act] = {
    "status": lambda fleet, _: fleet.status(AGENT, SAID),
    "command": lambda fleet, row: fleet.run(AGENT, row.id, CommandRequest(command="true")),
    "file": lambda fleet, row: fleet.delete_file(AGENT, row.id, "/x"),
}
LOUD: dict[str, Act] = {
    "extend": lambda fleet, row: fleet.extend(AGENT, row.id, HOUR_S),
    "stop": lambda fleet, row: fleet.stop(AGENT, row.id),
    "pause": lambda fleet, row: fleet.pause(AGENT, row.id),
    "standing on": lambda fleet, row: fleet._standing_on(row, "a"),
    "waits": lambda fleet, row: fleet._waits(row, Place(1, 2.0)),
    "ready": lambda fleet, row: fleet._is_ready(row, 0.0),
}
WHOLE: dict[str, Act] = {"save": lambda fleet, row: fleet.save(row)}
WRITERS = QUIET | LOUD


@pytest.mark.parametrize("writer", WRITERS)
async def test_what_another_wrote_since_the_row_was_read_stays(lab: Lab, writer: str) -> None:
    row = await lab.runs(1)
    others: dict[str, Any] = {"doing": "destroy", "agent_id": "ann-2", "ready_s": 7.5}
    if writer == "ready":
        del others["ready_s"]  # its own
    async with begun(lab, row, WRITERS[writer], **others) as task:
        await task
    found = await lab.fleet.load(row.id)
    assert {name: getattr(found, name) for name in others} == others
    assert found.updated_at > row.updated_at  # it did write


@pytest.mark.parametrize("writer", WRITERS | WHOLE)
async def test_one_that_was_destroyed_stays_destroyed(lab: Lab, writer: str) -> None:
    row = await lab.runs(1)
    act = (WRITERS | WHOLE)[writer]
    async with begun(lab, row, act, phase=Phase.DESTROYED) as task:
        if writer in QUIET:  # what was done is told all the same
            await task
        else:
            with pytest.raises(SandboxNotFound, match="box-1 was destroyed meanwhile") as refused:
                await task
            assert refused.value.remedy == "create another"
    assert (await lab.fleet.load(row.id)).phase is Phase.DESTROYED


async def test_the_sandboxes_of_one_host_are_asked_for_through_the_door(lab: Lab, backend: Backend) -> None:
    here, there = await lab.runs(1), await lab.runs(2, host_name="kvm-02")
    backend.fleet = cast("Any", lab.fleet)
    async with backend.serving(Config()), AsyncFluid(backend.paths.operator_socket) as fluid:
        for host, expected in (("kvm-02", [there.id]), (here.host_name, [here.id]), ("kvm-03", [])):
            assert [one.id for one in await fluid.sandboxes(host_name=host)] == expected
        assert len(await fluid.sandboxes()) == 2


async def test_commands_at_once_are_all_counted(lab: Lab) -> None:
    row = await lab.runs(1)
    await asyncio.gather(*(WRITERS["command"](lab.fleet, row) for _ in range(5)))
    assert (await lab.fleet.load(row.id)).commands == 5


async def test_an_extension_behind_the_destruction_is_refused_and_brings_nothing_back(lab: Lab) -> None:
    row = await lab.runs(1, expires_at=now())
    async with queued(lab, row, WRITERS["extend"]) as task:
        await lab.store.sandboxes.save(row.model_copy(update={"phase": Phase.DESTROYED}))
    assert isinstance(task.exception(), SandboxNotFound)
    assert (await lab.fleet.load(row.id)).phase is Phase.DESTROYED


async def test_an_extension_behind_a_restore_keeps_what_that_made_of_it(lab: Lab) -> None:
    row = await lab.runs(1, phase=Phase.PAUSED)
    async with queued(lab, row, WRITERS["extend"]) as task:
        restored = {"phase": Phase.RUNNING, "labels": {STANDING_ON: "a"}}
        await lab.store.sandboxes.save(row.model_copy(update=restored))
    found = await lab.fleet.load(row.id)
    assert (found.phase, found.stands_on, found.ttl_seconds) == (Phase.RUNNING, "a", HOUR_S)
    assert task.result() == found


@pytest.mark.parametrize(
    ("act", "was", "became"),
    [
        (lambda fleet, row: fleet.start(AGENT, row.id), Phase.STOPPED, Phase.PAUSED),
        (lambda fleet, row: fleet.stop(AGENT, row.id), Phase.RUNNING, Phase.LOST),
        (lambda fleet, row: fleet.pause(AGENT, row.id), Phase.RUNNING, Phase.STOPPED),
        (lambda fleet, row: fleet.resume(AGENT, row.id), Phase.PAUSED, Phase.STOPPED),
        (
            lambda fleet, row: fleet.snapshot(AGENT, row.id, SnapshotRequest(name="b")),
            Phase.RUNNING,
            Phase.STOPPED,
        ),
        (lambda fleet, row: fleet.restore(AGENT, row.id, "a"), Phase.STOPPED, Phase.LOST),
    ],
    ids=["start", "stop", "pause", "resume", "snapshot", "restore"],
)
async def test_what_a_sandbox_must_be_is_asked_when_its_turn_comes(
    lab: Lab, act: Act, was: Phase, became: Phase
) -> None:
    row = await lab.runs(1, phase=was)
    await points(lab, row, "a")
    async with queued(lab, row, act) as task:
        await lab.store.sandboxes.save(row.model_copy(update={"phase": became}))
    assert isinstance(task.exception(), WrongState) and f"box-1 is {became}" in str(task.exception())
    assert (await lab.fleet.load(row.id)).phase is became
    assert lab.machine.states == {} and not lab.machine.snapshot.called  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("act", "was", "became"),
    [
        (lambda fleet, row: fleet.start(AGENT, row.id), Phase.STOPPED, Phase.RUNNING),
        (lambda fleet, row: fleet.stop(AGENT, row.id), Phase.RUNNING, Phase.STOPPED),
    ],
    ids=["start", "stop"],
)
async def test_who_wants_what_another_did_meanwhile_is_right(
    lab: Lab, act: Act, was: Phase, became: Phase
) -> None:
    row = await lab.runs(1, phase=was)
    async with queued(lab, row, act) as task:
        await lab.store.sandboxes.save(row.model_copy(update={"phase": became}))
    assert task.result().phase is (await lab.fleet.load(row.id)).phase is became


async def test_stock_that_somebody_starts_and_stops_is_not_taken_for_suspended(lab: Lab) -> None:
    row = await lab.runs(1, purpose="stock", phase=Phase.STOPPED, memory_file="/pool/memory")
    assert is_parked(row)
    await lab.fleet.start(OPERATOR, row.id)
    assert not is_parked(await lab.fleet.stop(OPERATOR, row.id))


async def points(lab: Lab, row: Sandbox, *names: str) -> None:
    """Each stands on the one before it."""
    for name, parent in zip(names, (None, *names), strict=False):
        at = {"created_at": now(), "disk_layers": [f"/layers/{name}"]}
        point = Snapshot(id=f"SNP-{name}", sandbox_id=row.id, name=name, parent=parent, **at)
        await lab.store.snapshots.insert(point)


async def test_of_snapshots_at_once_each_stands_on_the_one_before(lab: Lab) -> None:
    row = await lab.runs(1)
    asked = [lab.fleet.snapshot(AGENT, row.id, SnapshotRequest(name=name)) for name in "aab"]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    (refused,) = [answer for answer in answers if isinstance(answer, DuplicateName)]
    assert refused.remedy == "choose another name"
    assert lab.machine.snapshot.call_count == 2  # type: ignore[attr-defined]
    first, second = await lab.fleet.snapshots(AGENT, row.id)
    assert (first.parent, second.parent) == (None, first.name)
    assert (await lab.fleet.load(row.id)).stands_on == second.name


async def test_what_somebody_notes_of_a_snapshot_is_read_back(lab: Lab) -> None:
    row, note = await lab.runs(1), "before TLS; 'clean' \x1b[31m ✓"
    made = await lab.fleet.snapshot(AGENT, row.id, SnapshotRequest(name="noted", note=note))
    await lab.fleet.snapshot(AGENT, row.id, SnapshotRequest(name="bare"))
    told = {one.name: (one.note, one.auto) for one in await lab.fleet.snapshots(AGENT, row.id)}
    assert told == {"noted": (note, False), "bare": ("", False)} and made.note == note


async def test_of_snapshots_that_go_at_once_none_is_stood_on_any_more(lab: Lab) -> None:
    row = await lab.runs(1, labels={STANDING_ON: "c"})
    await points(lab, row, "a", "b", "c", "d")
    await asyncio.gather(*(lab.fleet.delete_snapshot(AGENT, row.id, name) for name in "abc"))
    (left,) = await lab.fleet.snapshots(AGENT, row.id)
    assert (left.name, left.parent) == ("d", None)
    assert (await lab.fleet.load(row.id)).stands_on is None


async def test_a_restore_counts_as_work_and_is_whole_when_the_next_one_begins(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = now() - timedelta(days=9)
    row = await lab.runs(1, phase=Phase.STOPPED, reason="idle", last_activity_at=long_ago)
    await points(lab, row, "a")
    pausing: list[asyncio.Task[Sandbox]] = []

    async def restore(*_: object, **__: object) -> None:
        pausing.append(asyncio.ensure_future(lab.fleet.pause(OPERATOR, row.id, reason="disk")))
        while not lab.fleet.exclusive(row.id)._waiters:
            await asyncio.sleep(0.01)

    monkeypatch.setattr(lab.machine, "restore", restore, raising=False)
    async with asyncio.timeout(LIMIT_S):
        await lab.fleet.restore(AGENT, row.id, "a")
        await pausing[0]
    found = await lab.fleet.load(row.id)
    assert (found.phase, found.reason, found.stands_on) == (Phase.PAUSED, "disk", "a")
    assert found.last_activity_at and found.last_activity_at > long_ago


@pytest.mark.parametrize("act", ["start", "restore"])
async def test_who_is_off_takes_no_memory_of_the_hosts_reserve_also_two_at_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    acts: dict[str, Act] = {
        "start": lambda fleet, row: fleet.start(AGENT, row.id),
        "restore": lambda fleet, row: fleet.restore(AGENT, row.id, row.sandbox_name),
    }
    first, second = [await lab.runs(number, phase=Phase.STOPPED) for number in (1, 2)]
    for row in (first, second):
        await points(lab, row, row.sandbox_name)
    lab.machine.memory_free_mb = first.memory_mb + lab.config.limits.memory_reserve_mb
    others: list[asyncio.Task[object]] = []

    async def runs(*_: object, **__: object) -> None:
        others.append(asyncio.ensure_future(acts[act](lab.fleet, second)))
        await asyncio.wait(others)

    monkeypatch.setattr(lab.machine, act, runs, raising=False)
    async with asyncio.timeout(LIMIT_S):
        await acts[act](lab.fleet, first)
    refused = others[0].exception()
    assert isinstance(refused, NoSpace)
    assert refused.message == "local has 512 MB of memory free, 512 are asked for and 512 kept back"
    assert (await lab.fleet.load(second.id)).phase is Phase.STOPPED and len(others) == 1
    assert lab.machine.promised == {}, "what runs has its memory, and is promised none"


async def test_a_restore_or_branch_that_would_fill_the_disk_begins_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await lab.runs(1)
    await points(lab, row, "a")
    point = await lab.store.snapshots.find({"sandbox_id": row.id, "name": "a"})
    assert point
    point.has_memory = True
    await lab.store.snapshots.save(point)
    begun = AsyncMock()
    monkeypatch.setattr(lab.machine, "restore", begun, raising=False)
    monkeypatch.setattr(lab.fleet, "_begin", begun)
    free_mb = lab.config.limits.disk_reserve_mb + row.memory_mb - 1
    lab.machine.free_mb = free_mb
    room = Room("local", memory_free_mb=64_000, disk_free_mb=free_mb)
    monkeypatch.setattr(lab.machine, "room", AsyncMock(return_value=room), raising=False)
    with pytest.raises(
        NoSpace, match=f"{free_mb} MB are free on the disk of local, {free_mb + 1} are needed"
    ):
        await lab.fleet.restore(AGENT, row.id, "a")
    wanted = row.model_copy(update={"id": "SBX-00000009", "sandbox_name": "box-9"})
    with pytest.raises(NoSpace, match=f"{free_mb + 1} are needed"):
        await lab.fleet._branched(wanted, point)
    assert not begun.called and (await lab.fleet.load(row.id)).phase is Phase.RUNNING


@pytest.mark.parametrize("act", ["snapshot", "restore"])
async def test_of_three_at_once_for_which_the_disk_is_too_small_one_begins_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    acts: dict[str, Act] = {
        "snapshot": lambda fleet, row: fleet.snapshot(AGENT, row.id, SnapshotRequest(name="b")),
        "restore": lambda fleet, row: fleet.restore(AGENT, row.id, f"a-{row.id}"),
    }
    rows, begun, ends = [await lab.runs(number) for number in (1, 2, 3)], list[str](), asyncio.Event()
    for row in rows:
        name = f"a-{row.id}"
        at = {"created_at": now(), "disk_layers": [f"/layers/{name}"]}
        point = Snapshot(id=f"SNP-{row.id}", sandbox_id=row.id, name=name, has_memory=True, **at)
        await lab.store.snapshots.insert(point)

    async def writes(domain: str, *_: object, **__: object) -> SnapshotFiles:
        begun.append(domain)
        await ends.wait()
        return FILES

    monkeypatch.setattr(lab.machine, act, writes, raising=False)
    reserve_mb, each_mb = lab.config.limits.disk_reserve_mb, rows[0].memory_mb
    lab.machine.free_mb = reserve_mb + 3 * each_mb - 1
    asked = [asyncio.ensure_future(acts[act](lab.fleet, row)) for row in rows]
    try:
        async with asyncio.timeout(LIMIT_S):
            (first,), _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            with pytest.raises(NoSpace, match=f"{reserve_mb + each_mb - 1} MB are free on the disk of local"):
                await first
            while len(begun) < 2:
                await asyncio.sleep(0.01)
        assert sum(lab.machine.promised_disk.values()) == 2 * each_mb
    finally:
        ends.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers].count(NoSpace) == 1
    assert len(begun) == 2 and lab.machine.promised_disk == {}


async def test_what_is_made_while_a_panic_begins_is_undone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before its row says that it runs: a panic that began earlier pauses what it sees running."""
    row = await lab.runs(1, phase=Phase.CREATING)
    seen, discard = list[Phase](), AsyncMock()
    monkeypatch.setattr(lab.fleet, "discard", discard)

    def refuse() -> None:
        seen.append(row.phase)
        raise PanicActive("panic", remedy="wait")

    lab.fleet.heed(refuse)
    with pytest.raises(PanicActive):
        async with lab.fleet.making(row):
            await lab.fleet._is_ready(row, 0.0)
    assert seen == [Phase.RUNNING] and (await lab.fleet.load(row.id)).phase is Phase.RUNNING
    discard.assert_awaited_once()
