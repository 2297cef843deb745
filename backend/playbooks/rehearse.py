"""The rehearsal: the playbook on a pristine fork that its author never touched, judged by the disk.

Three frozen layers tell everything: before, after the first run, after the second. First against before is
what will be approved; second against first must be nothing; sandbox against first is the residual. Where the
sandbox's disk could not be read, the twin is asked as the sandbox was, and the evidence says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from backend.changes import Point, running
from backend.changes.noise import SERVICE_STATE
from backend.changes.residuals import MISSING
from backend.fleet import Fleet
from backend.models import (
    FROM_GUEST,
    Changes,
    Evidence,
    Playbook,
    ResidualRow,
    Run,
    RunKind,
    RunState,
    Sandbox,
    TargetResult,
    wire_path,
)
from backend.playbooks.builders import DATA, OWN, not_redone
from backend.playbooks.grammar import CheckedPlaybook, check
from backend.playbooks.rollback import STAYS
from backend.playbooks.runs import Runs
from backend.playbooks.secrets import compare, stand_ins
from backend.playbooks.touched import written
from backend.store import Store

Progress = Callable[[str], Awaitable[None]]


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal yields: evidence, and the run that dry runs are measured against."""

    evidence: Evidence
    run: Run | None


class Rehearser:
    """Makes the twin, runs twice, compares, and throws the twin away."""

    def __init__(self, store: Store, fleet: Fleet, runs: Runs) -> None:
        self._store = store
        self._fleet = fleet
        self._differ = fleet.differ
        self._runs = runs

    async def rehearse(
        self,
        playbook: Playbook,
        files: dict[str, bytes],
        sandbox: Sandbox,
        wanted: Changes,
        *,
        approval_id: str,
        progress: Progress,
        applied: tuple[Playbook, dict[str, bytes]] | None = None,
    ) -> Rehearsed:
        """Evidence without the dry runs. A failed rehearsal is evidence too: ``failure`` says why.

        ``applied`` is run on the twin first: what ``playbook`` is to take back.
        """
        evidence = Evidence(
            sandbox_changes_id=wanted.id, sandbox_changes_sha256=await asyncio.to_thread(wanted.sha256)
        )
        await progress("forking a pristine twin")
        twin = await self._fleet.fork_twin(sandbox, purpose="rehearsal")
        try:
            if applied and (failed := await self._apply_first(twin, *applied, wanted, approval_id, progress)):
                evidence.failure = failed
                return Rehearsed(evidence, None)
            return await self._on_twin(twin, playbook, files, wanted, evidence, approval_id, progress)
        finally:
            await self._fleet.discard(twin)

    async def _apply_first(
        self,
        twin: Sandbox,
        playbook: Playbook,
        files: dict[str, bytes],
        wanted: Changes,
        approval_id: str,
        progress: Progress,
    ) -> str:
        """Why the twin could not be brought to where the target is; empty when it was."""
        await progress("applying what is to be rolled back")
        checked = check(playbook.yaml.encode(), playbook.files, secrets=playbook.secrets)
        values = stand_ins(checked, wanted)
        run = await self._run(RunKind.REHEARSAL, twin, playbook, files, approval_id, values)
        if run.state is RunState.SUCCESSFUL:
            return ""
        return f"the playbook to be rolled back {run.state} on the twin: {_why(run)}"

    async def _on_twin(
        self,
        twin: Sandbox,
        playbook: Playbook,
        files: dict[str, bytes],
        wanted: Changes,
        evidence: Evidence,
        approval_id: str,
        progress: Progress,
    ) -> Rehearsed:
        evidence.read_from = wanted.read_from
        evidence.quiesced = wanted.quiesced if wanted.sandbox_id else None  # a roll back is of no sandbox's
        evidence.notes = list(wanted.notes)
        evidence.strategy = self._fleet.strategy()
        evidence.opaque = [task.name for task in playbook.tasks if task.opaque]
        checked = check(playbook.yaml.encode(), playbook.files, secrets=playbook.secrets)
        values = stand_ins(checked, wanted)
        before, began = await self._point(twin, evidence), await self._fleet.what_runs(twin)
        await progress("rehearsing: first run")
        first = await self._run(RunKind.REHEARSAL, twin, playbook, files, approval_id, values)
        evidence.rehearsal_run, evidence.rehearsal = first.id, _recap(first)
        evidence.unrehearsed = unrehearsed(checked, first)
        after = await self._point(twin, evidence, before)
        named = written(checked)
        done = await self._differ.diff(
            twin.id, "before", "first run", before, after,
            quiesced=True, made_before=True, named=named,
        )  # fmt: skip
        done.running = running.compare(began, await self._fleet.what_runs(twin), "before", "first run")
        await self._store.changes.insert(done)
        evidence.changes_id, evidence.changes_sha256 = done.id, await asyncio.to_thread(done.sha256)
        evidence.notes = notes_of(wanted, done)
        evidence.residual = reasoned(await asyncio.to_thread(compare, wanted, done, checked), playbook.notes)
        evidence.residual += not_redone(playbook.notes, opaque_commands(checked))
        evidence.risk = [note for note in playbook.notes if note.startswith((DATA, OWN, STAYS))]
        if first.state is not RunState.SUCCESSFUL:
            evidence.failure = f"the rehearsal {first.state}: {_why(first)}"
            return Rehearsed(evidence, first)
        await progress("rehearsing: second run, must change nothing")
        second = await self._run(RunKind.REPEAT, twin, playbook, files, approval_id, values)
        evidence.repeat_run, evidence.again = second.id, _recap(second)
        await progress("comparing the disks")
        await self._repeat(evidence, twin, after, wanted, named)
        # As late as can be: what was just started may not listen yet.
        evidence.running = running.unlike(wanted.running, began, await self._fleet.what_runs(twin))
        if second.state is not RunState.SUCCESSFUL:
            evidence.failure = f"the second run {second.state}: {_why(second)}"
        return Rehearsed(evidence, first)

    async def _point(self, twin: Sandbox, evidence: Evidence, since: Point | None = None) -> Point:
        """The twin as it is now, by the way in which the sandbox was read."""
        if evidence.read_from == FROM_GUEST:
            return await self._fleet.told(twin, since)
        return await self._fleet.freeze(twin)

    async def _repeat(
        self, evidence: Evidence, twin: Sandbox, after: Point, wanted: Changes, named: frozenset[bytes]
    ) -> None:
        """What the second run changed, by the disk, or the guest, and not by Ansible's word. What a service
        keeps for itself in the sandbox, and no command named, its like on the twin goes on writing."""
        last = await self._point(twin, evidence, after)
        again = await self._differ.diff(
            twin.id, "first run", "second run", after, last,
            quiesced=True, made_before=True, named=named,
        )  # fmt: skip
        kept = {change.path for change in wanted.files if change.hidden == SERVICE_STATE}
        kept -= {wire_path(path.removesuffix(b"**").rstrip(b"/")) for path in named}
        moved = [change.path for change in again.shown() if change.path not in kept]
        moved += [f"package {package.name}" for package in again.packages]
        moved += [f"user {user.name}" for user in again.users]
        moved += [f"group {group.name}" for group in again.groups]
        moved += [f"{setting.kind} {setting.name}" for setting in again.stated()]
        evidence.again_changed, evidence.again_paths = len(moved), moved[:100]

    async def _run(
        self,
        kind: RunKind,
        twin: Sandbox,
        playbook: Playbook,
        files: dict[str, bytes],
        approval_id: str,
        secrets: dict[str, str],
    ) -> Run:
        strategy = self._fleet.strategy()
        async with self._fleet.ansible_access(twin) as (host, key):
            return await self._runs.execute(
                kind,
                playbook,
                files,
                [host],
                key,
                strategy=strategy,
                approval_id=approval_id,
                secrets=secrets,
            )


