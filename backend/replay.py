"""A recording as a film: a place in time, and the screen that stood there. No I/O, no clock."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from backend.asciicast import MARK, OUTPUT, RESIZE, Cast, CastEvent, size_of
from backend.emulator import Emulator
from backend.text import Spans

KEYFRAME_CHARS = 262_144
"""So much output lies between two screens that are kept for going back."""
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


class Replay:
    """``at`` is in seconds of playing time: a longer pause than ``idle_s`` lasts that long (None: as it was).

    ``scrolled`` gets the rows that leave the screen, for who reads the whole instead of watching.
    """

    def __init__(
        self, cast: Cast, idle_s: float | None = None, scrolled: Callable[[Spans], None] | None = None
    ) -> None:
        self.cast = cast
        self.at = 0.0
        self.mark = ""
        """The last mark that was passed."""
        self._screen = Emulator(cast.width, cast.height, scrolled)
        self._next = 0
        self._since_keyframe = 0
        self._keyframes: list[tuple[int, str, Emulator]] = [(0, "", self._screen.copy())]
        self.skip_idle(idle_s)

    @property
    def duration(self) -> float:
        return self._times[-1] if self._times else 0.0

    @property
    def over(self) -> bool:
        return self._next >= len(self._times)

    @property
    def next_at(self) -> float | None:
        """When the screen changes next; None when it is over."""
        return None if self.over else self._times[self._next]

    @property
    def recorded_s(self) -> float:
        """The place as the recording has it, pauses as they were."""
        if self._next == 0:
            return 0.0
        return self.cast.events[self._next - 1].at

    def skip_idle(self, idle_s: float | None) -> None:
        """Cut pauses to this many seconds from now on; the screen stays where it is."""
        self.idle_s = idle_s
        self._times: list[float] = []
        at = before = 0.0
        for event in self.cast.events:
            gap = event.at - before
            at += gap if idle_s is None else min(gap, idle_s)
            before = event.at
            self._times.append(at)
        if self._next:
            self.at = self._times[self._next - 1]

    def go(self, at: float) -> bool:
        """To this place, forwards or backwards; whether anything was drawn."""
        at = min(max(at, 0.0), self.duration)
        wanted = bisect_right(self._times, at)
        drawn = wanted != self._next
        if wanted < self._next:
            self._go_back(wanted)
        while self._next < wanted:
            self._show(self.cast.events[self._next])
        self.at = at
        return drawn

    def rows(self) -> list[Spans]:
        """The screen, made harmless."""
        return self._screen.rows()

    @property
    def size(self) -> tuple[int, int]:
        return self._screen.width, self._screen.height

    def _go_back(self, wanted: int) -> None:
        self._next, self.mark, kept = max(
            (frame for frame in self._keyframes if frame[0] <= wanted), key=lambda frame: frame[0]
        )
        self._screen = kept.copy()
        self._since_keyframe = 0

    def _show(self, event: CastEvent) -> None:
        if event.code == OUTPUT:
            self._screen.feed(event.data)
        elif event.code == MARK:
            self.mark = event.data
        elif event.code == RESIZE and (size := size_of(event.data)):
            self._screen.resize(*size)
        self._next += 1
        self._since_keyframe += len(event.data)
        if self._since_keyframe >= KEYFRAME_CHARS and self._next > self._keyframes[-1][0]:
            self._since_keyframe = 0
            self._keyframes.append((self._next, self.mark, self._screen.copy()))
