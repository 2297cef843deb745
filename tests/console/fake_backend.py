"""A backend that answers from the sample and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from backend.errors import BackendDown, FluidError, PaneTaken, SandboxNotFound
from backend.models import (
    Approval,
    ApprovalState,
    Ask,
    AskState,
    AuditRow,
    Changes,
    Command,
    Component,
    Decision,
    Event,
    Evidence,
    FleetView,
    HostView,
    Identity,
    Pane,
    PaneScreen,
    PanicView,
    Playbook,
    PlaybookTask,
    Presence,
    PresenceView,
    Recording,
    Run,
    RunEvent,
    RunKind,
    RunState,
    Sandbox,
    Snapshot,
    TakeOverEnd,
    TargetResult,
    now,
)
from backend.models.sandbox import STANDING_ON
from tests.console.sample import (
    APPLY_RUN,
    APPROVAL_ID,
    CASTS,
    HOSTILE,
    YAML,
    audit_rows,
    changes,
    fleet,
    recordings,
    runs,
)


class FakeHands:
    """A pane that is typed into: ``typed`` holds the bytes, :meth:`end` is the backend's word."""

    def __init__(self) -> None:
        self.typed = b""
        self._end: asyncio.Future[TakeOverEnd] = asyncio.get_running_loop().create_future()

    async def type(self, data: bytes) -> None:
        self.typed += data

    async def hand_back(self) -> None:
        self.end("handed_back", words="%3 is its agent's again")

    def end(self, why: str, by: str = "", words: str = "") -> None:
        self._end.set_result(TakeOverEnd(why=why, by=by, words=words))

    async def over(self) -> TakeOverEnd:
        return await self._end


