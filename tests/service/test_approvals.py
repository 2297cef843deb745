"""Deciding, over a real database and a real audit: who may, what is stale, who was first.

Only the machines are stood in for: no rehearsal runs here and nothing is applied.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.approvals import ApprovalBook, Approvals, Asks, Panic
from backend.approvals import Pipeline as RealPipeline
from backend.audit import Audit
from backend.background import Background
from backend.client import AsyncFluid
from backend.config import Config, LimitConfig
from backend.errors import (
    AlreadyDecided,
    ApprovalNotFound,
    DatabaseDown,
    EvidenceIncomplete,
    FluidError,
    HypervisorFailed,
    InvalidValue,
    LimitReached,
    MissingProgram,
    NoSpace,
    NotFound,
    PanicActive,
    RoleDenied,
    RunNotFound,
    SandboxNotFound,
    SelfApproval,
    StaleDigest,
    TargetLocked,
    TimedOut,
    WrongState,
)
from backend.fleet import Fleet, Trust
from backend.guests import CertificateAuthority
from backend.models import (
    Approval,
    ApprovalState,
    Ask,
    AskRequest,
    AskState,
    Changes,
    ChangeVerb,
    Decision,
    Evidence,
    FileChange,
    Identity,
    Phase,
    Playbook,
    Role,
    Run,
    RunKind,
    RunState,
    Sandbox,
    TargetEvidence,
    TargetResult,
    new_id,
    now,
)
from backend.models.approval import APPROVAL_OVER
from backend.playbooks import CheckedPlaybook, CheckedTask, Runs
from backend.store import EventBus, Store
from backend.targets import ResolvedTarget
from tests.fix_doors import Backend

AGENT = Identity(uid=2001, name="agent", role=Role.AGENT)
OTHER_AGENT = Identity(uid=2002, name="other", role=Role.AGENT)
ANNA = Identity(uid=3001, name="anna", role=Role.OPERATOR)
BERT = Identity(uid=3002, name="bert", role=Role.OPERATOR)
AUDITOR = Identity(uid=3003, name="carl", role=Role.AUDITOR)


class Pipeline:
    """Where the machines would be."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.applied: list[str] = []

    def blockers(self, approval: Approval) -> list[str]:
        return self.missing

    def apply(self, approval: Approval, secrets: Mapping[str, str]) -> None:
        self.applied.append(approval.id)
        self.given = secrets

    async def pick_up(self) -> None: ...

    async def resume(self, approvals: list[Approval]) -> None:
        self.resumed = approvals


class Playbooks:
    """One playbook, with the secrets that a test gives it."""

    def __init__(self) -> None:
        self.secrets: list[str] = []

    async def load(self, playbook_id: str) -> None: ...

    def check(self, playbook: None) -> CheckedPlaybook:
        return CheckedPlaybook([], [], {}, self.secrets)


class Targets:
    """One group that everybody may approve."""

    def resolve(self, names: Sequence[str]) -> list[Any]:
        return [SimpleNamespace(name=name, group="web", approvers=("*",), approvals=1) for name in names]


@pytest.fixture
def audit(store: Store, tmp_path: Path) -> Audit:
    return Audit(store, tmp_path / "spool", tmp_path / "key", tmp_path / "head")


@pytest.fixture
def book(store: Store, bus: EventBus) -> ApprovalBook:
    return ApprovalBook(store, bus)


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


class Machines:
    """Two sandboxes run, one does not answer, one is paused by its owner."""

    def __init__(self) -> None:
        at = now()
        phases = {"a": Phase.RUNNING, "b": Phase.RUNNING, "stuck": Phase.RUNNING, "own": Phase.PAUSED}
        self.rows = {
            f"SBX-{name}": Sandbox(
                id=f"SBX-{name}",
                sandbox_name=name,
                base_image="debian-12",
                phase=phase,
                created_at=at,
                updated_at=at,
            )
            for name, phase in phases.items()
        }
        self.revoked_of: list[list[str]] = []  # at each time, what was running
        self.no_space = False
        self.outage: Exception | None = None
        self.at_work = asyncio.Event()  # cleared: somebody has the sandboxes' locks
        self.at_work.set()

    async def revoke(self, actor: Identity) -> None:
        if self.no_space:
            raise OSError("no space")
        self.revoked_of.append([name for name, row in self.rows.items() if row.phase is Phase.RUNNING])

    async def list(self, actor: Identity, /, *, limit: int = 100) -> tuple[list[Sandbox], int]:
        if self.outage:
            raise self.outage
        return list(self.rows.values()), len(self.rows)

    def heed(self, refuse: Callable[[], None]) -> None:
        self.refuse = refuse

    async def stand_still(self) -> tuple[list[str], dict[str, str]]:
        self.rows["SBX-a"].phase = self.rows["SBX-b"].phase = Phase.PAUSED
        return ["SBX-b", "SBX-a"], {"stuck": "libvirt does not answer"}

    async def pause(self, actor: Identity, sandbox_id: str, *, reason: str = "") -> Sandbox:
        if sandbox_id == "SBX-stuck":
            raise TimedOut("the host does not answer")
        await self.at_work.wait()
        if self.rows[sandbox_id].phase is not Phase.RUNNING:
            raise WrongState(f"{sandbox_id} does not run")
        self.rows[sandbox_id].phase = Phase.PAUSED
        return self.rows[sandbox_id]

    async def resume(self, actor: Identity, sandbox_id: str) -> Sandbox:
        self.rows[sandbox_id].phase = Phase.RUNNING
        return self.rows[sandbox_id]


class Owned:
    """SBX-1, named web, is the first agent's."""

    async def get(self, actor: Identity, sandbox_id: str) -> Sandbox:
        if actor is not AGENT or sandbox_id not in ("SBX-1", "web"):
            raise SandboxNotFound(f"no sandbox {sandbox_id}")
        at = now()
        return Sandbox(id="SBX-1", sandbox_name="web", base_image="debian-12", created_at=at, updated_at=at)


@pytest.fixture
def asks(store: Store, bus: EventBus, audit: Audit) -> Asks:
    return Asks(store, bus, audit, cast("Fleet", Owned()))


@pytest.fixture
def machines() -> Machines:
    return Machines()


@pytest.fixture
def panic(audit: Audit, bus: EventBus, tmp_path: Path, machines: Machines) -> Panic:
    return Panic(tmp_path / "panic.json", machines, machines.revoke, audit, bus)


@pytest.fixture
def playbooks() -> Playbooks:
    return Playbooks()


@pytest.fixture
def approvals(
    store: Store, book: ApprovalBook, audit: Audit, pipeline: Pipeline, playbooks: Playbooks, panic: Panic
) -> Approvals:
    parts: list[Any] = [
        Config(),
        store,
        book,
        pipeline,
        audit,
        None,
        playbooks,
        None,
        Targets(),
        None,
        panic.refuse,
    ]
    return Approvals(*parts)


async def pending(book: ApprovalBook, **fields: Any) -> Approval:
    at = now()
    approval = Approval(
        id=new_id("APR"),
        sandbox_id="SBX-00000001",
        playbook_id="PBK-00000001",
        targets=["web-01"],
        reason="tls",
        requester_uid=AGENT.uid,
        state=ApprovalState.PENDING,
        digest="d" * 64,
        created_at=at,
        updated_at=at,
        expires_at=at + timedelta(hours=1),
    ).model_copy(update=fields)
    await book.add(approval)
    return approval


async def test_a_yes_to_the_digest_starts_the_apply_and_is_in_the_audit(
    approvals: Approvals, book: ApprovalBook, pipeline: Pipeline, audit: Audit
) -> None:
    asked = await pending(book)
    decided = await approvals.approve(ANNA, asked.id, asked.digest, "fine")
    assert decided.state is ApprovalState.APPROVED and pipeline.applied == [asked.id]
    rows, _ = await audit.list(action="approval.approve")
    assert [row.step for row in rows] == ["outcome", "intent"] and rows[0].actor_uid == ANNA.uid


