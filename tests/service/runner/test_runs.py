"""The row of a run: it says how the run ended, whatever became of who started it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from backend.ansible import Runner
from backend.errors import RunnerFailed
from backend.models import Playbook, Run, RunKind, RunState, now
from backend.playbooks import Runs
from backend.store import EventBus, Store
from tests.service.runner.test_ansible_runner import HOLD, folder_task, play

TEST_S = 300  # on a busy machine


def runs_of(store: Store, bus: EventBus, runner: Runner) -> Runs:
    """Those of a backend of its own."""
    return Runs(store, bus, runner, timeout_s=120)


async def begin(made: Runs, sshd: Any, kind: RunKind, *tasks: str) -> Run:
    text = play(*tasks)
    playbook = Playbook(
        id="PBK-1", name="a", sandbox_id="SBX-1", owner_uid=1, changes_id="CHG-1", yaml=text, digest="",
        created_at=now(),
    )  # fmt: skip
    return await made.execute(
        kind, playbook, {}, [sshd.target()], sshd.key, strategy="linear", run_id="RUN-1"
    )


async def left(store: Store, bus: EventBus, runner: Runner, sshd: Any, kind: RunKind, *tasks: str) -> None:
    """A run whose backend is gone while it goes on."""
    task = asyncio.create_task(begin(runs_of(store, bus, runner), sshd, kind, *tasks))
    while (await store.runs.find({"state": RunState.RUNNING})) is None:
        await asyncio.sleep(0.05)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_run_that_does_not_start_has_failed_and_says_why(
    store: Store, bus: EventBus, runs: Path, run_as: str | None, sshd: Any
) -> None:
    runner = Runner(runs, run_as=run_as, python="/nonexistent/python")
    with pytest.raises(RunnerFailed):
        await begin(runs_of(store, bus, runner), sshd, RunKind.APPLY, HOLD)
    row = await store.runs.get("RUN-1")
    assert (row.state, row.ended_at is None) == (RunState.FAILED, False)
    assert row.reason.startswith("it did not start: the Ansible supervisor did not start: "), row.reason


async def test_a_run_that_finds_no_place_has_failed(
    store: Store, bus: EventBus, tmp_path: Path, sshd: Any
) -> None:
    runner = Runner(tmp_path / "full")
    with pytest.raises(OSError, match="full"):
        await begin(runs_of(store, bus, runner), sshd, RunKind.APPLY, HOLD)
    assert (await store.runs.get("RUN-1")).state is RunState.FAILED


async def test_a_trial_whose_backend_is_gone_is_ended_and_told(
    store: Store, bus: EventBus, runner: Runner, sshd: Any, machine: Path
) -> None:
    await left(store, bus, runner, sshd, RunKind.REHEARSAL, folder_task(machine / "first"), HOLD)
    made = runs_of(store, bus, runner)
    await made.end_forsaken()
    assert (await runner.wait("RUN-1")).state is RunState.CANCELED
    await made.end_forsaken()
    row = await store.runs.get("RUN-1")
    assert (row.state, row.ended_at is None) == (RunState.CANCELED, False)


async def test_an_apply_whose_backend_is_gone_goes_on_and_its_end_is_told(
    store: Store, bus: EventBus, runner: Runner, sshd: Any, machine: Path
) -> None:
    gate = machine / "gate"
    gate.touch()
    waits = f"while test -e {gate}; do sleep 0.1; done"
    wait = f"ansible.builtin.command: {{argv: [sh, -c, '{waits}'], creates: /nonexistent}}"
    await left(store, bus, runner, sshd, RunKind.APPLY, wait, folder_task(machine / "last"))
    made = runs_of(store, bus, runner)
    await made.end_forsaken()
    assert (await store.runs.get("RUN-1")).state is RunState.RUNNING
    gate.unlink()
    await runner.wait("RUN-1")
    await made.end_forsaken()
    row = await store.runs.get("RUN-1")
    assert (row.state, [event.status for event in row.events]) == (RunState.SUCCESSFUL, ["changed"] * 2)
    assert (machine / "last").is_dir()


async def test_a_run_of_which_there_is_a_row_alone_is_lost(
    store: Store, bus: EventBus, runner: Runner
) -> None:
    await store.runs.insert(Run(id="RUN-1", kind=RunKind.DRY_RUN, started_at=now()))
    await runs_of(store, bus, runner).end_forsaken()
    assert (await store.runs.get("RUN-1")).state is RunState.LOST


async def test_a_run_that_is_followed_is_nobodys_to_end(
    store: Store, bus: EventBus, runner: Runner, sshd: Any
) -> None:
    made = runs_of(store, bus, runner)
    task = asyncio.create_task(begin(made, sshd, RunKind.REHEARSAL, HOLD.replace("120", "3")))
    while (await store.runs.find({"state": RunState.RUNNING})) is None:
        await asyncio.sleep(0.05)
    await made.end_forsaken()
    assert (await task).state is RunState.SUCCESSFUL
