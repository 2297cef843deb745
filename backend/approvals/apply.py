"""From evidence to production: rehearse, dry-run, and, once approved, apply exactly once.

Each stage may be cut short by a kill -9 and is picked up by :meth:`Pipeline.resume`: a rehearsal is made
anew, a dry run is asked for again, an apply is only ever watched, never repeated.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from backend.approvals.book import ApprovalBook, became
from backend.approvals.bound import HASHES, REHEARSED, bound
from backend.approvals.digest import digest_of
from backend.approvals.evidence import blockers, counts
from backend.approvals.rights import refuse_approver
from backend.approvals.risks import of_playbook, of_reading, risks
from backend.approvals.ways_back import WaysBack
from backend.audit import Audit
from backend.background import Background
from backend.config import Config
from backend.errors import (
    AlreadyDecided,
    DatabaseDown,
    FluidError,
    RoleDenied,
    RunNotFound,
    SelfApproval,
    WrongState,
)
from backend.fleet import Fleet
from backend.models import (
    Approval,
    ApprovalState,
    Evidence,
    Identity,
    Playbook,
    Run,
    RunKind,
    RunState,
    TargetEvidence,
    TargetResult,
    new_id,
    now,
)
from backend.playbooks import Playbooks, Rehearser, Runs
from backend.playbooks.preview import preview
from backend.playbooks.secrets import placeholders
from backend.store import OUTAGES, Store
from backend.targets import ResolvedTarget, Targets

log = logging.getLogger(__name__)

STALE_APPROVAL = timedelta(minutes=5)
_UNDER_APPLY = (ApprovalState.APPROVED, ApprovalState.APPLYING)
Verdict = tuple[str, str, int | None]


class Pipeline:
    """The stages of one approval. ``book`` holds the state, the stages fill it in."""

    def __init__(
        self,
        config: Config,
        store: Store,
        book: ApprovalBook,
        audit: Audit,
        fleet: Fleet,
        playbooks: Playbooks,
        rehearser: Rehearser,
        runs: Runs,
        targets: Targets,
        ways_back: WaysBack,
        background: Background,
        refuse_in_panic: Callable[[], None],
        operator: Callable[[int], Identity],
    ) -> None:
        """``operator``: who a uid is now; it raises :class:`RoleDenied` for one that is no operator."""
        self._refuse_in_panic = refuse_in_panic
        self._config = config
        self._store = store
        self._book = book
        self._audit = audit
        self._fleet = fleet
        self._playbooks = playbooks
        self._rehearser = rehearser
        self._runs = runs
        self._targets = targets
        self._ways_back = ways_back
        self._background = background
        self._operator = operator
        self._cut_off: set[str] = set()
        self._rehearsals: dict[str, int] = {}  # approval → its requester
        self._secrets: dict[str, Mapping[str, str]] = {}  # of approvals under apply; nowhere else

    # --- rehearsal ------------------------------------------------------------------------------------

    def rehearse(self, approval: Approval) -> None:
        """Start the rehearsal in the background."""

        def blame(error: Exception) -> Callable[[Approval], None]:
            whole = _words(error)
            heard = error.for_agents().message if isinstance(error, FluidError) else whole
            outcome = f"the rehearsal could not be made: {heard}"
            return became(ApprovalState.DRAFTING, outcome, whole if whole != heard else "")

        self._rehearsals[approval.id] = approval.requester_uid
        self._start("rehearse", approval, self._rehearse, [ApprovalState.REHEARSING], blame)

    def rehearsals_of(self, uid: int) -> set[str]:
        """The approvals of a requester that are under rehearsal: one that is withdrawn has its machine until
        the rehearsal hears of it."""
        for approval_id in tuple(self._rehearsals):
            if not self._background.running(f"rehearse {approval_id}"):
                del self._rehearsals[approval_id]
        return {approval_id for approval_id, whose in self._rehearsals.items() if whose == uid}

    async def _rehearse(self, approval: Approval) -> None:
        playbook = await self._playbooks.load(approval.playbook_id)
        wanted = await self._playbooks.changes_of(playbook)
        if approval.compared_with:
            wanted = await self._store.changes.get(approval.compared_with)

        async def progress(words: str) -> None:
            await self._book.change(approval.id, [ApprovalState.REHEARSING], _says(words))

        async with self._audit.step(
            Identity.system(), REHEARSED, "approval", approval.id, sandbox_id=approval.sandbox_id
        ) as step:
            done = await self._rehearser.rehearse(
                playbook,
                self._playbooks.to_run(playbook),
                await self._fleet.load(approval.sandbox_id),
                wanted,
                approval_id=approval.id,
                progress=progress,
                applied=await self._applied(approval),
            )
            evidence = done.evidence
            evidence.versions = self._fleet.versions()
            if evidence.changes_id:
                changes = await self._store.changes.get(evidence.changes_id)
                evidence.counts = counts(changes)
                first = of_reading(evidence) + of_playbook(self._playbooks.check(playbook))
                evidence.risk = first + risks(changes) + evidence.risk
            step.data.update(failure=evidence.failure, again_changed=evidence.again_changed)
            step.data.update({name: getattr(evidence, name) for name in HASHES})

        state = ApprovalState.DRAFTING if evidence.failure else ApprovalState.PENDING
        end = became(state, evidence.failure)

        def finish(row: Approval) -> None:
            end(row)
            row.evidence = evidence

        rehearsed = await self._book.change(approval.id, [ApprovalState.REHEARSING], finish)
        settings = self._config.targets.groups
        groups = [settings.get(name) for name in rehearsed.groups.values()]
        if not evidence.failure and all(group and group.dry_run_with_request for group in groups):
            self.dry_run(rehearsed)

    async def _applied(self, approval: Approval) -> tuple[Playbook, dict[str, bytes]] | None:
        """What a roll-back takes back."""
        if not approval.rolls_back:
            return None
        run = await self._runs.load(approval.rolls_back)
        playbook = await self._playbooks.load(run.playbook_id)
        return playbook, self._playbooks.to_run(playbook)

    # --- dry run --------------------------------------------------------------------------------------

    def dry_run(self, approval: Approval) -> None:
        """Start a dry run on every target, unless one is under way."""

        def blame(error: Exception) -> Callable[[Approval], None]:
            words = _words(error)

            def change(row: Approval) -> None:
                row.progress = ""
                for target in row.targets:
                    row.evidence.dry_run[target] = TargetEvidence(target=target, error=words, at=now())

            return change

        self._start("dry run", approval, self._dry_run, [ApprovalState.PENDING], blame)

    async def _dry_run(self, approval: Approval) -> None:
        names = ", ".join(approval.targets)
        await self._book.change(approval.id, [ApprovalState.PENDING], _says(f"dry run on {names}"))
        seen = await self._preview(approval)
        playbook = await self._playbooks.load(approval.playbook_id)

        def finish(row: Approval) -> None:
            row.evidence.dry_run, row.progress = seen, ""
            row.digest = self.digest(row, playbook)

        await self._book.change(approval.id, [ApprovalState.PENDING], finish)

    async def _preview(self, approval: Approval) -> dict[str, TargetEvidence]:
        """Check mode on all targets, told as evidence."""
        playbook = await self._playbooks.load(approval.playbook_id)
        rehearsal = await self._runs.load(approval.evidence.rehearsal_run)
        async with self._audit.step(
            Identity.system(), "approval.dry_run", "approval", approval.id, targets=approval.targets
        ) as step:
            stand_ins = placeholders(playbook.secrets)
            runs = await self._on_targets(RunKind.DRY_RUN, approval, playbook, secrets=stand_ins)
            of = {target: run for run in runs for target in run.targets}
            reached = {
                name: run for name, run in of.items() if not run.results.get(name, TargetResult()).unreachable
            }
            under = await self._ways_back.fingerprints(approval, playbook, [*reached])
            logins = {target.name: target.login for target in self._targets.resolve(approval.targets)}
            seen = {
                name: preview(rehearsal, run, name, under.get(name, ""), logins[name])
                for name, run in of.items()
            }
            for told in (
                await self._ways_back.other_packages(approval, reached),
                await self._ways_back.not_kept(approval, playbook, [*reached]),
            ):
                for name, words in told.items():
                    seen[name].differs += words
            step.data["changed"] = {name: row.result.changed for name, row in seen.items()}
        return seen

    def digest(self, approval: Approval, playbook: Playbook) -> str:
        """The digest of the evidence as it stands; empty while something blocks the approval."""
        if self.blockers(approval):
            return ""
        resolved = self._targets.resolve(approval.targets)
        wire = {t.name: [t.address, t.port, t.user, t.host_key, t.become] for t in resolved}
        return digest_of(approval, playbook, wire, self._config.approvals.model_dump_json())

    def blockers(self, approval: Approval) -> list[str]:
        return blockers(
            approval.evidence, approval.targets, allow_unrehearsed=self._config.approvals.allow_unrehearsed
        )

    # --- apply ----------------------------------------------------------------------------------------

    def apply(self, approval: Approval, secrets: Mapping[str, str] | None = None) -> None:
        """Start the apply in the background. ``secrets`` stay in memory until it is over."""
        if secrets:
            self._secrets[approval.id] = secrets
        self._start("apply", approval, self._apply, _UNDER_APPLY, _apply_failed)

    async def _apply(self, approval: Approval) -> None:
        playbook = await self._playbooks.load(approval.playbook_id)
        given = await self._values(approval, playbook)
        if set(playbook.secrets) - set(given):
            words = "its secrets were in the memory of a backend that is gone: ask again"
            await self._void(approval, words)
            return
        await self._book.change(
            approval.id, [ApprovalState.APPROVED], _says("dry run again, under the targets' lock")
        )
        again = approval.model_copy(deep=True)
        again.evidence.dry_run = await self._preview(approval)
        _forget_unnoted(approval.evidence, again.evidence)
        if self.digest(again, playbook) != approval.digest:
            moved = _drift(approval.evidence, again.evidence)
            await self._void(approval, "the target drifted after the approval", moved)
            return
        try:
            await bound(self._store, self._audit, approval)
        except WrongState as error:
            await self._void(approval, error.message)
            return
        try:
            await asyncio.to_thread(self._refuse_approvers, approval)
        except (RoleDenied, SelfApproval) as error:
            await self._void(approval, f"who approved it may no longer: {error.message}")
            return
        self._refuse_in_panic()  # what was approved before the panic fails here
        run_id = new_id("RUN")
        if not approval.rolls_back:
            await self._book.change(
                approval.id, [ApprovalState.APPROVED], _says("keeping what the targets have, for a roll back")
            )
            await self._ways_back.keep(approval, playbook, run_id)
            self._refuse_in_panic()

        def applying(row: Approval) -> None:
            row.state, row.apply_run, row.progress = ApprovalState.APPLYING, run_id, "applying"

        approval = await self._book.change(approval.id, [ApprovalState.APPROVED], applying)
        async with self._audit.step(
            Identity.system(),
            "approval.apply",
            "approval",
            approval.id,
            run=run_id,
            targets=approval.targets,
            digest=approval.digest,
        ) as step:
            self._refuse_in_panic()
            kind = RunKind.ROLLBACK if approval.rolls_back else RunKind.APPLY
            runs = await self._on_targets(kind, approval, playbook, run_id=run_id, secrets=given)
            step.data["state"] = runs[0].state
        await self._finish(approval, runs[0])

    def _refuse_approvers(self, approval: Approval) -> None:
        """Whoever said yes may have lost the right since. Raises RoleDenied, SelfApproval."""
        targets = self._targets.resolve(approval.targets)
        for decision in approval.given:
            refuse_approver(self._operator(decision.uid), approval, targets)

    async def _void(self, approval: Approval, outcome: str, said: str = "") -> None:
        await self._audit.note(
            Identity.system(), "approval.void", "approval", approval.id, because=outcome, said_by_targets=said
        )
        await self._book.change(
            approval.id, [ApprovalState.APPROVED], became(ApprovalState.VOIDED, outcome, said)
        )

    async def _finish(self, approval: Approval, run: Run) -> None:
        """After the apply: check mode must find nothing left to change."""
        if run.state is not RunState.SUCCESSFUL:
            reason = run.reason or f"see the events of {run.id}"
            await self._book.change(
                approval.id,
                [ApprovalState.APPLYING],
                became(ApprovalState.FAILED, f"the apply {run.state}", reason),
            )
            return
        try:
            verify_run, (words, said, changed) = await self._verify(approval)
        except OUTAGES:
            raise
        except Exception as error:
            log.exception("%s is applied, and its check failed", approval.id)
            verify_run, words, said, changed = "", "not verified: check mode did not run", _words(error), None
        end = became(ApprovalState.APPLIED, f"applied to {', '.join(approval.targets)}; {words}", said)

        def applied(row: Approval) -> None:
            end(row)
            row.verify_run, row.verified_changed = verify_run, changed

        await self._book.change(approval.id, [ApprovalState.APPLYING], applied)
        await self._audit.note(
            Identity.system(), "approval.applied", "approval", approval.id, verified_changed=changed
        )

    async def _verify(self, approval: Approval) -> tuple[str, Verdict]:
        """The run of check mode after the apply, empty where there can be none, and what it says."""
        playbook = await self._playbooks.load(approval.playbook_id)
        given = await self._values(approval, playbook)
        if playbook.secrets and not given:
            return "", ("not verified: its secrets went with the backend", "", None)
        await self._book.change(approval.id, [ApprovalState.APPLYING], _says("verifying in check mode"))
        checks = await self._on_targets(RunKind.VERIFY, approval, playbook, secrets=given)
        return checks[0].id, _verified(checks)

    async def _values(self, approval: Approval, playbook: Playbook) -> Mapping[str, str]:
        """Of the playbook's secrets those that are known: given by operators, or kept of the target."""
        given = self._secrets.get(approval.id, {})
        return {**await self._ways_back.values(approval, playbook), **given} if approval.rolls_back else given

    async def _on_targets(
        self,
        kind: RunKind,
        approval: Approval,
        playbook: Playbook,
        *,
        secrets: Mapping[str, str] | None,
        run_id: str = "",
    ) -> list[Run]:
        """One run for each group of targets that share a key; an apply has one key, so one run."""
        files = self._playbooks.to_run(playbook)
        groups = defaultdict[str, list[ResolvedTarget]](list)
        for target in self._targets.resolve(approval.targets):
            groups[target.group].append(target)
        if run_id and len(groups) > 1:
            raise WrongState(
                f"{approval.id} spans {len(groups)} target groups with different keys",
                remedy="ask for one approval per group",
            )
        return [
            await self._runs.execute(
                kind,
                playbook,
                files,
                [target.host() for target in members],
                self._targets.key(members[0].name),
                strategy=approval.evidence.strategy,
                approval_id=approval.id,
                run_id=run_id,
                secrets=secrets,
            )
            for members in groups.values()
        ]

    # --- after a restart, or an outage of the database ------------------------------------------------

    def _start(
        self,
        stage: str,
        approval: Approval,
        work: Callable[[Approval], Coroutine[Any, Any, None]],
        states: Collection[ApprovalState],
        blame: Callable[[Exception], Callable[[Approval], None]],
    ) -> None:
        """Run a stage in the background, unless it is under way. ``blame`` tells the row of an error.

        To lose the database is no failure of a stage, nor is anything of an apply whose run has begun: what
        was started runs on, and :meth:`pick_up` finds it.
        """

        async def failed(error: Exception) -> None:
            try:
                if isinstance(error, DatabaseDown) or await self._runs_on(approval.id):
                    self._cut_off.add(approval.id)
                else:
                    await self._book.change(approval.id, states, blame(error))
            except (AlreadyDecided, WrongState):
                log.info("%s was decided while its %s failed", approval.id, stage)
            except OUTAGES:
                self._cut_off.add(approval.id)

        self._background.start(f"{stage} {approval.id}", partial(work, approval), failed=failed)

    async def _runs_on(self, approval_id: str) -> bool:
        """Whether its apply has begun: from then on nothing but its run tells how it ends."""
        approval = await self._book.load(approval_id)
        if approval.state is not ApprovalState.APPLYING:
            return False
        try:
            await self._runs.load(approval.apply_run)
        except RunNotFound:
            return False
        return True

    async def pick_up(self) -> None:
        """Go on with what an outage of the database cut off, as after a restart; forget secrets whose apply
        is over. Not while somebody decides: an approval is a row before its apply starts."""
        for approval_id in tuple(self._cut_off):
            self._cut_off.discard(approval_id)  # before: what is begun again may be cut off again at once
            try:
                await self.resume([await self._book.load(approval_id)])
            except Exception:
                self._cut_off.add(approval_id)
                raise
        for approval in await self._book.open([ApprovalState.APPROVED]):  # the decision's answer was lost
            if not self._background.running(f"apply {approval.id}"):
                await self.resume([await self._book.load(approval.id)])  # its apply may have ended meanwhile
        for approval_id in tuple(self._secrets):
            if (await self._book.load(approval_id)).state not in _UNDER_APPLY:
                del self._secrets[approval_id]

    async def resume(self, approvals: Iterable[Approval]) -> None:
        """Pick up what a former backend left half done, and say so in the audit."""
        for approval in approvals:
            if approval.state is ApprovalState.REHEARSING:
                self.rehearse(approval)
            elif approval.state is ApprovalState.PENDING and approval.progress:
                self.dry_run(approval)
            elif approval.state is ApprovalState.APPROVED:
                await self._resume_approved(approval)
            elif approval.state is ApprovalState.APPLYING:
                self._start("apply", approval, self._resume_applying, _UNDER_APPLY, _apply_failed)
            else:
                continue
            await self._audit.note(
                Identity.system(), "approval.resume", "approval", approval.id, state=approval.state
            )

    async def _resume_approved(self, approval: Approval) -> None:
        decided = approval.decisions[-1].at
        if now() - decided > STALE_APPROVAL:
            words = "the backend was away for more than 5 minutes after the approval"
            await self._void(approval, words)
        else:
            self.apply(approval)

    async def _resume_applying(self, approval: Approval) -> None:
        try:
            run = await self._runs.load(approval.apply_run)
        except RunNotFound:
            words = "it was cut off before the apply began; nothing was changed"
            await self._book.change(
                approval.id, [ApprovalState.APPLYING], became(ApprovalState.FAILED, words)
            )
            return
        run = await self._runs.watch(run)
        await self._audit.note(
            Identity.system(), "approval.apply", "approval", approval.id, run=run.id, state=run.state
        )
        await self._finish(approval, run)


