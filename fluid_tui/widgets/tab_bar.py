"""One line of tabs: key and word, the chosen one marked by a glyph too. No animation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from textual import events
from textual.message import Message

from fluid_tui.paint import Role, Run
from fluid_tui.widgets.painted import Painted

NARROW_BELOW = 100
CUT_CELLS = 4


@dataclass(frozen=True, slots=True)
class Tab:
    """``narrow_only`` tabs stand beside the others on a wide screen and need no place here."""

    key: str
    id: str
    words: str
    narrow_only: bool = False
    short: str = ""  # where not all fit


class TabBar(Painted, can_focus=False):
    """Draws and tells; whoever owns it switches."""

    class Chosen(Message):
        """A tab was clicked."""

        def __init__(self, id: str) -> None:
            super().__init__()
            self.id = id

    def __init__(self, tabs: Sequence[Tab], *, id: str) -> None:
        super().__init__(id=id)
        self._tabs = tabs
        self._current = ""
        self._off: set[str] = set()

    def choose(self, id: str) -> None:
        """Mark this tab."""
        self._current = id
        self._lay_out()

    def set_off(self, ids: set[str]) -> None:
        """Tabs with nothing to show yet are not drawn."""
        self._off = ids
        self._lay_out()

    def _visible(self) -> list[Tab]:
        narrow = self.size.width < NARROW_BELOW
        return [tab for tab in self._tabs if tab.id not in self._off and (narrow or not tab.narrow_only)]

    def _fitting(self) -> tuple[str, list[tuple[Tab, str]]]:
        """What stands between tabs, and each tab's words; where not all fit, shorter ones, and then those
        that are not chosen are cut."""
        tabs = self._visible()
        whole, short = [(tab, tab.words) for tab in tabs], [(tab, tab.short or tab.words) for tab in tabs]
        for gap, named in (("  ", whole), (" ", whole), (" ", short)):
            if sum(_cells(gap, tab, words) for tab, words in named) <= self.size.width:
                return gap, named
        return " ", [(tab, tab.words if tab.id == self._current else tab.words[:CUT_CELLS]) for tab in tabs]

    def _lay_out(self) -> None:
        runs: list[Run] = []
        gap, named = self._fitting()
        for tab, words in named:
            chosen = tab.id == self._current
            mark = f"{gap[:-1]}▸" if chosen else gap
            runs += [(f"{mark}{tab.key} ", Role.ACCENT), (words, Role.TITLE if chosen else Role.MUTED)]
        self._replace([tuple(runs)])

    def on_click(self, event: events.Click) -> None:
        at = 0
        gap, named = self._fitting()
        for tab, words in named:
            at += _cells(gap, tab, words)
            if event.x < at:
                self.post_message(self.Chosen(tab.id))
                return


def _cells(gap: str, tab: Tab, words: str) -> int:
    """The gap, the key, a space, the words."""
    return len(gap) + cell_len(tab.key) + 1 + cell_len(words)
