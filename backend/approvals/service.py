"""Requests for approval and the words of people on them.

Nobody approves their own: the requester's uid is refused, whatever door it comes through. What is approved is
named by its digest; any other digest is stale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from backend.approvals.apply import Pipeline
from backend.approvals.book import LAST_OVER, ApprovalBook, became, refusal
from backend.approvals.bound import bound
from backend.approvals.evidence import for_agent
from backend.approvals.rights import refuse_approver
from backend.approvals.ways_back import WaysBack
from backend.audit import Audit
from backend.config import Config
from backend.errors import (
    AlreadyDecided,
    EvidenceIncomplete,
    LimitReached,
    NotFound,
    RunNotFound,
    StaleDigest,
    TargetLocked,
    TargetNotFound,
    WrongState,
)
from backend.fleet import Fleet
from backend.models import (
    Approval,
    ApprovalRequest,
    ApprovalState,
    Changes,
    Decision,
    Identity,
    Playbook,
    Role,
    Run,
    RunKind,
    Sandbox,
    new_id,
    now,
)
from backend.models.playbook import RUN_OVER
from backend.playbooks import Playbooks, Runs
from backend.playbooks.secrets import check_values
from backend.policy import operators_only, refuse_agents
from backend.store import Store
from backend.targets import Targets

_BEFORE_APPLY = (ApprovalState.DRAFTING, ApprovalState.REHEARSING, ApprovalState.PENDING)
_HOLDING = (ApprovalState.APPROVED, ApprovalState.APPLYING)


class Approvals:
    """What the doors call. The pipeline does the work, the book keeps the state."""

    def __init__(
        self,
        config: Config,
        store: Store,
        book: ApprovalBook,
        pipeline: Pipeline,
        audit: Audit,
        fleet: Fleet,
        playbooks: Playbooks,
        runs: Runs,
        targets: Targets,
        ways_back: WaysBack,
        refuse_in_panic: Callable[[], None],
    ) -> None:
        self._refuse_in_panic = refuse_in_panic
        self._config = config
        self._store = store
        self._book = book
        self._pipeline = pipeline
        self._audit = audit
        self._fleet = fleet
        self._playbooks = playbooks
        self._runs = runs
        self._targets = targets
        self._ways_back = ways_back
        self._asking = asyncio.Lock()
        self._deciding = asyncio.Lock()

    async def request(self, actor: Identity, request: ApprovalRequest) -> Approval:
        """A new request; its rehearsal has begun when this returns.

        Raises:
            SandboxNotFound, SnapshotNotFound, PlaybookNotFound, TargetNotFound: unknown, or not the caller's.
            PlaybookRefused: the playbook breaks the grammar.
            WrongState: the targets do not share one group.
            LimitReached: the caller has as many requests as one may have.
        """
        sandbox = await self._fleet.get(actor, request.sandbox_id)
        playbook = await self._playbooks.get(actor, request.playbook)
        if playbook.sandbox_id != sandbox.id:
            raise WrongState(
                f"{playbook.id} was generated from {playbook.sandbox_id}, not {sandbox.id}",
                remedy=f"generate one with POST /v1/sandboxes/{sandbox.id}/generate/ansible",
            )
        compared = ""
        if request.from_snapshot or request.to_snapshot:
            since = request.from_snapshot or playbook.from_snapshot
            until = request.to_snapshot or playbook.to_snapshot
            compared = (await self._fleet.diff(actor, sandbox.id, since, until)).id
        return await self._ask(
            actor, sandbox, playbook, request.targets, request.reason, compared_with=compared
        )

    async def request_rollback(self, actor: Identity, run_id: str, target: str = "") -> Approval:
        """A request to take an apply back, on all of its targets or on one, to what was kept of them: with a
        playbook of its own that is rehearsed like any other.

        Raises:
            NotFound: what a target had is not kept (any longer).
            TargetDown: a target does not tell what it has now.
            WrongState: nothing to take back, or the targets had different things before.
            PlaybookRefused: nothing of the change can be taken back.
            LimitReached: the caller has as many requests as one may have.
        """
        operators_only(actor)
        run = await self._runs.load(run_id)
        if run.kind is not RunKind.APPLY or run.state not in RUN_OVER:
            raise WrongState(
                f"{run_id} is a {run.kind} that is {run.state}",
                remedy="name the run of an apply that is over",
            )
        approval = await self._book.load(run.approval_id)
        if target and target not in approval.targets:
            raise TargetNotFound(
                f"{run_id} was no apply to {target!r}", remedy=f"it was to {', '.join(approval.targets)}"
            )
        targets = [target] if target else approval.targets
        playbook = await self._ways_back.playbook(actor, run, approval, targets)
        sandbox = await self._fleet.load(approval.sandbox_id)
        reason = f"takes back {run_id} ({approval.id}: {approval.reason})"[:2000]
        return await self._ask(actor, sandbox, playbook, targets, reason, rolls_back=run_id)

    async def _ask(
        self,
        actor: Identity,
        sandbox: Sandbox,
        playbook: Playbook,
        targets: Sequence[str],
        reason: str,
        *,
        rolls_back: str = "",
        compared_with: str = "",
    ) -> Approval:
        self._playbooks.check(playbook)
        resolved = self._targets.resolve(self._targets.allowed(actor, targets))
        groups = {target.name: target.group for target in resolved}
        if len(names := sorted(set(groups.values()))) > 1:
            raise WrongState(
                f"the targets are in {len(names)} groups: {', '.join(names)}",
                remedy="ask for one approval per group",
            )
        at = now()
        approval = Approval(
            id=new_id("APR"),
            sandbox_id=sandbox.id,
            sandbox_name=sandbox.sandbox_name,
            source=self._fleet.source_digest(sandbox),
            playbook_id=playbook.id,
            targets=list(groups),
            groups=groups,
            reason=reason,
            requester_uid=actor.uid,
            requester_name=actor.name,
            agent_id=sandbox.agent_id,
            rolls_back=rolls_back,
            compared_with=compared_with,
            state=ApprovalState.REHEARSING,
            threshold=max(target.approvals for target in resolved),
            created_at=at,
            updated_at=at,
            expires_at=at + timedelta(seconds=self._config.approvals.expires_s),
        )
        async with self._asking:  # of two at once the second counts the first
            await self._refuse_one_more(actor)
            async with self._audit.step(
                actor,
                "approval.request",
                "approval",
                approval.id,
                sandbox_id=sandbox.id,
                playbook=playbook.digest,
                targets=approval.targets,
                reason=reason,
            ):
                await self._book.add(approval)
            self._pipeline.rehearse(approval)
        return approval

    async def _refuse_one_more(self, actor: Identity) -> None:
        limits = self._config.limits
        theirs = await self._book.open(requester_uid=actor.uid)
        rehearsing = {row.id for row in theirs if row.state is ApprovalState.REHEARSING}
        rehearsing |= self._pipeline.rehearsals_of(actor.uid)
        if len(rehearsing) >= limits.rehearsals_per_requester:
            raise LimitReached(
                f"you have {len(rehearsing)} requests in rehearsal",
                remedy="wait until one of the rehearsals is over",
            )
        waiting = sum(row.state is not ApprovalState.DRAFTING for row in theirs)
        if waiting >= limits.requests_per_requester:
            raise LimitReached(
                f"you have {waiting} open requests for approval",
                remedy="withdraw one: DELETE /v1/approvals/{approval_id}",
            )

    # --- reading --------------------------------------------------------------------------------------

    async def get(self, actor: Identity, approval_id: str) -> Approval:
        """For agents with counts only per target; for operators whole."""
        return self._shown(actor, await self._book.load(approval_id, actor))

    async def list(
        self, actor: Identity, *, over: int = LAST_OVER, requester_uid: int | None = None
    ) -> Sequence[Approval]:
        """Those that are open, then the last ``over`` that ended; of one requester or of all."""
        rows = await self._book.all(actor, over=over, requester_uid=requester_uid)
        return [self._shown(actor, row) for row in rows]

    async def wait(self, actor: Identity, approval_id: str, seconds: float) -> Approval:
        """Blocks up to ``seconds`` for a change of state."""
        return self._shown(actor, await self._book.wait(approval_id, seconds, actor))

    def blockers(self, approval: Approval) -> Sequence[str]:
        """What still stands in the way of an approval, in words."""
        return self._pipeline.blockers(approval)

    async def changes(self, actor: Identity, approval_id: str, changes_id: str) -> Changes:
        """A change that the request's evidence names, for who judges it.

        Raises:
            NotFound: it names no such change.
            WrongState: somebody altered it after the evidence was made.
        """
        approval = await self._book.load(approval_id, actor)
        for changes in await bound(self._store, self._audit, approval):
            if changes.id == changes_id:
                return changes
        raise NotFound(f"{approval_id} has no change {changes_id}")

    async def pack(self, actor: Identity, approval_id: str) -> dict[str, Any]:
        """The evidence pack: everything that was shown, with the audit rows of this request and what proves
        them in an export of the audit. ``never_began`` names the runs of which there is no row: one has it
        before its process. Raises :class:`WrongState` where a change is not the one that was shown."""
        refuse_agents(actor)
        approval = await self._book.load(approval_id)
        evidence = approval.evidence
        changes = await bound(self._store, self._audit, approval)
        run_ids = [evidence.rehearsal_run, evidence.repeat_run, approval.apply_run, approval.verify_run]
        run_ids += [row.run_id for row in evidence.dry_run.values()]
        runs, never_began = list[Run](), list[str]()
        for run_id in dict.fromkeys(filter(None, run_ids)):
            try:
                runs.append(await self._runs.get(actor, run_id))
            except RunNotFound:
                never_began.append(run_id)
        rows, _ = await self._audit.list(limit=10_000, id=approval_id)
        return {
            "approval": approval.model_dump(mode="json"),
            "playbook": (await self._playbooks.load(approval.playbook_id)).model_dump(mode="json"),
            "changes": [each.model_dump(mode="json") for each in changes],
            "runs": [run.model_dump(mode="json") for run in runs],
            "never_began": never_began,
            "audit": [row.model_dump(mode="json") for row in rows],
            "audit_proof": await self._audit.proof(),
        }

    # --- deciding -------------------------------------------------------------------------------------

    async def dry_run(self, actor: Identity, approval_id: str) -> Approval:
        """An operator opened the review: try the playbook in check mode on the targets."""
        operators_only(actor)
        approval = await self._book.load(approval_id)
        if approval.state is not ApprovalState.PENDING:
            raise refusal(approval)
        await bound(self._store, self._audit, approval)
        await self._audit.note(actor, "approval.review", "approval", approval_id)
        self._pipeline.dry_run(approval)
        return approval

    async def approve(
        self,
        actor: Identity,
        approval_id: str,
        digest: str,
        comment: str = "",
        secrets: Mapping[str, str] | None = None,
    ) -> Approval:
        """An operator's yes to exactly this digest. The last yes that is needed starts the apply, and carries
        the values of the playbook's secrets.

        Raises:
            PanicActive: nothing is applied now.
            SelfApproval, RoleDenied: not theirs to approve.
            AlreadyDecided: over, or somebody was first.
            EvidenceIncomplete: says what is missing.
            StaleDigest: the evidence is not what the operator saw.
            WrongState: its time is over, they have approved it already, or its changes were altered.
            InvalidValue: a secret is missing or unfit.
            TargetLocked: names the approval that holds the target.
        """
        self._refuse_in_panic()
        approval = await self._book.load(approval_id)
        refuse_approver(actor, approval, self._targets.resolve(approval.targets))
        if approval.state is not ApprovalState.PENDING:
            raise refusal(approval)
        if missing := self._pipeline.blockers(approval):
            raise EvidenceIncomplete("; ".join(missing), remedy=f"fluid approvals show {approval_id}")
        if digest != approval.digest:
            raise StaleDigest(
                f"{digest[:12] or 'no digest'} is not {approval_id}'s digest",
                remedy="the evidence is not what you saw: open the review again",
            )
        await bound(self._store, self._audit, approval)
        playbook = await self._playbooks.load(approval.playbook_id)
        checked = self._playbooks.check(playbook)
        given = dict(secrets or {})
        if approval.rolls_back:
            given = {**await self._ways_back.values(approval, playbook), **given}
        decision = Decision(
            verb="approve", uid=actor.uid, name=actor.name, at=now(), digest=digest, comment=comment
        )

        def decide(row: Approval) -> None:
            if row.expires_at <= now():  # housekeeping may be late
                raise WrongState(
                    f"{approval_id} expired at {row.expires_at:%H:%M:%S} UTC",
                    remedy="it must be asked for again",
                )
            if row.digest != digest:
                raise StaleDigest(f"{approval_id} changed while you decided", remedy="open the review again")
            if any(earlier.uid == actor.uid for earlier in row.given):
                raise WrongState(
                    f"you have approved {approval_id} already", remedy="another operator is needed"
                )
            row.decisions.append(decision)
            if len(row.given) >= row.threshold:
                check_values(checked, given)
                row.state = ApprovalState.APPROVED

        async with self._deciding:  # of two requests for one target the second sees the first
            await self._refuse_locked(approval)
            async with self._audit.step(
                actor,
                "approval.approve",
                "approval",
                approval_id,
                sandbox_id=approval.sandbox_id,
                digest=digest,
                comment=comment,
            ):
                approval = await self._book.change(approval_id, [ApprovalState.PENDING], decide)
            if approval.state is ApprovalState.APPROVED:
                self._pipeline.apply(approval, given)
        return approval

    async def reject(
        self, actor: Identity, approval_id: str, reason: str, changes_requested: bool = False
    ) -> Approval:
        """One reject ends it. With ``changes_requested`` the agent is told what to mend."""
        operators_only(actor)
        approval = await self._book.load(approval_id)

        def decide(row: Approval) -> None:
            row.decisions.append(
                Decision(
                    verb="reject",
                    uid=actor.uid,
                    name=actor.name,
                    at=now(),
                    digest=row.digest,
                    comment=reason,
                    changes_requested=changes_requested,
                )
            )
            became(ApprovalState.REJECTED, reason)(row)

        async with self._audit.step(
            actor, "approval.reject", "approval", approval_id, sandbox_id=approval.sandbox_id, reason=reason
        ):
            return await self._book.change(approval_id, _BEFORE_APPLY, decide)

    async def withdraw(self, actor: Identity, approval_id: str) -> Approval:
        """The requester does not want it any more."""
        await self._book.load(approval_id, actor)
        end = became(ApprovalState.WITHDRAWN, f"withdrawn by {actor.name}")
        async with self._audit.step(actor, "approval.withdraw", "approval", approval_id):
            return self._shown(actor, await self._book.change(approval_id, _BEFORE_APPLY, end))

    async def void_edited(self, actor: Identity, playbook_id: str, edited: Playbook) -> None:
        """The agent edited a playbook that it asks an approval for: that evidence is of another text."""
        end = became(ApprovalState.VOIDED, f"its playbook was edited: ask again with {edited.id}")
        for approval in await self._book.open(_BEFORE_APPLY, actor):
            if approval.playbook_id == playbook_id:
                async with self._audit.step(
                    actor, "approval.void", "approval", approval.id, digest=edited.digest
                ):
                    await self._book.change(approval.id, _BEFORE_APPLY, end)

    async def expire(self) -> None:
        """Go on with what was cut off, end what nobody decided in time. The daemon calls this every few
        seconds."""
        async with self._deciding:  # what was approved a moment ago has its apply, with its secrets
            await self._pipeline.pick_up()
        end = became(ApprovalState.EXPIRED, "nobody decided in time")
        for approval in await self._book.open(_BEFORE_APPLY):
            if approval.expires_at <= now():
                with suppress(AlreadyDecided, WrongState):  # in this moment
                    async with self._audit.step(
                        Identity.system(), "approval.expire", "approval", approval.id
                    ):
                        await self._book.change(approval.id, _BEFORE_APPLY, end)

    async def resume(self) -> None:
        """After a start: pick up what a former backend left half done."""
        async with self._deciding:
            await self._pipeline.resume(await self._book.open())

    async def _refuse_locked(self, approval: Approval) -> None:
        for other in await self._book.open(_HOLDING):
            shared = set(other.targets) & set(approval.targets)
            if other.id != approval.id and shared:
                raise TargetLocked(
                    f"{other.id} holds {', '.join(sorted(shared))}", remedy="wait until its apply has ended"
                )

    def _shown(self, actor: Identity, approval: Approval) -> Approval:
        return for_agent(approval) if actor.role is Role.AGENT else approval
