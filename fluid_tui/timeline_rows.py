"""What happened, newest first: the audit, and the events that this console has heard, as rows. Pure.

An intent and its outcome are one line. An intent alone is under way, or was cut off: it says ``no outcome``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from backend.models import EVENTS_MISSED, AuditRow, Event, FleetView
from backend.text import visible
from fluid_tui.filters import Filter, parse
from fluid_tui.paint import BLANK, Line, Role, line, said
from fluid_tui.widgets.live_list import Column, Row
from fluid_tui.words import Mark

TIMELINE_COLUMNS = (Column("time", 8), Column("who", 10, from_width=50), Column("what", 19), Column("", 0))
ALL_COLUMNS = (
    Column("time", 8),
    Column("who", 10, from_width=90),
    Column("what", 19),
    Column("of", 14, from_width=56, name=True),
    Column("", 0),
)
"""Of all sandboxes: whose it is comes before who did it."""
FIELDS = ("who", "what", "of", "sandbox", "step", "said")
SLOW = timedelta(minutes=2)
"""An intent that is older has probably lost its outcome."""
WORDS_CHARS = 200
LABEL_CELLS = 12
NOISY = frozenset({"run.event", "pane.changed", "command.output", "sandbox.changed", EVENTS_MISSED})
"""Events that the list would drown in; the audit has what matters of them."""
UNRECORDED = frozenset({"run.event", "pane.changed", "command.output", "presence.changed"})
"""Events that no row of the audit comes with."""
UNTOLD = frozenset({"ok", "intent", "error", "error_code"})
MARKS: tuple[tuple[str, Mark], ...] = (
    ("approval.approve", Mark("✓", "", Role.GOOD)),
    ("approval.reject", Mark("✗", "", Role.WARN)),
    ("approval", Mark("!", "", Role.WARN)),
    ("ask", Mark("?", "", Role.WARN)),
    ("panic", Mark("‼", "", Role.BAD)),
    ("snapshot", Mark("◆", "", Role.ACCENT)),
    ("command", Mark("$", "", Role.TEXT)),
    ("pane.take_over", Mark("●", "", Role.WARN)),
    ("pane.hand_back", Mark("○", "", Role.MUTED)),
    ("recording", Mark("▶", "", Role.ACCENT)),
    ("run", Mark("▸", "", Role.ACCENT)),
    ("sandbox", Mark("●", "", Role.GOOD)),
    ("host", Mark("■", "", Role.MUTED)),
)
OTHER = Mark("·", "", Role.MUTED)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened. ``key`` is ``row N`` of the audit or ``event N``."""

    key: str
    at: datetime
    who: str
    what: str
    of: str
    sandbox_id: str
    step: str
    data: dict[str, Any] = field(default_factory=dict)
    failed: bool = False
    chain: str = ""


def entries(rows: Sequence[AuditRow], events: Sequence[Event]) -> list[Entry]:
    """Audit and events in one order, newest first."""
    begun = {row.seq: row for row in rows if row.step == "intent"}
    ended = {row.data.get("intent") for row in rows if row.step == "outcome"}
    made = [_of_row(row, begun) for row in rows if not (row.step == "intent" and row.seq in ended)]
    made += [_of_event(event) for event in events if event.kind not in NOISY]
    return sorted(made, key=lambda one: (one.at, one.key), reverse=True)


def _of_row(row: AuditRow, begun: dict[int, AuditRow]) -> Entry:
    intent = begun.get(row.data.get("intent", -1))
    return Entry(
        key=f"row {row.seq}",
        at=row.at,
        who=row.actor_name or f"uid {row.actor_uid}",
        what=row.action,
        of=row.id,
        sandbox_id=row.sandbox_id,
        step=row.step,
        data={**(intent.data if intent else {}), **row.data},
        failed=row.data.get("ok") is False,
        chain=row.hash,
    )


def _of_event(event: Event) -> Entry:
    return Entry(
        f"event {event.seq}", event.at, "", event.kind, event.id, event.sandbox_id, "event", event.data
    )


def timeline_filter(words: str) -> Filter:
    """What ``/`` understands about the past."""
    return parse(words, FIELDS)


