"""Calls the operator when somebody newly waits: the bell, the terminal's title, and where wanted OSC 9.

What is sent holds counts only, never a word of an agent. Beside the drawing and :mod:`fluid_tui.copying` it
is the only module that writes to the terminal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum

from backend.models import FleetView
from fluid_tui.fleet_rows import waiting

TITLED = ("xterm", "screen", "tmux", "rxvt", "alacritty", "foot", "kitty", "wezterm", "ghostty", "st-")
"""Terminals that know titles; others would print them."""
KEEP_TITLE, GIVE_TITLE_BACK = "\x1b[22;2t", "\x1b[23;2t"  # XTWINOPS: onto and off the title stack


class Notify(StrEnum):
    """How a new request calls."""

    BELL = "bell"
    OSC9 = "osc9"
    OFF = "off"


class Attention:
    """``write`` sends to the terminal, ``way`` says how to call now."""

    def __init__(
        self, write: Callable[[str], None], way: Callable[[], Notify], term: str, tmux: bool
    ) -> None:
        self._write = write
        self._way = way
        self._titled = term.startswith(TITLED)
        self._tmux = tmux
        self._known: set[str] | None = None
        self._title = ""

    def look(self, fleet: FleetView) -> bool:
        """The fleet as it is now; whether somebody newly waits. Who waited before the console began is in
        the title and does not ring."""
        approvals, asks = waiting(fleet)
        ids = {one.id for one in approvals} | {one.request_id for one in asks}
        new = ids - self._known if self._known is not None else set()
        self._known = ids
        words = title_of(len(ids))
        self._set_title(words)
        if new and self._way() is not Notify.OFF:
            self._write("\x07")
            if self._way() is Notify.OSC9:
                self._write(wrapped(f"\x1b]9;{words}\x07", tmux=self._tmux))
        return bool(new)

    def _set_title(self, words: str) -> None:
        if self._titled and words != self._title:
            self._write(("" if self._title else KEEP_TITLE) + f"\x1b]2;{words}\x07")
            self._title = words

    def close(self) -> None:
        """The title that was there before comes back."""
        if self._title:
            self._write(GIVE_TITLE_BACK)


def title_of(count: int) -> str:
    """The terminal's title."""
    return f"fluid: {count} {'needs' if count == 1 else 'need'} you" if count else "fluid"


def wrapped(sequence: str, *, tmux: bool) -> str:
    """Passed through tmux to the terminal outside (allow-passthrough)."""
    return "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\" if tmux else sequence


def surroundings() -> tuple[str, bool]:
    """The kind of terminal, and whether it is tmux's."""
    return os.environ.get("TERM", ""), "TMUX" in os.environ