async def test_what_is_under_way_says_since_when_whatever_else_happens_to_its_request(
    approvals: Approvals, book: ApprovalBook
) -> None:
    def says(words: str) -> Callable[[Approval], None]:
        def change(row: Approval) -> None:
            row.progress = words

        return change

    asked = await pending(book, threshold=2)
    begun = await book.change(asked.id, [ApprovalState.PENDING], says("dry run on web-01"))
    assert begun.progress_since == begun.updated_at
    decided = await approvals.approve(ANNA, asked.id, asked.digest)
    assert (decided.progress_since, decided.updated_at > begun.updated_at) == (begun.progress_since, True)
    over = await book.change(asked.id, [ApprovalState.PENDING], says(""))
    assert over.progress_since is None


async def test_the_second_operator_learns_who_was_first(approvals: Approvals, book: ApprovalBook) -> None:
    asked = await pending(book)
    await approvals.reject(ANNA, asked.id, "not on a Friday")
    with pytest.raises(AlreadyDecided, match="anna") as refused:
        await approvals.approve(BERT, asked.id, asked.digest)
    assert refused.value.status == 409
    assert (await approvals.get(BERT, asked.id)).state is ApprovalState.REJECTED


async def test_what_is_past_its_time_is_not_approved_though_nobody_ended_it_yet(
    approvals: Approvals, book: ApprovalBook, pipeline: Pipeline
) -> None:
    asked = await pending(book, expires_at=now() - timedelta(seconds=1))
    with pytest.raises(WrongState, match="expired at"):
        await approvals.approve(ANNA, asked.id, asked.digest)
    assert pipeline.applied == []
    await approvals.expire()
    assert (await book.load(asked.id)).state is ApprovalState.EXPIRED