def _says(words: str) -> Callable[[Approval], None]:
    def change(row: Approval) -> None:
        row.progress = words

    return change


def _apply_failed(error: Exception) -> Callable[[Approval], None]:
    return became(ApprovalState.FAILED, "the apply failed", _words(error))


def _words(error: Exception) -> str:
    return error.message if isinstance(error, FluidError) else "an internal error, see the log"


def _verified(checks: Sequence[Run]) -> Verdict:
    """What check mode says after an apply, what the target says where it could not, and how much it would
    change; None where it could not say."""
    for check in checks:
        if check.state is not RunState.SUCCESSFUL:
            return f"not verified: check mode {check.state}", check.reason or check.id, None
    changed = sum(result.changed for check in checks for result in check.results.values())
    if changed:
        return f"not verified: check mode would still change {changed}", "", changed
    return "verified: check mode would change nothing", "", changed


def _forget_unnoted(before: Evidence, after: Evidence) -> None:
    """An older version noted no logins: what is equal but for them is equal. The digest binds the addresses
    beside them too."""
    for name, seen in after.dry_run.items():
        if not before.login(name):
            seen.login = ""


def _drift(before: Evidence, after: Evidence) -> str:
    """Which targets look different now, and how."""
    moved = []
    for name, seen in after.dry_run.items():
        was = before.dry_run.get(name)
        if seen.error:
            moved.append(f"{name}: {seen.error}")
        elif was is not None and seen.login != was.login:
            moved.append(f"{name}: reached as {seen.login}, and the approval was of {was.login}")
        elif was is None or seen.fingerprint != was.fingerprint:
            fresh = [words for words in seen.differs if was is None or words not in was.differs]
            moved.append(f"{name}: {'; '.join(fresh) or 'another result of the dry run'}")
    return ", ".join(moved) or "the request itself, its evidence, targets or policy changed"
