"""What one terminal prints, between its output and the file: joined, counted, bounded. Without I/O."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest

from backend.asciicast import MARK, OUTPUT, RESIZE, CastEvent
from backend.emulator import cells
from backend.models import Recording
from backend.tmux import Drawn

JOIN_S = 0.05
"""What is printed within so short a time is one event."""
BURST_BYTES = 256 << 10
RATE_BYTES_S = 64 << 10
"""A terminal that prints more than the burst, and then more than this, is recorded with gaps."""
GAP = "not recorded for a moment: it printed more than {} kB/s"

_SGR = re.compile(r"\x1b\[[0-9;:]*m")


@dataclass
class Tape:
    """``clock`` tells seconds since the recording's start. ``is_full``: what comes is dropped, until the
    screen is drawn anew."""

    recording: Recording
    clock: Callable[[], float]
    part: int = 1
    part_bytes: int = 0
    is_full: bool = False
    back_at: float = 0.0
    last_at: float = 0.0
    _events: list[tuple[float, str, bytearray]] = field(default_factory=list)
    _room: float = BURST_BYTES
    _filled_at: float = 0.0

    def __post_init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._size = self.recording.width, self.recording.height
        self._filled_at = self.clock()

    def put(self, data: bytes) -> None:
        """The terminal printed this."""
        at = self.clock()
        if not self._events:
            self._refill(at)
        self._room -= len(data)
        if self._room < 0:
            self.is_full = True
            self._add(at, MARK, GAP.format(RATE_BYTES_S >> 10).encode())
        elif self._events and self._events[-1][1] == OUTPUT and at - self._events[-1][0] < JOIN_S:
            self._events[-1][2].extend(data)
        else:
            self._add(at, OUTPUT, data)

    def draw(self, drawn: Drawn) -> None:
        """The screen as it is now: what follows is right whatever was missed."""
        at = self.clock()
        self.is_full = False
        if self.part > 1 or self._size != (drawn.width, drawn.height):
            self._size = drawn.width, drawn.height
            self._add(at, RESIZE, b"%dx%d" % self._size)
        self._add(at, OUTPUT, redraw(drawn).encode())

    @property
    def is_dirty(self) -> bool:
        """Whether :meth:`take` has something."""
        return bool(self._events)

    def take(self) -> list[CastEvent]:
        """What came since the last time; there is room again for what the rate allows."""
        self._refill(self.clock())
        events, self._events = self._events, []
        made = [CastEvent(when, code, self._text(code, data)) for when, code, data in events]
        return [event for event in made if event.data]

    def _refill(self, at: float) -> None:
        self._room = min(BURST_BYTES, max(self._room, 0) + (at - self._filled_at) * RATE_BYTES_S)
        self._filled_at = at

    def _text(self, code: str, data: bytearray) -> str:
        return self._decoder.decode(bytes(data)) if code == OUTPUT else data.decode()

    def _add(self, at: float, code: str, data: bytes) -> None:
        self.last_at = at = max(at, self.last_at)
        self._events.append((at, code, bytearray(data)))


def redraw(drawn: Drawn) -> str:
    """What makes an empty terminal show this screen. A row that is full runs on into the next one, as it may
    have been printed: a secret is not cut in two by it."""
    rows = list(drawn.rows)
    while rows and not rows[-1]:
        rows.pop()
    text = "\x1bc\x1b)0" + ("\x1b[?1049h" if drawn.is_alternate else "")
    for row, below in zip_longest(rows, rows[1:], fillvalue=""):
        is_full = cells(_SGR.sub("", row)) == drawn.width and below
        text += row if is_full else f"{row}\r\n"
    text = text.removesuffix("\r\n") + "\x1b[0m"
    first, last = drawn.region
    if (first, last) != (0, drawn.height - 1):
        text += f"\x1b[{first + 1};{last + 1}r"
    x, y = drawn.cursor
    return f"{text}\x1b[{y + 1};{x + 1}H"
