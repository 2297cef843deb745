"""Jump mode: a letter beside every row in sight and every other area; typing it goes there."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from textual.widget import Widget

from fluid_tui.widgets.live_list import LiveList
from fluid_tui.widgets.painted import Painted

if TYPE_CHECKING:
    from fluid_tui.screens.base import FluidScreen

LETTERS = "asdfghjklqwertyuiopzxcvbnm"


def labels(count: int) -> list[str]:
    """So many different labels, all of one length, easy fingers first."""
    if count <= len(LETTERS):
        return list(LETTERS[:count])
    return ["".join(pair) for pair in product(LETTERS, repeat=2)][:count]


class Jump:
    """One jump on one screen, from the letters to the place; ``over`` once it is done or left."""

    def __init__(self, screen: FluidScreen) -> None:
        self._screen = screen
        self._typed = ""
        places: list[tuple[Widget, str]] = []
        for widget in screen.query(Painted):
            if not (widget.can_focus and widget.display and widget.region):
                continue
            if isinstance(widget, LiveList) and widget.rows:
                places += [(widget, key) for key in widget.keys_in_sight()]
            elif screen.has_title(widget):
                places.append((widget, ""))
        self._places = dict(zip(labels(len(places)), places, strict=False))
        self.over = not self._places
        self._draw(self._places)

    def _draw(self, places: dict[str, tuple[Widget, str]]) -> None:
        for widget in self._screen.query(LiveList):
            widget.set_labels({key: label for label, (of, key) in places.items() if of is widget})
        titles = {of: label for label, (of, key) in places.items() if not key}
        self._screen.label_titles(titles)

    def key(self, key: str) -> None:
        """One key: a letter narrows or jumps, all others leave."""
        self._typed += key
        left = {label: place for label, place in self._places.items() if label.startswith(self._typed)}
        if len(key) != 1 or not left:
            self._end()
        elif self._typed in left:
            widget, row = left[self._typed]
            self._end()
            widget.focus()
            if isinstance(widget, LiveList) and row:
                widget.move_to(row)
        else:
            self._draw(left)

    def _end(self) -> None:
        self.over = True
        self._draw({})