def unrehearsed(playbook: CheckedPlaybook, first: Run) -> list[str]:
    """The tasks and handlers that the first run did not try: skipped, not notified, or a command whose guard
    kept it from running. In a loop nobody sees for which items a command ran."""
    seen: dict[int, set[str]] = {}
    for event in first.events:
        seen.setdefault(event.task_index, set()).add(event.status)
    whole = first.state is RunState.SUCCESSFUL
    found = []
    for task in (*playbook.tasks, *playbook.handlers):
        how = seen.get(task.index, set())
        ran = "changed" in how and len(task.loop) < 2 if task.opaque else bool(how - {"skipped"})
        if not ran and (how or whole) and not task.module.endswith(".meta") and "failed" not in how:
            found.append(task.name)
    return found


def notes_of(wanted: Changes, done: Changes) -> list[str]:
    """What the two changes say of themselves; of the rehearsal's only what is not the sandbox's too."""
    own = [f"in the rehearsal: {note}" for note in done.notes if note not in wanted.notes]
    return [*dict.fromkeys((*wanted.notes, *own))]


def reasoned(rows: Sequence[ResidualRow], notes: Sequence[str]) -> list[ResidualRow]:
    """The rows, of what is missing with the reason that was noted when the playbook was made."""
    why = dict(note.partition(": ")[::2] for note in notes)
    return [
        row.model_copy(update={"reason": why[row.name]}) if row.kind == MISSING and row.name in why else row
        for row in rows
    ]


def opaque_commands(checked: CheckedPlaybook) -> list[list[str]]:
    """The argument lists of the tasks that no module says the end of."""
    found = (task.args.get("argv") for task in (*checked.tasks, *checked.handlers) if task.opaque)
    return [[str(word) for word in argv] for argv in found if isinstance(argv, list)]


def _recap(run: Run) -> TargetResult:
    return next(iter(run.results.values()), TargetResult())


def _why(run: Run) -> str:
    bad = next((event for event in run.events if event.status in ("failed", "unreachable")), None)
    return f"{bad.task}: {bad.message}"[:500] if bad else run.reason
