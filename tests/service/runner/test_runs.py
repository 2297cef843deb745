"""The row of a run: it says how the run ended, whatever became of who started it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from backend.ansible import Runner
from backend.audit import Audit
from backend.errors import DatabaseDown, RoleDenied, RunnerFailed, RunNotFound, WrongState
from backend.models import Identity, Playbook, Role, Run, RunKind, RunState, now
from backend.playbooks import Runs
from backend.store import Database, EventBus, Store
from tests.service.runner.stage import AGENT, BERT
from tests.service.runner.test_ansible_runner import HOLD, folder_task, play

AUDITOR = Identity(uid=3003, name="carl", role=Role.AUDITOR)
TEST_S = 300  # on a busy machine


class Backend:
    """What a backend has of runs. It dies with its tasks; what it started goes on."""

    def __init__(self, store: Store, bus: EventBus, audit: Audit, runner: Runner, sshd: Any) -> None:
        self.runs = Runs(store, bus, audit, runner, timeout_s=120)
        self._store, self._sshd = store, sshd
        self.targets = ["web-01"]

    async def execute(self, kind: RunKind, *tasks: str) -> Run:
        text = play(*tasks)
        playbook = Playbook(
            id="PBK-1", name="a", sandbox_id="SBX-1", owner_uid=1, changes_id="CHG-1", yaml=text, digest="",
            created_at=now(),
        )  # fmt: skip
        hosts, key = [self._sshd.target(name) for name in self.targets], self._sshd.key
        return await self.runs.execute(kind, playbook, {}, hosts, key, strategy="linear", run_id="RUN-1")

    async def begin(self, kind: RunKind, *tasks: str) -> asyncio.Task[Run]:
        """The same once it runs."""
        task = asyncio.create_task(self.execute(kind, *tasks))
        while not await self._store.runs.find({"state": RunState.RUNNING}):
            await asyncio.sleep(0.05)
        return task

    async def leave(self, kind: RunKind, *tasks: str) -> None:
        """The same, and it dies then."""
        task = await self.begin(kind, *tasks)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


Make = Callable[[], Backend]


@pytest.fixture
def another(store: Store, bus: EventBus, audit: Audit, runner: Runner, sshd: Any) -> Make:
    """A backend of the same runs."""
    return lambda: Backend(store, bus, audit, runner, sshd)


async def test_a_run_that_does_not_start_has_failed_and_says_why(
    store: Store, bus: EventBus, audit: Audit, runs: Path, run_as: str | None, sshd: Any
) -> None:
    runner = Runner(runs, run_as=run_as, python="/nonexistent/python")
    with pytest.raises(RunnerFailed):
        await Backend(store, bus, audit, runner, sshd).execute(RunKind.APPLY, HOLD)
    row = await store.runs.get("RUN-1")
    assert (row.state, row.ended_at is None) == (RunState.FAILED, False)
    assert row.reason.startswith("it did not start: the Ansible supervisor did not start: "), row.reason
    told = await Backend(store, bus, audit, runner, sshd).runs.watch(row)  # as an apply is picked up
    assert (told.state, told.reason) == (RunState.FAILED, row.reason)


async def test_a_run_that_finds_no_place_has_failed(
    store: Store, bus: EventBus, audit: Audit, tmp_path: Path, sshd: Any
) -> None:
    with pytest.raises(OSError, match="full"):
        await Backend(store, bus, audit, Runner(tmp_path / "full"), sshd).execute(RunKind.APPLY, HOLD)
    assert (await store.runs.get("RUN-1")).state is RunState.FAILED


async def test_a_trial_whose_backend_is_gone_is_ended_and_told(
    another: Make, store: Store, runner: Runner, machine: Path
) -> None:
    await another().leave(RunKind.REHEARSAL, folder_task(machine / "first"), HOLD)
    runs = another().runs
    await runs.end_forsaken()
    assert (await runner.wait("RUN-1")).state is RunState.CANCELED
    await runs.end_forsaken()
    row = await store.runs.get("RUN-1")
    assert (row.state, row.ended_at is None) == (RunState.CANCELED, False)


async def test_an_apply_whose_backend_is_gone_goes_on_and_its_end_is_told(
    another: Make, store: Store, runner: Runner, machine: Path
) -> None:
    (gate := machine / "gate").touch()
    waits = f"while test -e {gate}; do sleep 0.1; done"
    wait = f"ansible.builtin.command: {{argv: [sh, -c, '{waits}'], creates: /nonexistent}}"
    await another().leave(RunKind.APPLY, wait, folder_task(machine / "last"))
    runs = another().runs
    await runs.end_forsaken()
    assert (await store.runs.get("RUN-1")).state is RunState.RUNNING
    gate.unlink()
    await runner.wait("RUN-1")
    await runs.end_forsaken()
    row = await store.runs.get("RUN-1")
    assert (row.state, [event.status for event in row.events]) == (RunState.SUCCESSFUL, ["changed"] * 2)
    assert (machine / "last").is_dir()


async def test_who_asks_for_a_run_that_goes_on_is_told_what_is_done_so_far(
    another: Make, machine: Path
) -> None:
    (gate := machine / "gate").touch()
    wait = f"ansible.builtin.command: {{argv: [sh, -c, 'while test -e {gate}; do sleep 0.1; done']}}"
    here = another()
    task = await here.begin(RunKind.APPLY, folder_task(machine / "first"), wait)
    while not (machine / "first").exists() or not (told := await here.runs.get(BERT, "RUN-1")).events:
        await asyncio.sleep(0.1)
    assert [(event.task, event.status) for event in told.events] == [("Task 0", "changed")]
    assert (told.state, told.results["web-01"].changed) == (RunState.RUNNING, 1)
    gate.unlink()
    done = await task
    assert (len(told.events), told.results["web-01"].changed) == (1, 1)  # what was told stays so
    assert (len(done.events), done.results["web-01"].changed) == (2, 2)


async def test_a_run_of_which_there_is_a_row_alone_is_lost(another: Make, store: Store) -> None:
    await store.runs.insert(Run(id="RUN-1", kind=RunKind.DRY_RUN, started_at=now()))
    await another().runs.end_forsaken()
    assert (await store.runs.get("RUN-1")).state is RunState.LOST


async def test_a_run_that_is_followed_is_nobodys_to_end(another: Make) -> None:
    here = another()
    task = await here.begin(RunKind.REHEARSAL, HOLD.replace("120", "3"))
    await here.runs.end_forsaken()
    assert (await task).state is RunState.SUCCESSFUL


async def test_what_a_killed_run_left_in_memory_goes_with_its_row(
    another: Make, store: Store, runner: Runner, runs: Path
) -> None:
    await another().leave(RunKind.APPLY, HOLD)
    in_memory = (runs / "RUN-1" / "private").resolve()
    assert in_memory.is_dir()
    os.kill((await store.runs.get("RUN-1")).runner_pid or 0, signal.SIGKILL)
    assert (await runner.wait("RUN-1")).state is RunState.LOST
    assert in_memory.is_dir()
    await another().runs.end_forsaken()
    assert not in_memory.parent.exists()
    assert (await store.runs.get("RUN-1")).state is RunState.LOST


async def test_of_each_target_so_many_events_are_kept_and_the_others_counted(
    another: Make, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.playbooks.runs.KEPT_EVENTS", 2)
    here = another()
    here.targets = ["web-01", "web-02"]
    tasks = [folder_task(machine / str(number)) for number in range(3)]
    done = await here.execute(RunKind.DRY_RUN, *tasks)
    assert (len(done.events), done.left_out) == (4, 2)


async def test_the_folder_of_an_old_run_that_is_over_goes(
    another: Make, store: Store, runs: Path, machine: Path
) -> None:
    here = another()
    await here.execute(RunKind.REHEARSAL, folder_task(machine / "made"))
    await store.runs.insert(Run(id="RUN-2", kind=RunKind.APPLY, started_at=now()))  # whose end nobody saw
    for name in ("RUN-2", "RUN-3", "RUN-4"):  # the third is half made, the fourth young
        (runs / name).mkdir()
    for name in ("RUN-1", "RUN-2", "RUN-3"):
        os.utime(runs / name, times=(0, 0))
    await here.runs.age()
    assert {folder.name for folder in runs.iterdir()} == {"RUN-2", "RUN-4"}
    assert (await store.runs.get("RUN-1")).state is RunState.SUCCESSFUL


async def test_to_abort_a_run_is_audited_and_needs_no_database(
    another: Make, store: Store, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = another()
    task = await here.begin(RunKind.APPLY, HOLD)
    with pytest.raises(RunNotFound):
        await here.runs.cancel(AGENT, "RUN-1")
    with monkeypatch.context() as away:
        away.setattr(Database, "transaction", _down)
        told = await here.runs.cancel(BERT, "RUN-1")
    assert (told.id, told.kind) == ("RUN-1", RunKind.APPLY)
    assert (await task).state is RunState.CANCELED
    await audit.absorb()
    ((row,), _) = await audit.list(limit=9, action="run.cancel")
    assert (row.actor_name, row.id) == (BERT.name, "RUN-1")
    with pytest.raises(WrongState):
        await here.runs.cancel(BERT, "RUN-1")


async def test_to_abort_a_run_is_audited_before_it_is_done(
    another: Make, runner: Runner, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed_here(run_id: str) -> None:
        raise SystemExit

    monkeypatch.setattr(runner, "cancel", killed_here)
    with pytest.raises(SystemExit):
        await another().runs.cancel(BERT, "RUN-1")
    with pytest.raises(RoleDenied):
        await another().runs.cancel(AUDITOR, "RUN-1")
    ((row,), _) = await audit.list(action="run.cancel")
    assert (row.actor_name, row.id) == (BERT.name, "RUN-1")


def _down(_: Database) -> None:
    raise DatabaseDown("it is away")
