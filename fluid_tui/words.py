"""States and times as an operator reads them: glyph, word and role together, never a colour alone.

Relative times move in steps of ten seconds, then of a minute, so that a quiet fleet costs no bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from backend.models import Approval, ApprovalState, Phase, RunState, Sandbox, SettingKind
from backend.text import visible
from fluid_tui.paint import Role, Run

STEP_S = 10
MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Mark:
    """A state as it is drawn."""

    glyph: str
    word: str
    role: Role

    @property
    def run(self) -> Run:
        return (f"{self.glyph} {self.word}", self.role)


PHASES: dict[Phase, Mark] = {
    Phase.CREATING: Mark("◌", "creating", Role.ACCENT),
    Phase.RUNNING: Mark("●", "runs", Role.GOOD),
    Phase.PAUSED: Mark("○", "paused", Role.MUTED),
    Phase.STOPPED: Mark("■", "stopped", Role.MUTED),
    Phase.DESTROYED: Mark("†", "destroyed", Role.MUTED),
    Phase.ERROR: Mark("✗", "error", Role.BAD),
    Phase.LOST: Mark("?", "lost", Role.BAD),
}

ASKS = Mark("!", "asks", Role.WARN)

SAID: dict[str, Mark] = {
    "planning": Mark("●", "plans", Role.GOOD),
    "working": Mark("●", "works", Role.GOOD),
    "testing": Mark("●", "tests", Role.GOOD),
    "blocked": Mark("!", "blocked", Role.WARN),
    "done": Mark("✓", "done", Role.GOOD),
    "error": Mark("✗", "error", Role.BAD),
}

APPROVALS: dict[ApprovalState, Mark] = {
    ApprovalState.DRAFTING: Mark("◌", "drafting", Role.MUTED),
    ApprovalState.REHEARSING: Mark("◌", "rehearsing", Role.ACCENT),
    ApprovalState.PENDING: Mark("!", "waits for you", Role.WARN),
    ApprovalState.APPROVED: Mark("✓", "approved", Role.GOOD),
    ApprovalState.APPLYING: Mark("●", "applying", Role.ACCENT),
    ApprovalState.APPLIED: Mark("✓", "applied", Role.GOOD),
    ApprovalState.FAILED: Mark("✗", "failed", Role.BAD),
    ApprovalState.REJECTED: Mark("✗", "rejected", Role.MUTED),
    ApprovalState.EXPIRED: Mark("○", "expired", Role.MUTED),
    ApprovalState.WITHDRAWN: Mark("○", "withdrawn", Role.MUTED),
    ApprovalState.VOIDED: Mark("✗", "voided", Role.BAD),
}

RUNS: dict[RunState, Mark] = {
    RunState.STARTING: Mark("◌", "starting", Role.ACCENT),
    RunState.RUNNING: Mark("●", "running", Role.ACCENT),
    RunState.SUCCESSFUL: Mark("✓", "successful", Role.GOOD),
    RunState.FAILED: Mark("✗", "failed", Role.BAD),
    RunState.CANCELED: Mark("■", "canceled", Role.WARN),
    RunState.TIMEOUT: Mark("✗", "timed out", Role.BAD),
    RunState.LOST: Mark("?", "lost", Role.BAD),
}

TASKS: dict[str, Mark] = {
    "ok": Mark("·", "ok", Role.MUTED),
    "changed": Mark("✓", "changed", Role.WARN),
    "failed": Mark("✗", "failed", Role.BAD),
    "skipped": Mark("–", "skipped", Role.MUTED),
    "unreachable": Mark("✗", "unreachable", Role.BAD),
    "note": Mark("i", "note", Role.ACCENT),
}

SETTINGS: dict[SettingKind, tuple[str, str]] = {
    SettingKind.SUDO: ("Sudo rules", "sudo rule"),
    SettingKind.LOGIN_KEY: ("Login keys", "login key"),
    SettingKind.SSHD: ("SSH daemon", "sshd setting"),
    SettingKind.FIREWALL: ("Firewall", "firewall rule"),
    SettingKind.SOURCE: ("Package sources", "package source"),
    SettingKind.SOURCE_KEY: ("Package keys", "package key"),
    SettingKind.APT: ("apt", "apt setting"),
    SettingKind.DPKG: ("dpkg", "dpkg override"),
    SettingKind.UNIT: ("Unit files", "unit file"),
    SettingKind.DROP_IN: ("Drop-ins", "drop-in"),
    SettingKind.TIMER: ("Timers", "timer"),
    SettingKind.CRON: ("Cron jobs", "cron job"),
    SettingKind.SYSCTL: ("Kernel parameters", "kernel parameter"),
    SettingKind.MODULE: ("Kernel modules", "kernel module"),
    SettingKind.MOUNT: ("Mounts", "mount"),
    SettingKind.HOSTNAME: ("Host name", "host name"),
    SettingKind.HOSTS: ("Hosts file", "hosts line"),
    SettingKind.RESOLVER: ("Resolver", "resolver setting"),
    SettingKind.CERTIFICATE: ("Certificates", "certificate"),
    SettingKind.PRIVATE_KEY: ("Private keys", "private key"),
    SettingKind.ALTERNATIVE: ("Alternatives", "alternative"),
    SettingKind.LOCALE: ("Locale", "locale setting"),
    SettingKind.TIME_ZONE: ("Time zone", "time zone"),
}
"""What files state, in the order in which it is judged: a heading, and the noun to count with."""


def sandbox_mark(sandbox: Sandbox, asks: bool) -> Mark:
    """What a sandbox is doing: asking a person, then its phase, then what its agent said of itself."""
    if asks:
        return ASKS
    if sandbox.phase is Phase.RUNNING:
        return SAID.get(sandbox.status, PHASES[Phase.RUNNING])
    return PHASES[sandbox.phase]


def approval_mark(approval: Approval) -> Mark:
    """The state of a request, with how many of its approvals are there."""
    mark = APPROVALS[approval.state]
    if approval.state is ApprovalState.PENDING and approval.threshold > 1:
        return Mark(mark.glyph, f"{mark.word} ({len(approval.given)} of {approval.threshold})", mark.role)
    return mark


def timed(approval: Approval, now: datetime) -> Approval:
    """The same request, its progress with how long that is under way: ``dry run on web-01 for 20 s``."""
    if not approval.progress or approval.progress_since is None:
        return approval
    lasts = (now - approval.progress_since).total_seconds()
    words = f"{approval.progress} for {span(lasts)}" if lasts >= STEP_S else approval.progress
    return approval.model_copy(update={"progress": words})


def after_yes(approval: Approval) -> str:
    """What a request is once somebody approved it: others may have to."""
    if approval.state is ApprovalState.PENDING:
        return f"has {len(approval.given)} of {approval.threshold} approvals"
    return f"is {APPROVALS[approval.state].word}"


def ago(then: datetime | None, now: datetime) -> str:
    """``20 s ago``; empty if never."""
    if then is None:
        return ""
    seconds = (now - then).total_seconds()
    return "just now" if seconds < STEP_S else f"{span(seconds)} ago"


def left(until: datetime | None, now: datetime) -> str:
    """The time left: ``12m``, ``2h``, ``3d``; ``—`` for no end."""
    if until is None:
        return "—"
    seconds = (until - now).total_seconds()
    if seconds <= 0:
        return "over"
    return f"<{STEP_S}s" if seconds < STEP_S else span(seconds).replace(" ", "")


def span(seconds: float) -> str:
    """A duration in its coarsest useful unit, rounded down."""
    if seconds < MINUTE_S:
        return f"{int(seconds // STEP_S) * STEP_S} s"
    if seconds < HOUR_S:
        return f"{int(seconds // MINUTE_S)} m"
    if seconds < 2 * DAY_S:
        return f"{int(seconds // HOUR_S)} h"
    return f"{int(seconds // DAY_S)} d"


def for_so_long(began: float, now: float) -> str:
    """`` for 20 s``, of two monotonic times; empty within the first step."""
    return f" for {span(now - began)}" if now - began >= STEP_S else ""


def elapsed(seconds: float) -> str:
    """A measured duration: ``0.4 s``, ``12 s``, ``3 m 20 s``."""
    if seconds < STEP_S:
        return f"{seconds:.1f} s"
    if seconds < MINUTE_S:
        return f"{seconds:.0f} s"
    return f"{int(seconds // MINUTE_S)} m {int(seconds % MINUTE_S):02d} s"


def clock(at: datetime) -> str:
    """The operator's wall clock, by the minute."""
    return at.astimezone().strftime("%H:%M")


def plural(count: int, noun: str, many: str = "") -> str:
    """``1 file``, ``2 files``."""
    return f"{count} {noun if count == 1 else many or noun + 's'}"


def requester(approval: Approval) -> str:
    """Who asks: the kernel's word first, the self-declared label beside it."""
    who = visible(approval.requester_name or f"uid {approval.requester_uid}")
    return f"{who} as {visible(approval.agent_id)}" if approval.agent_id else who
