"""The fleet as rows: who needs a person first, then errors, then by last activity. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from backend.models import Approval, ApprovalState, Ask, AskState, FleetView, Phase, Sandbox
from backend.models.approval import APPROVAL_OVER
from backend.text import visible
from fluid_tui.filters import Filter, parse
from fluid_tui.paint import Role, Run, fit, said
from fluid_tui.widgets.live_list import Column, Row
from fluid_tui.words import ago, approval_mark, left, plural, sandbox_mark

ONGOING = (
    ApprovalState.PENDING,
    ApprovalState.APPROVED,
    ApprovalState.APPLYING,
    ApprovalState.REHEARSING,
    ApprovalState.DRAFTING,
)
CAME_TO_NOTHING = APPROVAL_OVER - {ApprovalState.APPLIED}
FAILED_SHOWN = timedelta(days=1)
BROKEN = (Phase.ERROR, Phase.LOST)
HOST_WIDTH = 20  # of a host's name in the top line

NEED_COLUMNS = (
    Column("", 1),
    Column("", 4),
    Column("", 16, name=True),
    Column("", 0),
    Column("", 26, from_width=100),
    Column("", 14, from_width=120),
    Column("", 9, right=True, from_width=46),
)
SANDBOX_COLUMNS = (
    Column("name", 0, share=2, name=True),
    Column("agent", 10, from_width=48, name=True),
    Column("host", 8, from_width=58, name=True),
    Column("state", 11),
    Column("ttl", 4, right=True),
    Column("last command", 0, from_width=72, share=3),
)


class Sorting(StrEnum):
    """How the sandboxes are ordered."""

    NEED = "need"
    NAME = "name"
    AGENT = "agent"
    HOST = "host"
    STATE = "state"
    TTL = "ttl"
    ACTIVITY = "activity"


SORTED_COLUMN = {Sorting.ACTIVITY: "last command"}
"""The column that an order is named in, where it is not its own."""
FIELDS = ("name", "agent", "host", "state", "image", "id", "owner", "says", "command")
MEASURES = ("ttl", "idle", "age", "commands", "cpu", "memory")


def waiting(fleet: FleetView) -> tuple[list[Approval], list[Ask]]:
    """What needs a person now, the soonest to expire first."""
    approvals = [one for one in fleet.approvals if one.state is ApprovalState.PENDING]
    asks = [one for one in fleet.asks if one.status is AskState.PENDING]
    return (
        sorted(approvals, key=lambda one: one.expires_at),
        sorted(asks, key=lambda one: one.expires_at),
    )


def need_rows(fleet: FleetView, now: datetime) -> list[Row]:
    """Requests and questions that wait, applies that failed, then requests that are on their way."""
    approvals, asks = waiting(fleet)
    rows = [_approval_row(one, now) for one in approvals]
    rows += [_ask_row(one, fleet, now) for one in asks]
    rows += [_approval_row(one, now) for one in failed_applies(fleet, now)]
    moving = [one for one in fleet.approvals if one.state in ONGOING and one not in approvals]
    return rows + [_approval_row(one, now) for one in sorted(moving, key=lambda one: one.created_at)]


def failed_applies(fleet: FleetView, now: datetime) -> list[Approval]:
    """What went wrong on a target within a day and nothing mends yet: no way back, no later apply of the same
    sandbox; the newest first."""
    live = [one for one in fleet.approvals if one.state not in CAME_TO_NOTHING]
    mended = {one.rolls_back for one in live}
    applied = [one for one in live if one.apply_run]
    found = [
        one
        for one in fleet.approvals
        if one.state is ApprovalState.FAILED
        and one.apply_run
        and one.apply_run not in mended
        and now - one.updated_at < FAILED_SHOWN
        and not any(
            later.sandbox_id == one.sandbox_id and later.created_at > one.created_at for later in applied
        )
    ]
    return sorted(found, key=lambda one: one.updated_at, reverse=True)


def _approval_row(approval: Approval, now: datetime) -> Row:
    mark = approval_mark(approval)
    pending = approval.state is ApprovalState.PENDING
    targets = visible(", ".join(approval.targets))
    failed = approval.state is ApprovalState.FAILED
    moved = f"apply failed: {visible(approval.ending) or targets}" if failed else ""
    age = ago(approval.updated_at, now) if failed else ""
    return Row(
        approval.id,
        (
            (mark.glyph, mark.role),
            said(approval.short_id, Role.TITLE),
            said(approval.sandbox_name or approval.sandbox_id),
            (
                f"apply to {targets}: {visible(approval.reason)}"
                if pending
                else moved or f"{mark.word}: {visible(approval.progress) or targets}",
                Role.BAD if failed else Role.TEXT,
            ),
            evidence_words(approval) if pending else ("", Role.MUTED),
            _residual_words(approval) if pending else ("", Role.MUTED),
            (f"{left(approval.expires_at, now)} left" if pending else age, Role.MUTED),
        ),
    )


def evidence_words(approval: Approval) -> tuple[Run, ...]:
    """``rehearsed ✓  idempotent ✓`` as far as it is measured."""
    evidence = approval.evidence
    rehearsed = evidence.rehearsal is not None and not evidence.rehearsal.failed and not evidence.failure
    return (
        ("rehearsed ", Role.MUTED),
        ("✓", Role.GOOD) if rehearsed else ("✗", Role.BAD),
        ("  idempotent ", Role.MUTED),
        ("✓", Role.GOOD) if evidence.again_changed == 0 else ("✗", Role.BAD),
    )


def _residual_words(approval: Approval) -> Run:
    count = len(approval.evidence.rows("missing")) + len(approval.evidence.rows("extra"))
    return (f"residual {count}", Role.MUTED if count == 0 else Role.WARN)


def _ask_row(ask: Ask, fleet: FleetView, now: datetime) -> Row:
    name = next((one.sandbox_name for one in fleet.sandboxes if one.id == ask.sandbox_id), "")
    return Row(
        ask.request_id,
        (
            ("?", Role.WARN),
            (short_id(ask.request_id), Role.TITLE),
            said(name or ask.requester_name),
            said(ask.prompt),
            said(ask.action_type, Role.WARN if ask.action_type != "question" else Role.MUTED),
            said(f"urgency {ask.urgency}", Role.MUTED),
            (f"{left(ask.expires_at, now)} left", Role.MUTED),
        ),
    )


def short_id(id: str) -> str:
    """The four characters that an operator types to confirm."""
    return visible((id.partition("-")[2] or id)[:4])


def sandbox_filter(words: str) -> Filter:
    """What ``/`` understands about sandboxes."""
    return parse(words, FIELDS, MEASURES)


def sandbox_rows(
    fleet: FleetView, now: datetime, words: str, sorting: Sorting, *, reverse: bool = False
) -> list[Row]:
    """The sandboxes that match ``words``, in order."""
    asking, wanted = asking_sandboxes(fleet), sandbox_filter(words)
    kept = [one for one in fleet.sandboxes if matches(one, wanted, one.id in asking, now)]
    kept.sort(key=lambda one: _order(one, one.id in asking, sorting), reverse=reverse)
    return [_sandbox_row(one, one.id in asking, now) for one in kept]


def asking_sandboxes(fleet: FleetView) -> set[str]:
    """The sandboxes whose agent waits for a person."""
    approvals, asks = waiting(fleet)
    return {one.sandbox_id for one in approvals} | {one.sandbox_id for one in asks if one.sandbox_id}


def _order(sandbox: Sandbox, asks: bool, sorting: Sorting) -> tuple[object, ...]:
    activity = -(sandbox.last_activity_at or sandbox.created_at).timestamp()
    match sorting:
        case Sorting.NAME:
            return (sandbox.sandbox_name,)
        case Sorting.AGENT:
            return (sandbox.agent_id, sandbox.sandbox_name)
        case Sorting.HOST:
            return (sandbox.host_name, sandbox.sandbox_name)
        case Sorting.STATE:
            return (sandbox_mark(sandbox, asks).word, sandbox.sandbox_name)
        case Sorting.TTL:
            ends = sandbox.expires_at
            return (ends is None, ends.timestamp() if ends else 0.0, sandbox.sandbox_name)
        case Sorting.ACTIVITY:
            return (activity, sandbox.sandbox_name)
    return (not asks, sandbox.phase not in BROKEN, activity, sandbox.sandbox_name)


def _sandbox_row(sandbox: Sandbox, asks: bool, now: datetime) -> Row:
    mark = sandbox_mark(sandbox, asks)
    over = sandbox.phase in BROKEN
    ends = Role.WARN if sandbox.expiry_told_s else Role.MUTED  # its agent was told that it ends soon
    held = sandbox.reason if sandbox.phase is not Phase.RUNNING else ""
    words = Role.BAD if over else Role.WARN if held else Role.MUTED
    return Row(
        sandbox.id,
        (
            said(sandbox.sandbox_name),
            said(sandbox.agent_id, Role.MUTED),
            said(sandbox.host_name, Role.MUTED),
            mark.run,
            ("—", Role.MUTED) if over else (left(sandbox.expires_at, now), ends),
            said(held or ("" if over else sandbox.last_command), words),
        ),
    )


def matches(sandbox: Sandbox, wanted: Filter, asks: bool, now: datetime) -> bool:
    """Whether a sandbox is one of those that ``/`` asks for."""
    texts = {
        "name": sandbox.sandbox_name,
        "agent": sandbox.agent_id,
        "host": sandbox.host_name,
        "state": f"{sandbox_mark(sandbox, asks).word} {sandbox.phase} {sandbox.status}",
        "image": sandbox.base_image,
        "id": sandbox.id,
        "owner": sandbox.owner_name,
        "says": sandbox.status_note,
        "command": sandbox.last_command,
    }
    measures = {
        "idle": (now - (sandbox.last_activity_at or sandbox.created_at)).total_seconds(),
        "age": (now - sandbox.created_at).total_seconds(),
        "commands": sandbox.commands,
        "cpu": sandbox.cpu,
        "memory": sandbox.memory_mb,
    }
    if sandbox.expires_at is not None:
        measures["ttl"] = (sandbox.expires_at - now).total_seconds()
    return wanted.matches(texts, measures)


def headline(fleet: FleetView, doing: Sequence[Run] = (), facts: Sequence[Run] = ()) -> list[Run]:
    """The facts of the top line, the most important last. ``doing``: what the operator has under way."""
    approvals, asks = waiting(fleet)
    needs = len(approvals) + len(asks)
    broken = [part for part in fleet.components if part.status != "ok"]
    runs: list[Run] = [
        (plural(len(fleet.sandboxes), "sandbox", "sandboxes"), Role.MUTED),
        ("audit ok", Role.MUTED) if fleet.audit_ok else ("✗ audit broken", Role.BAD),
    ]
    runs += [(f"✗ {visible(part.name)} {visible(part.status)}", Role.BAD) for part in broken[:2]]
    runs += doing
    runs += [(f"! {needs} {'needs' if needs == 1 else 'need'} you", Role.WARN)] if needs else []
    return [*runs, *facts]


def open_guests(fleet: FleetView, *, short: bool = False) -> list[Run]:
    """Whose guests are not isolated, for the top line of every screen; ``short``: that some are not."""
    names = [visible(host.name) for host in fleet.hosts if not host.isolated]
    if not names:
        return []
    if short:
        return [("guests not isolated", Role.WARN)]
    where = fit(names[0], HOST_WIDTH).rstrip() if len(names) == 1 else f"{len(names)} hosts"
    return [(f"guests on {where} are not isolated", Role.WARN)]
