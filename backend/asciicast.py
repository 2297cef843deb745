"""asciicast v2 (docs.asciinema.org/manual/asciicast/v2): a header, then an event a line. Without I/O.

Every line we write is printable ASCII, so that looking at a file acts on no terminal. What is read may be cut
off anywhere, or be anybody's: a line that is no event is passed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

VERSION = 2
OUTPUT, RESIZE, MARK = "o", "r", "m"
MAX_COLUMNS, MAX_ROWS = 500, 200
MAX_SECONDS = 10.0 * 366 * 86_400


@dataclass(frozen=True, slots=True)
class CastEvent:
    """``at`` seconds after the start; ``code`` is ``o`` output, ``r`` a new size ``80x24``, ``m`` a mark."""

    at: float
    code: str
    data: str


@dataclass(frozen=True, slots=True)
class Cast:
    """A recording as it was read. ``broken`` counts the lines that were no event."""

    width: int
    height: int
    timestamp: int = 0
    title: str = ""
    events: list[CastEvent] = field(default_factory=list)
    broken: int = 0

    @property
    def duration(self) -> float:
        """Seconds from the start to the last event."""
        return self.events[-1].at if self.events else 0.0


class NotACast(ValueError):
    """The first line is no header of version 2."""


def header_line(width: int, height: int, timestamp: int, title: str, term: str) -> str:
    """The first line of a file."""
    told = {
        "version": VERSION,
        "width": width,
        "height": height,
        "timestamp": timestamp,
        "title": title,
        "env": {"TERM": term},
    }
    return json.dumps(told, ensure_ascii=True) + "\n"


def event_line(event: CastEvent) -> str:
    """One event of a file."""
    return f"[{event.at:.3f}, {json.dumps(event.code)}, {json.dumps(event.data, ensure_ascii=True)}]\n"


def read_cast(text: str) -> Cast:
    """A whole file. Time never runs backwards in what is returned.

    Raises:
        NotACast: it does not begin as one.
    """
    first, _, rest = text.partition("\n")
    head = _loads(first)
    if not isinstance(head, dict) or head.get("version") != VERSION:
        raise NotACast("no asciicast of version 2")
    events, broken = read_events(rest.splitlines())
    title = head.get("title")
    stamp = head.get("timestamp")
    return Cast(
        width=clamped(head.get("width"), 80, MAX_COLUMNS),
        height=clamped(head.get("height"), 24, MAX_ROWS),
        timestamp=int(stamp) if isinstance(stamp, int | float) and 0 <= stamp < 2**33 else 0,
        title=title if isinstance(title, str) else "",
        events=events,
        broken=broken,
    )


def read_events(lines: Iterable[str]) -> tuple[list[CastEvent], int]:
    """The events of these lines, and how many lines were none."""
    events: list[CastEvent] = []
    broken, last = 0, 0.0
    for line in lines:
        if not line.strip():
            continue
        match _loads(line):
            case [int() | float() as at, str() as code, str() as data] if math.isfinite(at):
                last = max(last, min(float(at), MAX_SECONDS))
                events.append(CastEvent(last, code, data))
            case _:
                broken += 1
    return events, broken


def size_of(data: str) -> tuple[int, int] | None:
    """The size that a resize tells, within what we draw."""
    width, _, height = data.partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        return None
    return clamped(int(width[:6]), 80, MAX_COLUMNS), clamped(int(height[:6]), 24, MAX_ROWS)


def clamped(value: Any, default: int, most: int) -> int:
    """A size that somebody else told, made possible."""
    return min(max(value, 1), most) if type(value) is int else default


def _loads(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
