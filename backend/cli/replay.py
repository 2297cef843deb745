"""``fluid replay``: a recording on this terminal. What the guest printed is drawn by our own emulator and the
sanitiser; none of its bytes reach the terminal.
"""

from __future__ import annotations

import math
import os
import re
import select
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from backend.asciicast import Cast, NotACast, read_cast
from backend.cli.common import door, span
from backend.cli.options import examples, verb_app
from backend.cli.recordings import newest
from backend.cli.terminal import READ_BYTES, painted, raw_terminal
from backend.client import operator_calls
from backend.errors import InvalidValue
from backend.replay import SPEEDS, Replay
from backend.text import Spans, visible

app = verb_app()

FRAME_S = 0.1
"""At most ten paints a second."""
STEP_S = 5.0
CUT_S = 2.0
MAX_FILE_BYTES = 256 << 20
QUIT = frozenset({b"q", b"\x03", b"\x04", b"\x1b", b"\x1d"})
_KEY = re.compile(rb"\x1b\[[0-9;]*[A-Za-z~]|.", re.DOTALL)
KEYS = "space pause  +/- speed  ←/→ 5 s  i pauses  q leave"


@app.command(
    epilog=examples(
        "fluid replay web", "fluid replay REC-1f0c9a2b --speed 4", "fluid replay session.cast --plain"
    )
)
def replay(
    what: Annotated[
        str, typer.Argument(metavar="SANDBOX|RECORDING|FILE", help="A sandbox's newest, by id or name.")
    ],
    speed: Annotated[float, typer.Option(min=0.1, max=100.0, help="Times as fast as it was.")] = 1.0,
    idle: Annotated[
        float, typer.Option(min=0.0, help="Cut pauses to so many seconds; 0 leaves them.")
    ] = CUT_S,
    plain: Annotated[bool, typer.Option("--plain", help="All of it as lines of text, at once.")] = False,
) -> None:
    """Play what an agent's terminal showed, or any asciicast of version 2."""
    cast = _cast_of(what)
    if plain or not (sys.stdin.isatty() and sys.stdout.isatty()):
        _print_lines(cast)
    else:
        _Player(Replay(cast, idle or None), speed).run()


def _cast_of(what: str) -> Cast:
    file = Path(what)
    if what.endswith(".cast") or "/" in what:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InvalidValue(f"{what} is larger than {MAX_FILE_BYTES >> 20} MB", remedy="play a part of it")
        text = file.read_text(encoding="utf-8", errors="replace")
    else:
        text = door().send(operator_calls.recording_cast(newest(what)["id"])).decode("ascii", "replace")
    try:
        return read_cast(text)
    except NotACast as error:
        raise InvalidValue(
            f"{what} is no asciicast of version 2", remedy="`fluid recordings export` makes one"
        ) from error


def _print_lines(cast: Cast) -> None:
    """What scrolled away, then the last screen: for a pipe and for screen readers."""

    def tell(row: Spans) -> None:
        print("".join(text for text, _ in row).rstrip())

    film = Replay(cast, scrolled=tell)
    film.go(math.inf)
    rows = film.rows()
    while rows and not rows[-1]:
        rows.pop()
    for row in rows:
        tell(row)


class _Player:
    """The loop: time goes on, keys are heard, rows that differ are painted."""

    def __init__(self, film: Replay, speed: float) -> None:
        self._film = film
        self._speed = speed
        self._idle_s = film.idle_s or CUT_S
        self._paused = False
        self._drawn: list[str] = []
        self._size: tuple[int, int] = (0, 0)

    def run(self) -> None:
        with raw_terminal():
            before = time.monotonic()
            while True:
                self._paint()
                if self._heard(self._wait_s()):
                    return
                now = time.monotonic()
                if not self._paused:
                    self._film.go(self._film.at + (now - before) * self._speed)
                before = now

    def _wait_s(self) -> float | None:
        """Until the next frame that can differ; None: until a key."""
        upcoming = self._film.next_at
        if self._paused or upcoming is None:
            return None
        return min(max(FRAME_S, (upcoming - self._film.at) / self._speed), 1.0)

    def _heard(self, wait_s: float | None) -> bool:
        """Whether to end."""
        stdin = sys.stdin.fileno()
        if not select.select([stdin], [], [], wait_s)[0]:
            return False
        keys = _KEY.findall(os.read(stdin, READ_BYTES))
        for key in keys:
            self._press(key)
        return not keys or not QUIT.isdisjoint(keys)

    def _press(self, key: bytes) -> None:
        match key:
            case b" ":
                self._paused = not self._paused
            case b"+" | b"-":
                self._speed = faster(self._speed, 1 if key == b"+" else -1)
            case b"\x1b[C" | b"\x1b[D":
                self._film.go(self._film.at + (STEP_S if key == b"\x1b[C" else -STEP_S))
            case b"i":
                self._film.skip_idle(self._idle_s if self._film.idle_s is None else None)

    def _paint(self) -> None:
        size = os.get_terminal_size(sys.stdout.fileno())
        if size != self._size:
            self._size, self._drawn = size, []
            sys.stdout.write("\x1b[H\x1b[2J")
        width, height = size
        rows = [_clip(row, width) for row in self._film.rows()][-(height - 1) :]
        lines = painted(rows)
        lines += [""] * (height - 1 - len(lines)) + [self._status(width)]
        for y, row in enumerate(lines):
            if y >= len(self._drawn) or self._drawn[y] != row:
                sys.stdout.write(f"\x1b[{y + 1};1H{row}\x1b[K")
        self._drawn = lines
        sys.stdout.flush()

    def _status(self, width: int) -> str:
        film = self._film
        state = "end" if film.over else "paused" if self._paused else f"{self._speed:g}x"
        idle = "pauses as they were" if film.idle_s is None else f"pauses cut to {film.idle_s:g} s"
        words = f" {state}  {span(film.at)} of {span(film.duration)}  {idle}  {KEYS}"
        if film.mark:
            words += f"  ({film.mark})"
        return f"\x1b[7m{visible(words)[: width - 1]:<{width - 1}}\x1b[0m"


def faster(speed: float, by: int) -> float:
    """The next of the usual speeds, up or down."""
    if by > 0:
        return next((one for one in SPEEDS if one > speed), SPEEDS[-1])
    return next((one for one in reversed(SPEEDS) if one < speed), SPEEDS[0])


def _clip(row: Spans, width: int) -> Spans:
    """A row that fits: nothing of it wraps."""
    from rich.cells import cell_len, set_cell_size

    kept: Spans = []
    for text, style in row:
        size = cell_len(text)
        if size > width:
            kept.append((set_cell_size(text, width), style))
            break
        kept.append((text, style))
        width -= size
    return kept
