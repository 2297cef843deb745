"""One Ansible run from start to end: its row, its events, its outcome.

The run itself lives in a detached process (backend.ansible); here it is only watched, so a backend that is
killed and started again picks the watching up where the artifacts stand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from backend.ansible import Runner, RunOutcome, RunSpec, SshKey, TargetHost
from backend.audit import Audit
from backend.errors import RunnerFailed, RunNotFound, WrongState
from backend.models import Identity, Playbook, Role, Run, RunEvent, RunKind, RunState, TargetResult, now
from backend.models import new_id as fresh_id
from backend.models.playbook import RUN_OVER
from backend.policy import operators_only
from backend.store import EventBus, Store

KEPT_EVENTS = 2000  # a target
_LIVE = frozenset(RunState) - RUN_OVER
_APPLIES = (RunKind.APPLY, RunKind.ROLLBACK)


class Runs:
    """Starts and watches runs; each is a row that the console can follow."""

    def __init__(
        self, store: Store, events: EventBus, audit: Audit, runner: Runner, *, timeout_s: int
    ) -> None:
        self._store = store
        self._events = events
        self._audit = audit
        self._runner = runner
        self._timeout_s = timeout_s
        self._followed: dict[str, Run] = {}  # by id

    async def execute(
        self,
        kind: RunKind,
        playbook: Playbook,
        files: dict[str, bytes],
        hosts: Sequence[TargetHost],
        key: SshKey,
        *,
        strategy: str,
        approval_id: str = "",
        run_id: str = "",
        secrets: Mapping[str, str] | None = None,
    ) -> Run:
        """The finished run. Check mode for dry runs and verification.

        Its row is written before its process starts, so a backend that dies in between finds the row and no
        artifacts: that run is lost, never repeated. One that does not start has failed: the error goes on to
        the caller.
        """
        run = Run(
            id=run_id or fresh_id("RUN"),
            kind=kind,
            approval_id=approval_id,
            playbook_id=playbook.id,
            targets=[host.name for host in hosts],
            strategy=strategy,
            started_at=now(),
        )
        with self._following(run):
            await self._store.runs.insert(run)
            try:
                check = kind in (RunKind.DRY_RUN, RunKind.VERIFY)
                spec = RunSpec(
                    id=run.id,
                    kind=kind,
                    playbook=playbook.yaml,
                    files=files,
                    hosts=list(hosts),
                    check=check,
                    strategy="mitogen_linear" if strategy == "mitogen_linear" else "linear",
                    timeout_s=self._timeout_s,
                    secrets=dict(secrets or {}),
                    first_alone=kind in _APPLIES,
                )
                handle = await self._runner.start(spec, key=key)
            except Exception as error:
                await self._not_started(run, error)
                raise
            run.state, run.runner_pid = RunState.RUNNING, handle.pid
            await self._save(run)
            return await self._watch(run)

    async def watch(self, run: Run) -> Run:
        """Follow a run to its end, whoever started it; one that is over stays as it ended."""
        if run.state in RUN_OVER:
            return run
        with self._following(run):
            return await self._watch(run)

    async def _watch(self, run: Run) -> Run:
        try:
            async for event in self._runner.follow(run.id, after=len(run.events)):
                if len(run.events) < KEPT_EVENTS * len(run.targets):
                    run.events.append(event)
                else:
                    run.left_out += 1
                _count(run, event)
                await self._publish(run, event)
            outcome = await self._runner.status(run.id)
        except RunNotFound:
            outcome = RunOutcome(run.id, RunState.LOST, reason="its process was never started")
        await self._ended(run, outcome)
        return run

    async def end_forsaken(self) -> None:
        """Of runs that nobody follows, as after a kill or an outage of the database: keep the outcome of
        those that are over, and ask a trial that goes on to end. An apply goes on: half of one is worse."""
        followed = {*self._followed}  # one whose end is kept while the rows are read is nobody's to end
        rows, _ = await self._store.runs.list({"state": _LIVE})
        for run in rows:
            if run.id not in followed | self._followed.keys():
                await self._end(run)

    async def _end(self, run: Run) -> None:
        if not await self._lives(run.id):
            await self.watch(run)
        elif run.kind not in _APPLIES:
            with suppress(WrongState, RunnerFailed):  # over by now, or unsupervised yet: the next time
                await self._runner.cancel(run.id)

    async def age(self) -> None:
        """Forget the folders of old runs that are over, and what others left in memory; their rows stay."""
        await asyncio.to_thread(self._runner.tidy_all)
        for run_id in await asyncio.to_thread(self._runner.old):
            row = await self._store.runs.find({"id": run_id})
            if row is None or row.state in RUN_OVER:
                await asyncio.to_thread(self._runner.forget, run_id)

    async def _not_started(self, run: Run, error: Exception) -> None:
        if not await self._lives(run.id):
            await self._ended(run, RunOutcome(run.id, RunState.FAILED, reason=f"it did not start: {error}"))

    async def _lives(self, run_id: str) -> bool:
        try:
            return (await self._runner.status(run_id)).state in _LIVE
        except RunNotFound:
            return False

    async def _ended(self, run: Run, outcome: RunOutcome) -> None:
        run.state, run.results, run.reason = outcome.state, outcome.results, outcome.reason
        run.ended_at = now()
        await asyncio.to_thread(self._runner.tidy, run.id)
        if await self._store.runs.transition(run.id, [*_LIVE], run):
            await self._tell(run)

    @contextmanager
    def _following(self, run: Run) -> Iterator[None]:
        self._followed[run.id] = run
        try:
            yield
        finally:
            self._followed.pop(run.id, None)

    async def get(self, actor: Identity, run_id: str) -> Run:
        """A run, for operators and auditors, with all its events: of one that is followed those so far."""
        _hide_from_agents(actor, run_id)
        return self._so_far(run_id) or await self.load(run_id)

    async def load(self, run_id: str) -> Run:
        """The row, which has the events once the run is over."""
        return await self._store.runs.get(run_id)

    def _so_far(self, run_id: str) -> Run | None:
        run = self._followed.get(run_id)
        return run and run.model_copy(update={"events": [*run.events], "results": {**run.results}})

    async def cancel(self, actor: Identity, run_id: str) -> Run:
        """Ask Ansible to stop cleanly; what is done stays done, and the run says where. Of a run that is
        followed no database is needed.

        Raises:
            RunNotFound: unknown, or not the caller's.
            RoleDenied: of an auditor.
            WrongState: it is over.
        """
        _hide_from_agents(actor, run_id)
        operators_only(actor)
        await self._audit.note(actor, "run.cancel", "run", run_id)  # no intent, which waits for a database
        await self._runner.cancel(run_id)
        return self._so_far(run_id) or await self.load(run_id)

    async def _publish(self, run: Run, event: RunEvent) -> None:
        data = event.model_dump(mode="json", exclude={"diff", "packages"})
        await self._events.publish("run.event", "run", run.id, data=data, persist=False)

    async def _save(self, run: Run) -> None:
        await self._store.runs.save(run)
        await self._tell(run)

    async def _tell(self, run: Run) -> None:
        await self._events.publish(
            "run.changed", "run", run.id, data={"state": run.state, "approval_id": run.approval_id}
        )


def _count(run: Run, event: RunEvent) -> None:
    """Into the recap of its host, as Ansible counts; the runner's own recap takes its place at the end."""
    if event.host not in run.targets or event.status not in TargetResult.model_fields:
        return
    was = run.results.get(event.host, TargetResult())
    more = {event.status, "ok"} if event.status == "changed" else {event.status}
    run.results[event.host] = was.model_copy(update={name: getattr(was, name) + 1 for name in more})


def _hide_from_agents(actor: Identity, run_id: str) -> None:
    if actor.role is Role.AGENT:
        raise RunNotFound(f"no run {run_id}")