class FakeBackend:
    """Answers from the sample; ``asked`` holds every call that changes something."""

    def __init__(self, view: FleetView | None = None) -> None:
        self.at = now()
        self.view = view or fleet(self.at)
        self.asked: list[tuple[Any, ...]] = []
        self.down = False
        self.stream: asyncio.Queue[Event] = asyncio.Queue()
        self.panes: dict[str, list[str]] = {
            "%3": [
                "root@nginx-tls:~# nginx -t",
                "nginx: the configuration file /etc/nginx/nginx.conf syntax is \x1b[32mok\x1b[0m",
                "root@nginx-tls:~# systemctl reload nginx",
                HOSTILE,
                "root@nginx-tls:~# ",
            ],
            "%4": ["root@pg-upgrade:~# pg_lsclusters", "13  main 5432 down", "15  main 5433 online"],
        }
        self.painted = asyncio.Event()
        self.changed = changes(self.at)
        self.ran_before = 0  # so many commands before the sample's
        self.secrets: list[str] = []  # names of the playbook's
        self.cursor: tuple[int, int] | None = None
        self.hands: FakeHands | None = None
        self.may_take = asyncio.Event()  # not set: the backend takes its time
        self.may_take.set()
        self.ended: list[Approval] = []  # so long ago that the fleet does not tell of them
        self.may_answer = asyncio.Event()  # not set: what is long takes longer
        self.may_answer.set()
        self.may_release = asyncio.Event()  # not set: a panic's release takes longer
        self.may_release.set()
        self.others: list[Presence] = []
        self.looked: list[tuple[str, str]] = []
        self._runs = runs(self.at)
        self.rows = audit_rows(self.at)
        self.recorded = recordings(self.at)

    def _here(self) -> None:
        if self.down:
            raise BackendDown("no backend listens at operator.sock", remedy="start it: fluid serve")

    async def tell(self, kind: str, id: str, sandbox_id: str = "", **data: Any) -> None:
        self.view.seq += 1
        noun = kind.partition(".")[0]
        event = Event(
            seq=self.view.seq, at=now(), kind=kind, noun=noun, id=id, sandbox_id=sandbox_id, data=data
        )
        await self.stream.put(event)

    def approve_state(self, state: ApprovalState, **more: Any) -> Approval:
        self.view.approvals[0] = self.view.approvals[0].model_copy(update={"state": state, **more})
        return self.view.approvals[0]

    async def fleet(self) -> FleetView:
        self._here()
        return self.view.model_copy(deep=True)

    async def sandbox(self, id: str) -> Sandbox:
        self._here()
        found = next((one for one in self.view.sandboxes if one.id == id), None)
        if found is None:
            raise SandboxNotFound(f"no sandbox {id}")
        return found.model_copy(deep=True)

    async def events(self, after: int | None = None) -> AsyncIterator[Event]:
        self.asked.append(("events", after))
        while True:
            yield await self.stream.get()

    async def _host(self, verb: str, name: str, status: str) -> HostView:
        self.asked.append((verb, name))
        host = next(one for one in self.view.hosts if one.name == name)
        host.status = status
        return host

    async def drain_host(self, name: str) -> HostView:
        return await self._host("drain_host", name, "draining")

    async def resume_host(self, name: str) -> HostView:
        return await self._host("resume_host", name, "up")

    async def audit(
        self, *, sandbox_id: str | None = None, action: str | None = None, after: int = 0, limit: int = 200
    ) -> list[AuditRow]:
        self.asked.append(("audit", sandbox_id, limit))
        self._here()
        kept = [row for row in self.rows if sandbox_id in (None, row.sandbox_id) and row.seq > after]
        await self.may_answer.wait()
        return kept[::-1][:limit]

    async def panic(self) -> PanicView:
        self.asked.append(("panic",))
        await self.may_answer.wait()
        self._here()
        self.view.components.append(Component(name="panic", status="ON"))
        return PanicView(
            since=self.at, by="ops", paused=["SBX-00000001"], failed={"dns-audit": "host lost"}, revoked=True
        )

    async def release_panic(self) -> PanicView:
        self.asked.append(("release_panic",))
        await self.may_release.wait()
        self.view.components.clear()
        return PanicView(since=self.at, by="ops", paused=["SBX-00000001"])

    async def whoami(self) -> Identity:
        self._here()
        return Identity(uid=1000, name="ops")

    async def approvals(self, requester_uid: int | None = None) -> list[Approval]:
        self._here()
        known = [*self.view.approvals, *self.ended]
        return [one for one in known if requester_uid in (None, one.requester_uid)]

    async def approval(self, id: str) -> Approval:
        self._here()
        known = [*self.view.approvals, *self.ended]
        found = next((one for one in known if one.id == id), self.view.approvals[0])
        return found.model_copy(deep=True)

    async def dry_run(self, approval_id: str) -> Approval:
        self.asked.append(("dry_run", approval_id))
        return await self.approval(approval_id)

    async def pack(self, approval_id: str) -> dict[str, Any]:
        self._here()
        approval, rows = await self.approval(approval_id), [row for row in self.rows if row.id == approval_id]
        return {
            "approval": approval.model_dump(mode="json"),
            "audit": [row.model_dump(mode="json") for row in rows],
        }

    async def approve(
        self, approval_id: str, digest: str, comment: str = "", secrets: Mapping[str, str] | None = None
    ) -> Approval:
        self.asked.append(("approve", approval_id, digest, *([dict(secrets)] if secrets else [])))
        at = now()
        self._runs[APPLY_RUN] = Run(
            id=APPLY_RUN,
            kind=RunKind.APPLY,
            state=RunState.RUNNING,
            targets=["web-01", "web-02"],
            events=[RunEvent(at=at, host="web-01", task="Install nginx", task_index=0, status="changed")],
            started_at=at,
        )
        decision = Decision(verb="approve", uid=1000, name="ops", at=at, digest=digest)
        approval = self.approve_state(
            ApprovalState.APPLYING, apply_run=APPLY_RUN, decisions=[decision], progress="task 1 of 3"
        )
        await self.tell("approval.changed", approval_id, state="applying")
        return approval

    async def reject(self, approval_id: str, reason: str, changes_requested: bool = False) -> Approval:
        self.asked.append(("reject", approval_id, reason, changes_requested))
        await self.may_answer.wait()
        self._here()
        approval = self.approve_state(ApprovalState.REJECTED, outcome=reason)
        await self.tell("approval.changed", approval_id, state="rejected")
        return approval

    async def answer(self, request_id: str, approved: bool, comment: str = "") -> Ask:
        self.asked.append(("answer", request_id, approved, comment))
        status = AskState.APPROVED if approved else AskState.REJECTED
        self.view.asks[0] = self.view.asks[0].model_copy(update={"status": status, "comment": comment})
        return self.view.asks[0]

    async def run_of(self, id: str) -> Run:
        self._here()
        return self._runs[id].model_copy(deep=True)

    async def finish_apply(self) -> None:
        """The apply ends well on both targets."""
        run = self._runs[APPLY_RUN]
        run.state, run.ended_at = RunState.SUCCESSFUL, now()
        run.results = {name: TargetResult(ok=9, changed=8) for name in run.targets}
        self.approve_state(
            ApprovalState.APPLIED, verified_changed=0, progress="", outcome="applied to 2 targets"
        )
        await self.tell("approval.changed", APPROVAL_ID, state="applied")

    async def cancel_run(self, id: str) -> Run:
        self.asked.append(("cancel_run", id))
        return self._runs[id]

    async def roll_back(self, run_id: str, target: str = "") -> Approval:
        self.asked.append(("roll_back", run_id, target))
        self._here()
        taken = self.view.approvals[0]
        approval = taken.model_copy(
            update={
                "id": "APR-7be00d11",
                "state": ApprovalState.REHEARSING,
                "rolls_back": run_id,
                "progress": "the first run",
                "reason": f"takes back {run_id}",
                "evidence": Evidence(),
                "apply_run": "",
                "decisions": [],
            }
        )
        self.view.approvals.append(approval)
        await self.tell("approval.changed", approval.id, state="rehearsing")
        return approval

    async def changes(self, id: str, approval: str = "") -> Changes:
        self._here()
        return self.changed

    async def diff(self, id: str, from_: str, to: str = "now", to_sandbox: str = "") -> Changes:
        self.asked.append(("diff", id, from_, to, *([to_sandbox] if to_sandbox else [])))
        await self.may_answer.wait()
        points = {"from_snapshot": from_, "to_snapshot": to, "to_sandbox": to_sandbox}
        return self.changed.model_copy(update=points)

    async def playbook(self, id: str) -> Playbook:
        self._here()
        names = [("Install nginx", "apt"), ("Site with TLS", "copy"), ("Enable nginx", "systemd_service")]
        return Playbook(
            id=id,
            name="nginx-tls",
            sandbox_id="SBX-00000001",
            yaml=YAML,
            tasks=[PlaybookTask(name=name, module=f"ansible.builtin.{module}") for name, module in names],
            notes=["/var/log is not managed"],
            secrets=self.secrets,
            digest="aa" * 32,
            created_at=self.at,
        )

    async def commands(self, id: str, *, limit: int = 100, offset: int = 0) -> list[Command]:
        return self.ran(id)[offset : offset + limit]

    async def command(self, id: str) -> Command:
        return next(one for one in self.ran("SBX-00000001") if one.id == id)

    def ran(self, id: str) -> list[Command]:
        def command(number: int, words: str, exit_code: int, stdout: str = "", stderr: str = "") -> Command:
            return Command(
                id=f"CMD-{number:08x}",
                sandbox_id=id,
                command=words,
                exit_code=exit_code,
                stdout=stdout,
                stderr=stderr,
                started_at=self.at,
                duration_ms=420,
            )

        return [
            *(command(9 + number, f"true {number}", 0) for number in range(self.ran_before)),
            command(1, "apt-get install -y nginx", 0, "Setting up nginx (1.22.1-9) ...\n"),
            command(2, "nginx -t", 1, stderr="nginx: [emerg] unknown directive\n"),
            command(3, f"echo {HOSTILE}", 0, HOSTILE),
        ]

    async def restore(self, id: str, name: str) -> None:
        """As an agent does it: the sandbox stands on an earlier point from now on."""
        (await self._sandbox("restore", id, name)).labels[STANDING_ON] = name

    async def snapshots(self, id: str) -> list[Snapshot]:
        return [
            Snapshot(id=f"SNP-{i}", sandbox_id=id, name=name, created_at=self.at + timedelta(seconds=i))
            for i, name in enumerate(("clean", "before", "after"))
        ]

    async def pane_screens(self, pane_id: str) -> AsyncIterator[PaneScreen]:
        self.asked.append(("pane_stream", pane_id))
        while True:
            yield PaneScreen(rows=list(self.panes[pane_id]), cursor=self.cursor)
            self.painted.clear()
            await self.painted.wait()

    @asynccontextmanager
    async def take_over(self, pane_id: str, *, force: bool = False) -> AsyncIterator[FakeHands]:
        self.asked.append(("take_over", pane_id, force))
        await self.may_take.wait()
        self._here()
        pane = self.pane(pane_id)
        if pane.taken_by and not force:
            raise PaneTaken(f"{pane.taken_by} types into {pane_id}", remedy="press i again")
        pane.taken_by, pane.taken_at = "ops", now()
        self.hands = FakeHands()
        try:
            yield self.hands
        finally:
            pane.taken_by, self.hands = "", None

    def pane(self, pane_id: str) -> Pane:
        return next(one for one in self.view.panes if one.pane_id == pane_id)

    async def look(self, console: str, place: str, id: str = "") -> PresenceView:
        self._here()
        self.looked.append((place, id))
        return PresenceView(uid=1000, name="ops", here=list(self.others))

    def other(self, name: str, place: str, id: str) -> Presence:
        return Presence(uid=1001, name=name, console="ff" * 8, place=place, id=id, since=self.at)

    async def read_pane(self, pane_id: str, last_n_lines: int = 0) -> list[str]:
        return [f"history line {number}" for number in range(200)] + self.panes[pane_id]

    async def recordings(self, sandbox_id: str | None = None) -> list[Recording]:
        self.asked.append(("recordings", sandbox_id))
        self._here()
        return [one for one in self.recorded if sandbox_id in (None, one.sandbox_id)]

    async def recording_cast(self, id: str) -> bytes:
        self.asked.append(("recording_cast", id))
        self._here()
        return CASTS[id].encode()

    async def _sandbox(self, verb: str, id: str, *more: Any) -> Sandbox:
        self.asked.append((verb, id, *more))
        found = next((one for one in self.view.sandboxes if one.id == id), None)
        if found is None:
            raise FluidError(f"no sandbox {id}")
        return found

    async def pause(self, id: str) -> Sandbox:
        return await self._sandbox("pause", id)

    async def resume(self, id: str) -> Sandbox:
        return await self._sandbox("resume", id)

    async def stop(self, id: str) -> Sandbox:
        stopped = await self._sandbox("stop", id)
        await self.may_answer.wait()
        return stopped

    async def destroy(self, id: str) -> None:
        await self._sandbox("destroy", id)

    async def extend(self, id: str, seconds: int) -> Sandbox:
        return await self._sandbox("extend", id, seconds)

    async def snapshot(self, id: str, name: str) -> Snapshot:
        await self._sandbox("snapshot", id, name)
        return Snapshot(id="SNP-9", sandbox_id=id, name=name, created_at=now())
