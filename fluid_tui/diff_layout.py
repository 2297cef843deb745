"""The rows of a diff as they stand in a view of some width. Pure; of a long diff it takes seconds, in a
thread."""

from __future__ import annotations

from dataclasses import dataclass, field

from fluid_tui.diff_rows import DiffDocument
from fluid_tui.paint import width_of
from fluid_tui.side_rows import DiffRow, folded, unfolded, unified

AT_ONCE_ROWS = 1_000
AT_ONCE_CHARS = 100_000
"""So much is laid out in a moment."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a document is to stand: ``width`` in cells (0: not known yet), two sides beside each other or one
    under the other, long lines wrapped, equal lines unfolded."""

    width: int
    beside: bool
    wrapped: bool
    open: bool


@dataclass(frozen=True, slots=True)
class LaidOut:
    """Rows in order; ``anchors``: where each item of the document begins; ``widest``: cells of its longest
    line where lines are not wrapped."""

    rows: list[DiffRow] = field(default_factory=list)
    anchors: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    beside: bool = True
    widest: int = 0


def lay_out(document: DiffDocument, how: Layout) -> LaidOut:
    """The document as rows that fit."""
    rows, starts = document.rows, [item.row for item in document.items]
    if how.open:
        rows, moved = unfolded(rows)
        starts = [moved[start] for start in starts]
    if not how.beside:
        rows, moved = unified(rows)
        starts = [moved[start] for start in starts]
    places: list[int] = []
    made: list[DiffRow] = []
    for row in rows:
        places.append(len(made))
        fits = row.whole is None and not how.wrapped
        made += [row] if fits or not how.width else folded(row, how.width, beside=how.beside)
    sides = [side for row in made for side in (row.left, row.right) if side is not None]
    widest = 0 if how.wrapped else max((width_of(side.text) for side in sides), default=0)
    keys = [item.key for item in document.items]
    return LaidOut(made, [places[start] for start in starts], keys, how.beside, widest)


def takes_long(document: DiffDocument, how: Layout) -> bool:
    """Whether a key would have to wait for it."""
    if how.open or len(document.rows) > AT_ONCE_ROWS:
        return True
    runs = (part for row in document.rows for part in (row.whole, *_texts(row)) if part is not None)
    return sum(len(text) for part in runs for text, _ in part) > AT_ONCE_CHARS


def _texts(row: DiffRow) -> list[tuple[tuple[str, object], ...]]:
    return [side.text for side in (row.left, row.right) if side is not None]
