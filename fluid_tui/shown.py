"""What stands on the terminal, piece by piece: what stands there already is not written again.

Textual 8.2.8 paints a screen anew that is laid out or come back to: kilobytes, seconds of a slow line.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.control import Control
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
from textual.geometry import Size

Piece = tuple[int, int, int, str]
"""Row, first column, column behind it, and what draws it."""


class Fresh(CompositorUpdate):
    """What is left of a paint."""

    def __init__(self, text: str) -> None:
        self._text = text

    def render_segments(self, console: Console) -> str:
        return self._text


class Shown:
    """One terminal's."""

    def __init__(self) -> None:
        self._size = Size()
        self._rows: list[dict[int, tuple[int, str]]] = []

    def forget(self) -> None:
        """It may show anything: all is new."""
        self._size, self._rows = Size(), []

    def fresh(self, update: CompositorUpdate, size: Size, console: Console) -> Fresh | None:
        """What of this paint does not stand there; None: all of it does."""
        if size != self._size:
            self._size, self._rows = size, [{} for _ in range(size.height)]
        text, at = "", (-1, -1)
        for y, x, end, drawn in _pieces(update, console):
            if self._is_new(y, x, end, drawn):
                text += drawn if at == (y, x) else f"{Control.move_to(x, y)}{drawn}"
                at = y, end
        return Fresh(text) if text else None

    def _is_new(self, y: int, x: int, end: int, drawn: str) -> bool:
        row = self._rows[y]
        if row.get(x) == (end, drawn):
            return False
        for first, (behind, _) in list(row.items()):
            if first < end and x < behind:
                del row[first]
        row[x] = end, drawn
        return True


def _pieces(update: CompositorUpdate, console: Console) -> Iterator[Piece]:
    if isinstance(update, LayoutUpdate):
        for y, line in enumerate(update.strips, update.region.y):
            x = update.region.x
            for strip in line:
                yield y, x, x + strip.cell_length, strip.render(console)
                x += strip.cell_length
    elif isinstance(update, ChopsUpdate):
        for y, first, behind in update.spans:
            for end, (x, part) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
                if part is not None and x < behind and end > first:
                    end = min(end, behind)
                    yield y, x, end, part.crop(0, end - x).render(console)