async def test_what_is_decided_while_it_expires_keeps_no_other_from_it(
    approvals: Approvals, book: ApprovalBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = now() - timedelta(seconds=1)
    other, decided = await pending(book, expires_at=long_ago), await pending(book, expires_at=long_ago)
    seen = book.open

    async def decided_then(*args: Any) -> list[Approval]:
        rows = await seen(*args)
        await approvals.reject(ANNA, decided.id, "not on a Friday")
        return rows

    monkeypatch.setattr(book, "open", decided_then)
    await approvals.expire()
    states = [(await book.load(row.id)).state for row in (decided, other)]
    assert states == [ApprovalState.REJECTED, ApprovalState.EXPIRED]


async def test_another_digest_is_stale(approvals: Approvals, book: ApprovalBook, pipeline: Pipeline) -> None:
    asked = await pending(book)
    with pytest.raises(StaleDigest):
        await approvals.approve(ANNA, asked.id, "e" * 64)
    assert pipeline.applied == []


async def test_the_yes_that_starts_the_apply_carries_the_secrets(
    approvals: Approvals, book: ApprovalBook, pipeline: Pipeline, playbooks: Playbooks, audit: Audit
) -> None:
    playbooks.secrets = ["content_of_x"]
    asked = await pending(book, threshold=2)
    await approvals.approve(BERT, asked.id, asked.digest)
    with pytest.raises(InvalidValue, match="content_of_x"):
        await approvals.approve(ANNA, asked.id, asked.digest)
    assert (await approvals.get(ANNA, asked.id)).state is ApprovalState.PENDING
    decided = await approvals.approve(ANNA, asked.id, asked.digest, secrets={"content_of_x": "hunter2"})
    assert pipeline.applied == [asked.id] and pipeline.given == {"content_of_x": "hunter2"}
    rows, _ = await audit.list(limit=100)
    assert "hunter2" not in decided.model_dump_json() + "".join(row.model_dump_json() for row in rows)


async def test_nobody_approves_their_own_whatever_their_role(
    approvals: Approvals, book: ApprovalBook, pipeline: Pipeline
) -> None:
    asked = await pending(book, requester_uid=ANNA.uid)
    with pytest.raises(SelfApproval):
        await approvals.approve(ANNA, asked.id, asked.digest)
    assert pipeline.applied == []


@pytest.mark.parametrize("changes", [True, False])
async def test_a_reject_tells_its_agent_why_and_whether_it_may_mend_it(
    approvals: Approvals, book: ApprovalBook, backend: Backend, changes: bool
) -> None:
    backend.approvals = approvals
    asked = await pending(book, requester_uid=os.getuid())
    async with (
        backend.serving(Config()),
        AsyncFluid(backend.paths.operator_socket) as operator,
        AsyncFluid(backend.paths.agent_socket) as agent,
    ):
        waiting = asyncio.create_task(agent.wait_approval(asked.id))
        await operator.reject(asked.id, "use the packaged unit", changes)
        told = await asyncio.wait_for(waiting, 20)
    (said,) = told.decisions
    assert (told.state, told.outcome) == (ApprovalState.REJECTED, "use the packaged unit")
    assert (said.verb, said.comment, said.changes_requested) == ("reject", "use the packaged unit", changes)


async def test_an_agent_neither_approves_nor_rejects(approvals: Approvals, book: ApprovalBook) -> None:
    asked = await pending(book)
    for attempt in (
        approvals.approve(OTHER_AGENT, asked.id, asked.digest),
        approvals.reject(AGENT, asked.id, "x"),
    ):
        with pytest.raises(RoleDenied):
            await attempt


async def test_another_agents_request_does_not_exist(approvals: Approvals, book: ApprovalBook) -> None:
    asked = await pending(book)
    assert (await approvals.get(AGENT, asked.id)).digest == ""
    with pytest.raises(ApprovalNotFound):
        await approvals.get(OTHER_AGENT, asked.id)


async def test_incomplete_evidence_cannot_be_approved(
    approvals: Approvals, book: ApprovalBook, pipeline: Pipeline
) -> None:
    asked = await pending(book)
    pipeline.missing = ["the dry run on web-01 is not finished"]
    with pytest.raises(EvidenceIncomplete, match="dry run on web-01"):
        await approvals.approve(ANNA, asked.id, asked.digest)


async def test_two_approvals_are_needed_where_two_are_asked_for(
    approvals: Approvals, book: ApprovalBook, pipeline: Pipeline
) -> None:
    asked = await pending(book, threshold=2)
    assert (await approvals.approve(ANNA, asked.id, asked.digest)).state is ApprovalState.PENDING
    with pytest.raises(FluidError, match="you have approved"):
        await approvals.approve(ANNA, asked.id, asked.digest)
    with pytest.raises(RoleDenied, match="root"):
        root = Identity(uid=0, name="root", role=Role.OPERATOR)
        await approvals.approve(root, asked.id, asked.digest)
    assert (await approvals.approve(BERT, asked.id, asked.digest)).state is ApprovalState.APPROVED
    assert pipeline.applied == [asked.id]


async def test_a_yes_to_evidence_that_was_renewed_since_is_given_again_and_counts_no_more(
    approvals: Approvals, book: ApprovalBook
) -> None:
    asked = await pending(book, threshold=2)
    await approvals.approve(ANNA, asked.id, asked.digest)

    def renewed(row: Approval) -> None:
        row.digest = "e" * 64

    await book.change(asked.id, [ApprovalState.PENDING], renewed)
    assert (await approvals.approve(BERT, asked.id, "e" * 64)).state is ApprovalState.PENDING
    with pytest.raises(WrongState, match="you have approved"):
        await approvals.approve(BERT, asked.id, "e" * 64)
    assert (await approvals.approve(ANNA, asked.id, "e" * 64)).state is ApprovalState.APPROVED


async def test_the_pack_of_an_apply_that_was_cut_off_before_it_began_says_so(
    approvals: Approvals, book: ApprovalBook, store: Store, bus: EventBus, audit: Audit
) -> None:
    """And a run that several targets shared is in it once."""
    playbook = Playbook(
        id="PBK-00000001", name="a", sandbox_id="SBX-00000001", owner_uid=AGENT.uid, changes_id="CHG-1",
        yaml="", digest="", created_at=now(),
    )  # fmt: skip
    await store.playbooks.insert(playbook)
    await store.runs.insert(Run(id="RUN-1", kind=RunKind.DRY_RUN, started_at=now()))
    cast("Any", approvals)._runs = Runs(store, bus, audit, cast("Any", None), timeout_s=1)
    cast("Any", approvals)._playbooks = SimpleNamespace(load=store.playbooks.get)
    dry_run = {name: TargetEvidence(target=name, run_id="RUN-1") for name in ("web-01", "web-02")}
    evidence = Evidence(dry_run=dry_run, quiesced=False, notes=["not quiesced"])
    asked = await pending(book, state=ApprovalState.FAILED, apply_run="RUN-2", evidence=evidence)
    told = await approvals.pack(ANNA, asked.id)
    assert ([run["id"] for run in told["runs"]], told["never_began"]) == (["RUN-1"], ["RUN-2"])
    assert told["playbook"]["id"] == playbook.id and told["approval"]["apply_run"] == "RUN-2"
    packed = told["approval"]["evidence"]
    assert (packed["quiesced"], packed["notes"]) == (False, ["not quiesced"]), "as the diff says of itself"
    assert (await approvals.pack(AUDITOR, asked.id))["approval"] == told["approval"]
    with pytest.raises(RoleDenied):
        await approvals.pack(AGENT, asked.id)


async def judged(
    store: Store, audit: Audit, book: ApprovalBook, *, noted: bool = True, **fields: Any
) -> tuple[Approval, Changes, Changes]:
    """A request with the rehearsal's change and the sandbox's, and the audit row of its rehearsal."""
    file = FileChange(path="/etc/motd", verb=ChangeVerb.ADDED)
    done, wanted = (
        Changes(
            id=new_id("DIF"),
            sandbox_id="SBX-1",
            from_snapshot="a",
            to_snapshot="b",
            created_at=now(),
            files=[file],
        )
        for _ in range(2)
    )
    for one in (done, wanted):
        await store.changes.insert(one)
    evidence = Evidence(
        changes_id=done.id,
        changes_sha256=done.sha256(),
        sandbox_changes_id=wanted.id,
        sandbox_changes_sha256=wanted.sha256(),
    )
    asked = await pending(book, evidence=evidence, **fields)
    if noted:
        async with audit.step(Identity.system(), "approval.rehearse", "approval", asked.id) as step:
            step.data.update(evidence.model_dump(include={"changes_sha256", "sandbox_changes_sha256"}))
    return asked, done, wanted


async def edited(store: Store, one: Changes, path: str = "/etc/sudoers.d/eve") -> None:
    """As somebody who writes to the database would."""
    changed = one.model_copy(deep=True)
    changed.files[0].path = path
    await store.changes.save(changed)


@pytest.mark.parametrize("whose", ["rehearsal", "sandbox"])
@pytest.mark.parametrize("gone", [False, True])
async def test_a_change_that_was_altered_is_not_shown_reviewed_approved_or_packed(
    approvals: Approvals,
    book: ApprovalBook,
    pipeline: Pipeline,
    store: Store,
    audit: Audit,
    whose: str,
    gone: bool,
) -> None:
    asked, done, wanted = await judged(store, audit, book)
    assert await approvals.changes(ANNA, asked.id, done.id) == done
    with pytest.raises(NotFound):
        await approvals.changes(ANNA, asked.id, "DIF-00000000")
    with pytest.raises(ApprovalNotFound):
        await approvals.changes(OTHER_AGENT, asked.id, done.id)
    one = done if whose == "rehearsal" else wanted
    await store.changes.delete(one.id) if gone else await edited(store, one)
    words = f"the {whose}'s change {one.id} " + ("is gone" if gone else "was altered")
    for tried in (
        approvals.changes(ANNA, asked.id, one.id),
        approvals.dry_run(ANNA, asked.id),
        approvals.approve(ANNA, asked.id, asked.digest),
        approvals.pack(ANNA, asked.id),
    ):
        with pytest.raises(WrongState, match=words):
            await tried
    assert (await book.load(asked.id)).state is ApprovalState.PENDING and pipeline.applied == []


@pytest.mark.parametrize("hash_is", ["removed", "that of what was put there"])
async def test_a_hash_that_was_altered_with_its_change_is_not_the_one_in_the_audit(
    approvals: Approvals, book: ApprovalBook, store: Store, audit: Audit, hash_is: str
) -> None:
    asked, done, _ = await judged(store, audit, book)
    await edited(store, done)
    put = (await store.changes.get(done.id)).sha256()

    def write(row: Approval) -> Approval:
        row.evidence.changes_sha256 = "" if hash_is == "removed" else put
        return row

    await store.approvals.change(asked.id, write)
    with pytest.raises(WrongState, match="names another change of the rehearsal"):
        await approvals.approve(ANNA, asked.id, asked.digest)


async def test_what_an_older_version_rehearsed_is_approved_as_it_is(
    approvals: Approvals, book: ApprovalBook, store: Store, audit: Audit
) -> None:
    asked, done, _ = await judged(store, audit, book, noted=False)
    async with audit.step(Identity.system(), "approval.rehearse", "approval", asked.id) as step:
        step.data["again_changed"] = 0

    def write(row: Approval) -> Approval:
        row.evidence.changes_sha256 = row.evidence.sandbox_changes_sha256 = ""
        return row

    await store.approvals.change(asked.id, write)
    assert (await approvals.changes(ANNA, asked.id, done.id)).id == done.id
    assert (await approvals.approve(ANNA, asked.id, asked.digest)).state is ApprovalState.APPROVED


async def test_a_change_that_was_altered_after_the_approval_voids_it(
    store: Store, book: ApprovalBook, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def load(_: str) -> Any:
        return SimpleNamespace(secrets=[])

    async def unchanged(_: Approval) -> Any:
        return {}

    yes = Decision(verb="approve", uid=ANNA.uid, name="anna", at=now(), digest="d" * 64)
    asked, done, _ = await judged(store, audit, book, state=ApprovalState.APPROVED, decisions=[yes])
    await edited(store, done)
    async with Background() as background:
        playbooks = SimpleNamespace(load=load)
        parts: list[Any] = [Config(), store, book, audit, None, playbooks, None, None, None, None]
        whole = RealPipeline(*parts, background, lambda: None, cast("Any", None))
        monkeypatch.setattr(whole, "_preview", unchanged)
        monkeypatch.setattr(whole, "digest", lambda *_: asked.digest)
        whole.apply(asked)
        async with asyncio.timeout(5):
            while (over := await book.wait(asked.id, 5, ANNA)).state is ApprovalState.APPROVED:
                pass
    assert over.state is ApprovalState.VOIDED and f"{done.id} was altered" in over.outcome


async def test_a_target_under_apply_is_locked_and_its_holder_named(
    approvals: Approvals, book: ApprovalBook
) -> None:
    holder = await pending(book, state=ApprovalState.APPLYING)
    asked = await pending(book)
    with pytest.raises(TargetLocked, match=holder.id):
        await approvals.approve(ANNA, asked.id, asked.digest)


async def followed_by_many_that_are_over(store: Store, approval: Approval) -> None:
    withdrawn = {"state": ApprovalState.WITHDRAWN, "requester_uid": OTHER_AGENT.uid}
    async with asyncio.TaskGroup() as group:
        for _ in range(600):
            copy = {"id": new_id("APR"), "created_at": now(), **withdrawn}
            group.create_task(store.approvals.insert(approval.model_copy(update=copy)))


async def test_a_target_is_locked_however_many_requests_ended_since(
    approvals: Approvals, book: ApprovalBook, store: Store
) -> None:
    holder = await pending(book, state=ApprovalState.APPLYING)
    await followed_by_many_that_are_over(store, holder)
    asked = await pending(book)
    with pytest.raises(TargetLocked, match=holder.id):
        await approvals.approve(ANNA, asked.id, asked.digest)


async def test_an_open_request_is_found_however_many_ended_since(
    approvals: Approvals, book: ApprovalBook, store: Store, pipeline: Pipeline
) -> None:
    asked = await pending(book)
    await followed_by_many_that_are_over(store, asked)
    told = await approvals.list(ANNA, over=20)
    assert told[0].id == asked.id and len(told) == 21
    others = await approvals.list(ANNA, requester_uid=OTHER_AGENT.uid)
    assert len(others) == 500 and {row.requester_uid for row in others} == {OTHER_AGENT.uid}
    assert [row.id for row in await approvals.list(ANNA, over=1, requester_uid=AGENT.uid)] == [asked.id]
    assert await approvals.list(AGENT, requester_uid=OTHER_AGENT.uid) == []
    assert [row.id for row in await approvals.list(AGENT)] == [asked.id]
    await approvals.resume()
    assert [row.id for row in pipeline.resumed] == [asked.id]
    await store.approvals.change(asked.id, lambda row: row.model_copy(update={"expires_at": now()}))
    await approvals.expire()
    assert (await book.load(asked.id)).state is ApprovalState.EXPIRED
    assert await book.open() == []


async def test_of_requests_for_one_target_that_are_approved_at_once_one_begins(
    approvals: Approvals, book: ApprovalBook, pipeline: Pipeline
) -> None:
    asked = [await pending(book) for _ in range(4)]
    answers = await asyncio.gather(
        *(approvals.approve(ANNA, row.id, row.digest) for row in asked), return_exceptions=True
    )
    (holder,) = pipeline.applied
    refused = [answer for answer in answers if isinstance(answer, TargetLocked)]
    assert len(refused) == 3 and all(holder in str(answer) for answer in refused)
    states = sorted([(await book.load(row.id)).state.value for row in asked])
    assert states == ["approved", "pending", "pending", "pending"]


OUTAGES = [DatabaseDown("gone"), TimedOut("the database did not answer"), NoSpace("its disk is full")]


async def until_idle() -> None:
    stages = ("rehearse", "dry run", "apply")
    await asyncio.gather(*(one for one in asyncio.all_tasks() if one.get_name().startswith(stages)))


@pytest.mark.parametrize("error", [*OUTAGES, RuntimeError("a bug")], ids=lambda error: type(error).__name__)
async def test_an_outage_of_the_database_does_not_fail_an_apply_that_runs_on(
    store: Store, book: ApprovalBook, audit: Audit, error: Exception
) -> None:
    """The run itself is a process of its own: how it ended is known once the database is back."""
    run = SimpleNamespace(id="RUN-00000001", state=RunState.SUCCESSFUL, results={})
    outages = [error, error, None]

    async def watch(_: Any) -> Any:
        if error := outages.pop(0):
            raise error
        return run

    async def answer(*_: Any, **__: Any) -> Any:
        return run

    runs = SimpleNamespace(load=answer, watch=watch, execute=answer)
    playbook = SimpleNamespace(secrets=[])

    async def load(_: str) -> Any:
        return playbook

    playbooks = SimpleNamespace(load=load, to_run=lambda _: {})
    one = SimpleNamespace(name="web-01", group="web", host=lambda: None)
    targets = SimpleNamespace(resolve=lambda _: [one], key=lambda _: None)
    fleet = SimpleNamespace(strategy=lambda: "linear")
    asked = await pending(book, state=ApprovalState.APPLYING, apply_run=run.id)
    async with Background() as background:
        parts: list[Any] = [Config(), store, book, audit, fleet, playbooks, None, runs, targets, None]
        whole = RealPipeline(*parts, background, lambda: None, cast("Any", None))
        await whole.resume([asked])
        await until_idle()
        assert (await book.load(asked.id)).state is ApprovalState.APPLYING
        await whole.pick_up()
        await until_idle()
        assert (await book.load(asked.id)).state is ApprovalState.APPLYING
        await whole.pick_up()
        assert (await book.wait(asked.id, 5, ANNA)).state is ApprovalState.APPLIED


@pytest.fixture
def approved_pipeline(
    store: Store, book: ApprovalBook, audit: Audit, panic: Panic, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Any, Background], RealPipeline]:
    """Makes a pipeline over these runs that finds nothing between an approval and its apply."""

    async def load(_: str) -> Any:
        return SimpleNamespace(secrets=[])

    async def nothing(*_: Any) -> Any:
        return {}

    one = SimpleNamespace(name="web-01", group="web", approvers=("*",), host=lambda: None)
    targets = SimpleNamespace(resolve=lambda _: [one], key=lambda _: None)
    playbooks = SimpleNamespace(load=load, to_run=lambda _: {})
    back = SimpleNamespace(keep=nothing)

    def make(runs: Any, background: Background) -> RealPipeline:
        parts: list[Any] = [Config(), store, book, audit, None, playbooks, None, runs, targets, back]
        whole = RealPipeline(*parts, background, panic.refuse, lambda _: ANNA)
        monkeypatch.setattr(whole, "_preview", nothing)
        monkeypatch.setattr(whole, "digest", lambda *_: "d" * 64)
        return whole

    return make


@pytest.mark.parametrize("error", [*OUTAGES, RuntimeError("a bug")], ids=lambda error: type(error).__name__)
async def test_an_apply_that_has_begun_holds_its_target_whatever_becomes_of_its_watcher(
    approvals: Approvals, book: ApprovalBook, approved_pipeline: Any, error: Exception
) -> None:
    run = SimpleNamespace(id="RUN-00000001", state=RunState.SUCCESSFUL, results={})
    errors = [error]

    async def execute(*_: Any, **__: Any) -> Any:
        if errors:
            raise errors.pop()
        return run

    async def answer(_: Any) -> Any:
        return run

    asked, other = await pending(book, state=ApprovalState.APPROVED), await pending(book)
    async with Background() as background:
        whole = approved_pipeline(SimpleNamespace(load=answer, watch=answer, execute=execute), background)
        whole.apply(asked)
        await until_idle()
        with pytest.raises(TargetLocked, match=asked.id):
            await approvals.approve(ANNA, other.id, other.digest)
        await whole.pick_up()
        await until_idle()
    assert (await book.load(asked.id)).state is ApprovalState.APPLIED


class CountedRuns:
    """Each apply is executed at once, and counted."""

    def __init__(self) -> None:
        self.run = SimpleNamespace(id="RUN-00000001", state=RunState.SUCCESSFUL, results={})
        self.applied = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def execute(self, kind: RunKind, *_: Any, **__: Any) -> Any:
        self.applied += kind is RunKind.APPLY
        await self.go_on.wait()
        return self.run

    async def load(self, _: str) -> Any:
        return self.run


YES = Decision(verb="approve", uid=ANNA.uid, name="anna", at=now())


async def test_an_approval_that_lost_its_answer_to_an_outage_is_applied_once(
    approvals: Approvals,
    store: Store,
    book: ApprovalBook,
    approved_pipeline: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is in the database, and who decided was told that the database is gone."""
    asked, runs = await pending(book), CountedRuns()
    change, outages = store.approvals.change, [DatabaseDown("gone")]

    async def breaks_after_the_commit(*args: Any) -> Any:
        row = await change(*args)
        if outages:
            raise outages.pop()
        return row

    monkeypatch.setattr(store.approvals, "change", breaks_after_the_commit)
    runs.go_on.clear()
    async with Background() as background:
        whole = approved_pipeline(runs, background)
        monkeypatch.setattr(approvals, "_pipeline", whole)
        monkeypatch.setattr(whole, "blockers", lambda _: [])
        with pytest.raises(DatabaseDown):
            await approvals.approve(ANNA, asked.id, asked.digest)
        assert (await book.load(asked.id)).state is ApprovalState.APPROVED
        await approvals.expire()
        await approvals.expire()
        runs.go_on.set()
        await until_idle()
        await approvals.expire()
        await until_idle()
    assert ((await book.load(asked.id)).state, runs.applied) == (ApprovalState.APPLIED, 1)


async def test_an_approval_that_nothing_applied_for_5_minutes_is_voided(
    book: ApprovalBook, approved_pipeline: Any
) -> None:
    earlier = YES.model_copy(update={"at": now() - timedelta(minutes=6)})
    asked, runs = await pending(book, state=ApprovalState.APPROVED, decisions=[earlier]), CountedRuns()
    async with Background() as background:
        await approved_pipeline(runs, background).pick_up()
        await until_idle()
    assert ((await book.load(asked.id)).state, runs.applied) == (ApprovalState.VOIDED, 0)


async def test_an_approval_whose_apply_is_about_to_start_is_not_picked_up_without_its_secrets(
    approvals: Approvals, book: ApprovalBook, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, change, applied = await pending(book), book.change, list[list[str]]()
    decided, answered = asyncio.Event(), asyncio.Event()

    async def answers_late(*args: Any) -> Approval:
        row = await change(*args)
        decided.set()
        await answered.wait()
        return row

    async def pick_up() -> None:
        applied.append(list(pipeline.applied))

    monkeypatch.setattr(book, "change", answers_late)
    monkeypatch.setattr(pipeline, "pick_up", pick_up)
    deciding = asyncio.create_task(approvals.approve(ANNA, asked.id, asked.digest))
    await decided.wait()
    housekeeping = asyncio.create_task(approvals.expire())
    await asyncio.sleep(0)
    answered.set()
    await asyncio.gather(deciding, housekeeping)
    assert applied == [[asked.id]]


async def test_a_rehearsal_counts_for_its_requester_until_it_has_ended_whatever_became_of_the_request(
    approvals: Approvals, book: ApprovalBook, approved_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await pending(book, state=ApprovalState.REHEARSING)
    ended = asyncio.Event()

    async def rehearse(_: Approval) -> None:
        await ended.wait()

    async with Background() as background:
        whole = approved_pipeline(None, background)
        monkeypatch.setattr(whole, "_rehearse", rehearse)
        whole.rehearse(asked)
        await approvals.withdraw(AGENT, asked.id)
        assert whole.rehearsals_of(AGENT.uid) == {asked.id}
        assert whole.rehearsals_of(OTHER_AGENT.uid) == set()
        ended.set()
        await until_idle()
        await asyncio.sleep(0)
        assert whole.rehearsals_of(AGENT.uid) == set()


async def test_an_apply_whose_run_never_began_failed_and_says_of_what(
    book: ApprovalBook, approved_pipeline: Any
) -> None:
    async def execute(*_: Any, **__: Any) -> Any:
        raise MissingProgram("there is no ansible")

    async def load(_: str) -> Any:
        raise RunNotFound("no run")

    asked = await pending(book, state=ApprovalState.APPROVED)
    async with Background() as background:
        approved_pipeline(SimpleNamespace(load=load, execute=execute), background).apply(asked)
        await until_idle()
    over = await book.load(asked.id)
    assert (over.state, over.said_by_targets) == (ApprovalState.FAILED, "there is no ansible")


async def test_a_dry_run_whose_request_was_decided_meanwhile_fails_of_nothing_else(
    approvals: Approvals, book: ApprovalBook, approved_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await pending(book)
    untold: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: untold.append(context))

    async def rejected(approval: Approval) -> Any:
        await approvals.reject(ANNA, approval.id, "not on a Friday")
        raise MissingProgram("there is no ansible")

    async with Background() as background:
        whole = approved_pipeline(None, background)
        monkeypatch.setattr(whole, "_preview", rejected)
        whole.dry_run(asked)
        await until_idle()
    gc.collect()
    assert untold == []
    assert (await book.load(asked.id)).outcome == "not on a Friday"


async def test_a_panic_that_begins_with_the_apply_stops_it_before_its_run(
    book: ApprovalBook, panic: Panic, approved_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def load(_: str) -> Any:
        raise RunNotFound("no run")

    asked = await pending(book, state=ApprovalState.APPROVED)
    change = book.change

    async def panics_meanwhile(*args: Any) -> Approval:
        row = await change(*args)
        if row.state is ApprovalState.APPLYING:
            await panic.start(ANNA)
        return row

    monkeypatch.setattr(book, "change", panics_meanwhile)
    async with Background() as background:
        approved_pipeline(SimpleNamespace(load=load), background).apply(asked)  # no `execute`
        await until_idle()
    over = await book.load(asked.id)
    assert over.state is ApprovalState.FAILED and "panic since" in (over.said_by_targets or "")


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: type(error).__name__)
async def test_a_failure_that_the_database_did_not_take_is_not_lost(
    book: ApprovalBook, approved_pipeline: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fails(_: Approval) -> Any:
        raise WrongState("not like this")

    asked = await pending(book)
    change, outages = book.change, [None, error]

    async def full(*args: Any) -> Approval:
        if outages and (error := outages.pop(0)):
            raise error
        return await change(*args)

    monkeypatch.setattr(book, "change", full)
    async with Background() as background:
        whole = approved_pipeline(None, background)
        monkeypatch.setattr(whole, "_preview", fails)
        whole.dry_run(asked)
        await until_idle()
        await whole.pick_up()
        await until_idle()
    assert (await book.load(asked.id)).evidence.dry_run["web-01"].error == "not like this"


async def test_what_cannot_be_picked_up_yet_is_picked_up_later(
    book: ApprovalBook, approved_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await pending(book, progress="dry run on web-01")
    load, outages = book.load, [NoSpace("its disk is full")]

    async def full(*args: Any) -> Approval:
        if outages:
            raise outages.pop()
        return await load(*args)

    monkeypatch.setattr(book, "load", full)
    async with Background() as background:
        whole = approved_pipeline(None, background)
        whole._cut_off.add(asked.id)
        with pytest.raises(NoSpace):
            await whole.pick_up()
        await whole.pick_up()
        await until_idle()
    assert (await book.load(asked.id)).progress == ""


@pytest.mark.parametrize(
    ("state", "end", "word"),
    [
        (ApprovalState.APPROVED, ApprovalState.VOIDED, "ask again"),
        (ApprovalState.APPLYING, ApprovalState.APPLIED, "not verified"),
    ],
)
async def test_secrets_die_with_their_backend_and_the_next_one_says_so(
    store: Store, book: ApprovalBook, audit: Audit, state: ApprovalState, end: ApprovalState, word: str
) -> None:
    run = SimpleNamespace(id="RUN-00000001", state=RunState.SUCCESSFUL, results={}, reason="")

    async def answer(*_: Any, **__: Any) -> Any:
        return run

    async def load(_: str) -> Any:
        return SimpleNamespace(secrets=["content_of_x"])

    runs = SimpleNamespace(load=answer, watch=answer)  # no `execute`: without its secrets nothing starts
    playbooks = SimpleNamespace(load=load)
    yes = Decision(verb="approve", uid=ANNA.uid, name="anna", at=now())
    asked = await pending(book, state=state, apply_run=run.id, decisions=[yes])
    async with Background() as background:
        parts: list[Any] = [Config(), store, book, audit, None, playbooks, None, runs, None, None]
        await RealPipeline(*parts, background, lambda: None, cast("Any", None)).resume([asked])
        after = await book.wait(asked.id, 5, ANNA)
    assert after.state is end and word in after.outcome


@pytest.mark.parametrize(
    ("groups", "end", "word"),
    [
        (["sre"], ApprovalState.FAILED, "kept"),  # goes on to what this test cuts short
        (["dev"], ApprovalState.VOIDED, "anna is no approver of web"),
        (None, ApprovalState.VOIDED, "uid 3001 is no operator"),
    ],
)
async def test_whoever_approved_must_still_have_the_right_when_the_apply_begins(
    store: Store,
    book: ApprovalBook,
    audit: Audit,
    monkeypatch: pytest.MonkeyPatch,
    groups: list[str] | None,
    end: ApprovalState,
    word: str,
) -> None:
    async def load(_: str) -> Any:
        return SimpleNamespace(secrets=[])

    async def unchanged(_: Approval) -> Any:
        return {}

    async def keep(*_: Any) -> None:
        raise WrongState("nothing is kept here")

    def operator(uid: int) -> Identity:
        if groups is None:
            raise RoleDenied(f"uid {uid} is no operator")
        return ANNA.model_copy(update={"groups": groups})

    one = SimpleNamespace(name="web-01", group="web", approvers=("@sre",))
    targets, back = SimpleNamespace(resolve=lambda _: [one]), SimpleNamespace(keep=keep)
    yes = Decision(verb="approve", uid=ANNA.uid, name="anna", at=now(), digest="d" * 64)
    asked = await pending(book, state=ApprovalState.APPROVED, decisions=[yes])
    async with Background() as background:
        playbooks = SimpleNamespace(load=load)
        parts: list[Any] = [Config(), store, book, audit, None, playbooks, None, None, targets, back]
        whole = RealPipeline(*parts, background, lambda: None, operator)
        monkeypatch.setattr(whole, "_preview", unchanged)
        monkeypatch.setattr(whole, "digest", lambda *_: asked.digest)
        whole.apply(asked)
        async with asyncio.timeout(5):
            while (over := await book.wait(asked.id, 5, ANNA)).state is ApprovalState.APPROVED:
                pass
    assert over.state is end and word in over.ending
    assert (word in over.outcome) is (end is ApprovalState.VOIDED), "of an error nobody knows who said it"


async def test_what_drifted_is_kept_apart_from_that_it_did(
    store: Store, book: ApprovalBook, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def load(_: str) -> Any:
        return SimpleNamespace(secrets=[])

    async def drifted(_: Approval) -> Any:
        return {"web-01": TargetEvidence(target="web-01", fingerprint="another", differs=["x is 6"])}

    yes = Decision(verb="approve", uid=ANNA.uid, name="anna", at=now(), digest="d" * 64)
    asked = await pending(book, state=ApprovalState.APPROVED, decisions=[yes])
    async with Background() as background:
        playbooks = SimpleNamespace(load=load)
        parts: list[Any] = [Config(), store, book, audit, None, playbooks, None, None, None, None]
        whole = RealPipeline(*parts, background, lambda: None, cast("Any", None))
        monkeypatch.setattr(whole, "_preview", drifted)
        monkeypatch.setattr(whole, "digest", lambda *_: "another")
        whole.apply(asked)
        over = await book.wait(asked.id, 5, ANNA)
    assert (over.state, over.outcome) == (ApprovalState.VOIDED, "the target drifted after the approval")
    assert over.said_by_targets == "web-01: x is 6"


@pytest.mark.parametrize(
    ("noted", "end", "said"),
    [
        ("ops@10.0.0.1:22", ApprovalState.APPLIED, ""),
        ("", ApprovalState.APPLIED, ""),  # evidence of an older version
        (
            "ops@10.0.0.9:22",
            ApprovalState.VOIDED,
            "web-01: reached as ops@10.0.0.1:22, and the approval was of ops@10.0.0.9:22",
        ),
    ],
)
async def test_a_target_that_is_reached_elsewhere_than_was_shown_voids_the_approval(
    store: Store,
    book: ApprovalBook,
    audit: Audit,
    monkeypatch: pytest.MonkeyPatch,
    noted: str,
    end: ApprovalState,
    said: str,
) -> None:
    run = Run(
        id="RUN-00000001",
        kind=RunKind.DRY_RUN,
        playbook_id="PBK-1",
        targets=["web-01"],
        state=RunState.SUCCESSFUL,
        started_at=now(),
    )
    playbook = Playbook(id="PBK-1", name="p", sandbox_id="SBX-1", yaml="", digest="d", created_at=now())

    async def answer(*_: Any, **__: Any) -> Any:
        return run

    async def load(_: str) -> Any:
        return playbook

    async def nothing(*_: Any) -> Any:
        return {}

    one = ResolvedTarget(
        "web-01", "web", "10.0.0.1", 22, "ops", True, "ssh-ed25519 AAAA", Path("/k"), 1, ("*",)
    )
    targets = SimpleNamespace(resolve=lambda _: [one], key=lambda _: None)
    playbooks = SimpleNamespace(load=load, to_run=lambda _: {})
    back = SimpleNamespace(keep=nothing, fingerprints=nothing, not_kept=nothing, other_packages=nothing)
    runs = SimpleNamespace(load=answer, execute=answer)
    asked = await pending(book)
    async with Background() as background:
        parts: list[Any] = [Config(), store, book, audit, None, playbooks, None, runs, targets, back]
        whole = RealPipeline(*parts, background, lambda: None, lambda _: ANNA)
        seen = await whole._preview(asked)
        assert seen["web-01"].login == "ops@10.0.0.1:22"

        def approved(row: Approval) -> None:
            row.evidence = Evidence(rehearsal=TargetResult(ok=1), again_changed=0, dry_run=seen)
            row.evidence.dry_run["web-01"].login = noted
            row.digest, row.state = whole.digest(row, playbook), ApprovalState.APPROVED

        whole.apply(await book.change(asked.id, [ApprovalState.PENDING], approved))
        while (over := await book.wait(asked.id, 5, ANNA)).state not in APPROVAL_OVER:
            pass
    assert (over.state, over.said_by_targets or "") == (end, said)


@pytest.mark.parametrize(
    ("state", "changed", "words", "said", "told"),
    [
        (RunState.SUCCESSFUL, 0, "verified: check mode would change nothing", "", 0),
        (RunState.SUCCESSFUL, 2, "not verified: check mode would still change 2", "", 2),
        (RunState.FAILED, 0, "not verified: check mode failed", "it is gone", None),
        (None, 0, "not verified: check mode did not run", "there is no ansible", None),
    ],
)
async def test_an_apply_is_verified_only_by_a_check_that_worked_and_would_change_nothing(
    store: Store,
    book: ApprovalBook,
    audit: Audit,
    state: RunState | None,
    changed: int,
    words: str,
    said: str,
    told: int | None,
) -> None:
    applied = SimpleNamespace(id="RUN-00000001", state=RunState.SUCCESSFUL)
    results = {"web-01": TargetResult(changed=changed)}
    checked = SimpleNamespace(id="RUN-00000002", state=state, results=results, reason="it is gone")

    async def answer(*_: Any, **__: Any) -> Any:
        return applied

    async def execute(*_: Any, **__: Any) -> Any:
        if state is None:
            raise MissingProgram("there is no ansible")
        return checked

    async def load(_: str) -> Any:
        return SimpleNamespace(secrets=[])

    one = SimpleNamespace(name="web-01", group="web", host=lambda: None)
    targets = SimpleNamespace(resolve=lambda _: [one], key=lambda _: None)
    runs = SimpleNamespace(load=answer, watch=answer, execute=execute)
    playbooks = SimpleNamespace(load=load, to_run=lambda _: {})
    asked = await pending(book, state=ApprovalState.APPLYING, apply_run=applied.id)
    async with Background() as background:
        parts: list[Any] = [Config(), store, book, audit, None, playbooks, None, runs, targets, None]
        await RealPipeline(*parts, background, lambda: None, cast("Any", None)).resume([asked])
        over = await book.wait(asked.id, 5, ANNA)
    assert (over.state, over.verified_changed) == (ApprovalState.APPLIED, told)
    assert (over.outcome, over.said_by_targets) == (f"applied to web-01; {words}", said)


@pytest.mark.parametrize("asked_for", [True, False])
async def test_a_group_may_have_its_dry_run_with_the_request(
    store: Store, book: ApprovalBook, audit: Audit, monkeypatch: pytest.MonkeyPatch, asked_for: bool
) -> None:
    async def answer(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(evidence=Evidence())

    group = {"ssh_key_file": "/k", "known_hosts": "/h", "dry_run_with_request": asked_for}
    config = Config.model_validate({"targets": {"groups": {"web": group}}})
    playbooks = SimpleNamespace(load=answer, changes_of=answer, to_run=lambda _: {})
    fleet = SimpleNamespace(load=answer, versions=dict)
    rehearser = SimpleNamespace(rehearse=answer)
    asked = await pending(book, state=ApprovalState.REHEARSING, groups={"web-01": "web"})
    tried: list[str] = []
    async with Background() as background:
        parts: list[Any] = [config, store, book, audit, fleet, playbooks, rehearser, None, None, None]
        whole = RealPipeline(*parts, background, lambda: None, cast("Any", None))
        monkeypatch.setattr(whole, "dry_run", lambda row: tried.append(row.id))
        whole.rehearse(asked)
        await asyncio.gather(*(one for one in asyncio.all_tasks() if one.get_name().startswith("rehearse")))
    assert (await book.load(asked.id)).state is ApprovalState.PENDING
    assert tried == ([asked.id] if asked_for else [])


async def test_what_an_unfrozen_disk_may_lack_is_the_first_risk_of_the_request(
    store: Store, book: ApprovalBook, audit: Audit
) -> None:
    async def answer(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(evidence=evidence)

    done = Changes(id="CHG-9", sandbox_id="SBX-1", from_snapshot="a", to_snapshot="b", created_at=now())
    await store.changes.insert(done.model_copy(update={"read_from": "guest"}))
    evidence = Evidence(changes_id=done.id, quiesced=False, notes=["not quiesced"], risk=["data of x"])
    evidence.changes_sha256, evidence.sandbox_changes_sha256 = "a" * 64, "b" * 64
    reboot = CheckedTask("Tidy up", "ansible.builtin.reboot", {}, 0, 8)
    playbooks = SimpleNamespace(load=answer, changes_of=answer, to_run=lambda _: {})
    playbooks.check = lambda _: CheckedPlaybook([reboot], [], {}, [])
    fleet = SimpleNamespace(load=answer, versions=dict)
    asked = await pending(book, state=ApprovalState.REHEARSING, groups={"web-01": "web"})
    async with Background() as background:
        rehearser = SimpleNamespace(rehearse=answer)
        parts: list[Any] = [Config(), store, book, audit, fleet, playbooks, rehearser, None, None, None]
        RealPipeline(*parts, background, lambda: None, cast("Any", None)).rehearse(asked)
        told = (await book.wait(asked.id, 5, ANNA)).evidence
    first, *others = told.risk
    assert first.startswith("the sandbox's file systems did not stand still") and "data of x" in others
    assert others[0] == "restarts the machine: Tidy up", "before what the change says"
    assert (told.quiesced, told.notes) == (False, ["not quiesced"])
    rows, _ = await audit.list(action="approval.rehearse", id=asked.id)
    assert (rows[0].data["changes_sha256"], rows[0].data["sandbox_changes_sha256"]) == ("a" * 64, "b" * 64)


async def test_what_nobody_decides_expires(approvals: Approvals, book: ApprovalBook) -> None:
    asked = await pending(book, expires_at=now() - timedelta(seconds=1))
    await approvals.expire()
    assert (await approvals.get(ANNA, asked.id)).state is ApprovalState.EXPIRED


async def test_an_open_question_is_listed_however_many_were_answered_since(store: Store, asks: Asks) -> None:
    request = AskRequest(prompt="Drop it?", action_type="irreversible", timeout_secs=30)
    ask = await asks.ask(AGENT, request)
    over = await asks.ask(OTHER_AGENT, request)
    answered = {"status": AskState.APPROVED, "created_at": now()}
    async with asyncio.TaskGroup() as group:
        for _ in range(600):
            copy = ask.model_copy(update={"request_id": new_id("APR"), **answered})
            group.create_task(store.asks.insert(copy))
    await store.asks.change(over.request_id, lambda row: row.model_copy(update={"expires_at": now()}))
    assert [row.request_id for row in await asks.list(ANNA)] == [ask.request_id]
    assert [row.request_id for row in await asks.list(AGENT)] == [ask.request_id]
    assert await asks.list(OTHER_AGENT) == []
    assert (await store.asks.get(over.request_id)).status is AskState.EXPIRED


async def test_a_user_has_so_many_open_questions(store: Store, bus: EventBus, audit: Audit) -> None:
    """At once or one after another; what was answered, or is past its time, counts no more."""
    asks = Asks(store, bus, audit, cast("Fleet", Owned()), LimitConfig(asks_per_requester=3))
    request = AskRequest(prompt="Drop it?", action_type="irreversible", timeout_secs=30)
    done = await asyncio.gather(*(asks.ask(AGENT, request) for _ in range(5)), return_exceptions=True)
    refused = [one for one in done if isinstance(one, LimitReached)]
    first, late, _ = (one for one in done if isinstance(one, Ask))
    assert "you have 3 open questions" in refused[0].message and len(refused) == 2
    assert len(await asks.list(ANNA)) == 3
    await asks.ask(OTHER_AGENT, request)
    await asks.answer(ANNA, first.request_id, True)
    await store.asks.change(late.request_id, lambda row: row.model_copy(update={"expires_at": now()}))
    for _ in range(2):
        await asks.ask(AGENT, request)
    with pytest.raises(LimitReached):
        await asks.ask(AGENT, request)


async def test_a_blocked_ask_returns_when_a_person_answers(asks: Asks) -> None:
    request = AskRequest(prompt="Drop it?", action_type="irreversible", timeout_secs=30)
    ask = await asks.ask(AGENT, request)
    waiting = asyncio.create_task(asks.wait(AGENT, ask.request_id, 30))
    await asyncio.sleep(0)
    await asks.answer(ANNA, ask.request_id, True, "go on")
    async with asyncio.timeout(5):
        heard = await waiting
    assert heard.approved and heard.comment == "go on" and heard.approved_by == "anna"
    with pytest.raises(AlreadyDecided, match="anna"):
        await asks.answer(BERT, ask.request_id, False)


async def test_what_ends_by_itself_or_is_withdrawn_is_on_record_before(
    store: Store,
    asks: Asks,
    audit: Audit,
    approvals: Approvals,
    book: ApprovalBook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = AskRequest(prompt="Drop it?", action_type="irreversible", timeout_secs=30)
    ask, late = await asks.ask(AGENT, request), await asks.ask(AGENT, request)
    await store.asks.change(late.request_id, lambda row: row.model_copy(update={"expires_at": now()}))
    asked = await pending(book, expires_at=now() - timedelta(seconds=1))

    async def no_space(*_: Any, **__: Any) -> Any:
        raise NoSpace("PostgreSQL: no space")

    with monkeypatch.context() as full:
        full.setattr(audit, "intent", no_space)
        for ending in (
            asks.withdraw(AGENT, ask.request_id),
            asks.get(AGENT, late.request_id),
            approvals.expire(),
        ):
            with pytest.raises(NoSpace):
                await ending
    assert (await store.asks.get(ask.request_id)).status is AskState.PENDING
    assert (await store.asks.get(late.request_id)).status is AskState.PENDING
    assert (await book.load(asked.id)).state is ApprovalState.PENDING
    await asks.withdraw(AGENT, ask.request_id)
    seen = await asyncio.gather(*(asks.get(AGENT, late.request_id) for _ in range(3)))
    assert [row.status for row in seen] == [AskState.EXPIRED] * 3
    await approvals.expire()
    for action in ("ask.withdraw", "ask.expire", "approval.expire"):
        rows, _ = await audit.list(action=action)
        assert [row.step for row in rows] == ["outcome", "intent"], "once"


async def test_nothing_is_kept_of_a_question_that_there_is_not_or_that_is_another_agents(asks: Asks) -> None:
    ask = await asks.ask(AGENT, AskRequest(prompt="Drop it?", action_type="irreversible", timeout_secs=30))
    for actor, id in ((AGENT, "APR-00000000"), (OTHER_AGENT, ask.request_id)):
        with pytest.raises(NotFound):
            await asks.wait(actor, id, 1)
    assert asks._answered == {}


async def test_a_question_is_about_a_sandbox_of_its_agents_own(store: Store, asks: Asks) -> None:
    request = AskRequest(prompt="Drop it?", action_type="irreversible", sandbox_id="web")
    for actor, named in ((OTHER_AGENT, "web"), (OTHER_AGENT, "SBX-1"), (AGENT, "SBX-none")):
        with pytest.raises(SandboxNotFound):
            await asks.ask(actor, request.model_copy(update={"sandbox_id": named}))
    assert await asks.list(ANNA) == []
    for named in ("web", "SBX-1"):
        asked = await asks.ask(AGENT, request.model_copy(update={"sandbox_id": named}))
        assert (await store.asks.get(asked.request_id)).sandbox_id == "SBX-1"


async def test_what_targets_said_of_an_older_request_is_in_no_refusal(
    approvals: Approvals, book: ApprovalBook
) -> None:
    ended = {"state": ApprovalState.FAILED, "outcome": "the apply failed: 10.9.8.7 is full"}
    older = await pending(book, **ended)
    fresh = await pending(book, **{**ended, "outcome": "the apply failed", "said_by_targets": "10.9.8.7"})
    with pytest.raises(AlreadyDecided) as refused:
        await approvals.withdraw(AGENT, older.id)
    assert str(refused.value) == f"{older.id} is failed"
    with pytest.raises(AlreadyDecided) as refused:
        await approvals.withdraw(AGENT, fresh.id)
    assert str(refused.value) == f"{fresh.id} is failed: the apply failed"


async def test_why_no_rehearsal_was_made_is_told_whole_to_operators_only(
    store: Store, approvals: Approvals, book: ApprovalBook, audit: Audit
) -> None:
    async def load(_: str) -> Any:
        raise HypervisorFailed("layer /var/lib/fluid/x of 10.9.8.7 cannot be read", remedy="mend it")

    asked = await pending(book, state=ApprovalState.REHEARSING)
    async with Background() as background:
        parts: list[Any] = [Config(), store, book, audit, None, SimpleNamespace(load=load), *[None] * 4]
        RealPipeline(*parts, background, lambda: None, cast("Any", None)).rehearse(asked)
        await until_idle()
    told, whole = await approvals.get(AGENT, asked.id), await approvals.get(ANNA, asked.id)
    assert "/var/lib" in whole.ending and "10.9.8.7" in whole.ending
    assert told.ending == f"the rehearsal could not be made: {HypervisorFailed.agents_hear}"
    assert "10.9.8.7" not in told.model_dump_json()


async def test_a_panic_blocks_every_approval_and_pauses_what_runs_until_it_is_released(
    approvals: Approvals,
    book: ApprovalBook,
    pipeline: Pipeline,
    panic: Panic,
    machines: Machines,
    audit: Audit,
) -> None:
    asked = await pending(book)
    done = await panic.start(ANNA)
    assert done.paused == ["SBX-a", "SBX-b"]
    assert done.failed == {"stuck": "the host does not answer"}
    with pytest.raises(PanicActive, match="nothing is applied: panic since"):
        await approvals.approve(ANNA, asked.id, asked.digest)
    assert not pipeline.applied
    told = await panic.component()
    assert (told.status, told.remedy) == ("ON", "fluid panic --release")
    await panic.release(ANNA)
    phases = {name: row.phase for name, row in machines.rows.items()}
    assert phases["SBX-a"] is phases["SBX-b"] is Phase.RUNNING
    assert phases["SBX-own"] is Phase.PAUSED, "what its owner paused stays so"
    await approvals.approve(ANNA, asked.id, asked.digest)
    assert pipeline.applied == [asked.id]
    rows, _ = await audit.list(noun="panic")
    assert [row.action for row in rows] == ["panic.release", "panic"]


async def test_what_is_on_its_way_when_a_panic_begins_stands_still_too(
    panic: Panic, machines: Machines
) -> None:
    machines.at_work.clear()
    machines.rows["SBX-b"].phase = Phase.STOPPED  # it is being started
    machines.refuse()
    starting = asyncio.create_task(panic.start(ANNA))
    await asyncio.sleep(0.05)
    with pytest.raises(PanicActive, match="no sandbox starts or goes on"):
        machines.refuse()
    machines.rows["SBX-b"].phase = Phase.RUNNING
    machines.at_work.set()
    done = await starting
    assert done.paused == ["SBX-a", "SBX-b"] and list(done.failed) == ["stuck"]
    assert machines.rows["SBX-b"].phase is Phase.PAUSED
    await panic.release(ANNA)
    machines.refuse()


async def test_a_panic_revokes_certificates_once_and_before_anything_goes_on(
    panic: Panic, audit: Audit, bus: EventBus, machines: Machines, tmp_path: Path
) -> None:
    machines.no_space = True
    with pytest.raises(OSError, match="no space"):
        await panic.start(ANNA)
    assert panic.view is not None and not panic.view.revoked
    machines.no_space = False
    restarted = Panic(tmp_path / "panic.json", machines, machines.revoke, audit, bus)
    await restarted.release(ANNA)
    assert machines.revoked_of == [["SBX-stuck"]], "what was paused stood still yet"
    assert (await restarted.start(ANNA)).revoked
    await restarted.start(ANNA)
    await restarted.release(ANNA)
    assert len(machines.revoked_of) == 2, "once a panic"


async def test_a_panic_that_is_asked_for_while_one_is_released_goes_on(
    panic: Panic,
    audit: Audit,
    bus: EventBus,
    machines: Machines,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thawing, asked = asyncio.Event(), asyncio.Event()
    thaw, thawed = machines.resume, list[str]()
    monkeypatch.setattr("backend.approvals.panic.AT_ONCE", 1)

    async def slowly(actor: Identity, sandbox_id: str) -> Sandbox:
        thawed.append(sandbox_id)
        thawing.set()
        await asked.wait()
        return await thaw(actor, sandbox_id)

    monkeypatch.setattr(machines, "resume", slowly)
    await panic.start(ANNA)
    releasing = asyncio.create_task(panic.release(ANNA))
    await thawing.wait()
    again = asyncio.create_task(panic.start(BERT))
    await asyncio.sleep(0.1)
    asked.set()
    with pytest.raises(PanicActive, match="asked for again"):
        await releasing
    with pytest.raises(PanicActive):  # in no moment anything is applied
        panic.refuse()
    await again
    with pytest.raises(PanicActive):
        panic.refuse()
    assert machines.rows["SBX-a"].phase is machines.rows["SBX-b"].phase is Phase.PAUSED
    assert len(thawed) == 1, "the others are not woken for it"
    assert len(machines.revoked_of) == 2, "what was signed since is worth nothing"
    assert Panic(tmp_path / "panic.json", machines, machines.revoke, audit, bus).view == panic.view
    await panic.release(ANNA)
    panic.refuse()
    assert machines.rows["SBX-a"].phase is Phase.RUNNING


async def test_of_a_release_and_a_panic_that_wait_for_each_other_the_panic_stays(panic: Panic) -> None:
    first = asyncio.create_task(panic.start(ANNA))
    await asyncio.sleep(0)
    releasing = asyncio.create_task(panic.release(ANNA))
    await asyncio.sleep(0)
    await asyncio.gather(first, releasing, panic.start(BERT), return_exceptions=True)
    with pytest.raises(PanicActive):
        panic.refuse()


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: type(error).__name__)
async def test_a_panic_waits_for_no_database(
    panic: Panic, audit: Audit, bus: EventBus, machines: Machines, tmp_path: Path, error: Exception
) -> None:
    machines.outage = error
    done = await panic.start(ANNA)
    assert (done.paused, done.failed) == (["SBX-a", "SBX-b"], {"stuck": "libvirt does not answer"})
    assert done.revoked and machines.revoked_of == [["SBX-stuck"]]
    assert Panic(tmp_path / "panic.json", machines, machines.revoke, audit, bus).view == done
    machines.outage = None
    await panic.release(ANNA)
    assert machines.rows["SBX-a"].phase is Phase.RUNNING


async def test_a_panic_pauses_though_no_disk_takes_a_word_of_it(
    panic: Panic, audit: Audit, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its file nor, since the database can only be read, a step or the audit."""

    async def no_space(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "no space")

    async def no_step(actor: Identity, sandbox_id: str, *, reason: str = "") -> Sandbox:
        raise NoSpace("PostgreSQL: no space")

    def no_file(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as full:
        full.setattr("backend.approvals.panic.write_lasting", no_file)
        full.setattr(audit, "note", no_space)
        full.setattr(machines, "pause", no_step)
        with pytest.raises(OSError, match="no space"):
            await panic.start(ANNA)
    assert machines.rows["SBX-a"].phase is machines.rows["SBX-b"].phase is Phase.PAUSED
    with pytest.raises(PanicActive):
        panic.refuse()
    assert panic.view is not None
    assert (panic.view.paused, panic.view.failed) == (
        ["SBX-a", "SBX-b"],
        {"stuck": "libvirt does not answer"},
    )
    again = await panic.start(ANNA)
    assert again.revoked and again.paused == ["SBX-a", "SBX-b"]


async def test_to_revoke_waits_for_no_database(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(_: object) -> None:
        raise DatabaseDown("gone")

    authority = CertificateAuthority(tmp_path / "ca")
    before = authority.current.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(audit._rows, "append", gone)
        await Trust(authority, audit, cast("Any", None), cast("Any", None)).revoke(ANNA)
    after = authority.current.fingerprint
    assert after != before
    await audit.absorb()
    rows, _ = await audit.list(action="ca.revoke")
    assert [row.step for row in rows] == ["outcome", "note"] and rows[0].data["fingerprint"] == after


async def test_no_agent_wakes_a_sandbox_while_a_panic_lasts(panic: Panic) -> None:
    panic.refuse_agent(AGENT)
    await panic.start(ANNA)
    with pytest.raises(PanicActive, match="no sandbox starts or goes on: panic since"):
        panic.refuse_agent(AGENT)
    panic.refuse_agent(ANNA)
    await panic.release(ANNA)
    panic.refuse_agent(AGENT)


async def test_a_panic_outlives_a_restart_and_a_file_that_cannot_be_read(
    panic: Panic, audit: Audit, bus: EventBus, machines: Machines, tmp_path: Path
) -> None:
    await panic.start(ANNA)
    file = tmp_path / "panic.json"
    again = Panic(file, machines, machines.revoke, audit, bus)
    assert again.view == panic.view
    file.write_text("{")
    broken = Panic(file, machines, machines.revoke, audit, bus)
    with pytest.raises(PanicActive, match="cannot be read"):
        broken.refuse()
    await broken.release(ANNA)
    assert not file.exists()
    Panic(file, machines, machines.revoke, audit, bus).refuse()
    with pytest.raises(WrongState, match="no panic"):
        await broken.release(ANNA)