def timeline_rows(
    made: Sequence[Entry], fleet: FleetView | None, wanted: Filter, sandbox_id: str, now: datetime
) -> list[Row]:
    """The entries of one sandbox (or of all) that match, as rows."""
    names = {one.id: one.sandbox_name for one in fleet.sandboxes} if fleet else {}
    kept = [one for one in made if sandbox_id in ("", one.sandbox_id, one.of)]
    found = [one for one in kept if wanted.matches(_texts(one, names, now), {})]
    return [_row(one, names, now, whose=not sandbox_id) for one in found]


def _texts(entry: Entry, names: dict[str, str], now: datetime) -> dict[str, str]:
    sandbox = f"{names.get(entry.sandbox_id, '')} {entry.sandbox_id}"
    return {
        "who": entry.who,
        "what": entry.what,
        "of": f"{entry.of} {names.get(entry.of, '')}",
        "sandbox": sandbox,
        "step": entry.step,
        "said": told(entry, now),
    }


def _row(entry: Entry, names: dict[str, str], now: datetime, *, whose: bool) -> Row:
    mark = next((mark for begin, mark in MARKS if entry.what.startswith(begin)), OTHER)
    role = Role.BAD if entry.failed else mark.role
    of = names.get(entry.of) or names.get(entry.sandbox_id) or entry.of
    quiet = entry.step in ("event", "note")
    return Row(
        entry.key,
        (
            (clock_words(entry.at, now), Role.MUTED),
            said(entry.who, Role.MUTED),
            line(("✗ " if entry.failed else f"{mark.glyph} ", role), said(entry.what, _shade(quiet))),
            *([said(of, Role.MUTED)] if whose else []),
            said(told(entry, now)[:WORDS_CHARS], Role.BAD if entry.failed else Role.TEXT),
        ),
    )


def _shade(quiet: bool) -> Role:
    return Role.MUTED if quiet else Role.TEXT


def clock_words(at: datetime, now: datetime) -> str:
    """The operator's wall clock, or the day when it is not today."""
    local, today = at.astimezone(), now.astimezone()
    return local.strftime("%H:%M:%S" if local.date() == today.date() else "%d %b")


def told(entry: Entry, now: datetime) -> str:
    """The gist of an entry in one line: the command, the reason, the outcome."""
    data = entry.data
    words = [str(data["command"])] if data.get("command") else []
    words += [_fact(name, value) for name, value in data.items() if _worth(name, value)]
    if data.get("exit_code") is not None:
        words.append(f"exit {data['exit_code']}")
    if entry.failed:
        words.append(str(data.get("error") or data.get("error_code") or "failed"))
    if entry.step == "intent":
        words.append("under way" if now - entry.at < SLOW else "no outcome")
    return " · ".join(words)


def _fact(name: str, value: Any) -> str:
    """``ready 1.4 s`` of the audit's ``ready_s``."""
    is_time = name.endswith("_s") and isinstance(value, int | float)
    words, unit = (name.removesuffix("_s"), " s") if is_time else (name, "")
    return f"{words.replace('_', ' ')} {_short(value)}{unit}"


def _worth(name: str, value: Any) -> bool:
    return name not in UNTOLD | {"command", "exit_code"} and value not in (None, "", [], {}, False)


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def entry_lines(entry: Entry, output: Sequence[Line] = (), name: str = "") -> list[Line]:
    """All of one entry; ``output`` is what a command printed, ``name`` the sandbox's."""
    facts = [
        ("when", entry.at.astimezone().strftime("%Y-%m-%d %H:%M:%S")),
        ("who", entry.who),
        ("what", f"{entry.what} ({entry.step})"),
        ("of", entry.of if entry.of != entry.sandbox_id else ""),
        ("sandbox", f"{name}  {entry.sandbox_id}".strip()),
        *((name, _short(value)) for name, value in entry.data.items() if name != "intent"),
        ("chain", f"{entry.key}, {entry.chain[:16]}…" if entry.chain else "an event, not in the audit"),
    ]
    lines: list[Line] = []
    for name, value in facts:
        if value in ("", "null"):
            continue
        first, *rest = visible(value, keep_newlines=True, tab=8).split("\n")
        label = f"{visible(name, limit=LABEL_CELLS - 2):<{LABEL_CELLS - 1}} "
        lines.append(line((label, Role.MUTED), (first, Role.TEXT)))
        lines += [line((" " * LABEL_CELLS, Role.TEXT), (each, Role.TEXT)) for each in rest]
    return [*lines, BLANK, *output] if output else lines
