"""Changes side by side, aligned, with the words that differ marked; one under the other when narrow."""

from __future__ import annotations

from textual.geometry import Size

from fluid_tui.actions import bindings
from fluid_tui.diff_rows import DiffDocument
from fluid_tui.paint import Line, Role, clip, dropped, plain, width_of
from fluid_tui.side_rows import NUMBER_CELLS, SIDE_CELLS, DiffRow, Side, folded, unfolded, unified
from fluid_tui.syntax import coloured
from fluid_tui.widgets.painted import Scrolled

SIDE_BY_SIDE_FROM = 88
"""Cells of this view: below, half a line of a file would not fit on a side."""
DIVIDER = "│"
SHIFT_CELLS = 16


class DiffView(Scrolled):
    """A :class:`DiffDocument`. Rows are drawn when they come in sight."""

    BINDINGS = bindings("sides")

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._document = DiffDocument()
        self._rows: list[DiffRow] = []
        self._anchors: list[int] = []
        self._beside = True
        self._wrapped, self._open = True, False
        self._shift = self._widest = 0  # cells

    @property
    def document(self) -> DiffDocument:
        return self._document

    def show(self, document: DiffDocument) -> None:
        """Show another document from its first row."""
        self._document, self._shift = document, 0
        self._lay_out()
        self.scroll_to(y=0, animate=False)

    def _lay_out(self) -> None:
        width = self.scrollable_content_region.width
        self._beside = width >= SIDE_BY_SIDE_FROM
        rows, starts = self._document.rows, [item.row for item in self._document.items]
        if self._open:
            rows, moved = unfolded(rows)
            starts = [moved[start] for start in starts]
        if not self._beside:
            rows, moved = unified(rows)
            starts = [moved[start] for start in starts]
        places: list[int] = []
        self._rows = []
        for row in rows:
            places.append(len(self._rows))
            fits = row.whole is None and not self._wrapped
            self._rows += [row] if fits or not width else folded(row, width, beside=self._beside)
        self._anchors = [places[start] for start in starts]
        sides = [side for row in self._rows for side in (row.left, row.right) if side is not None]
        self._widest = 0 if self._wrapped else max((width_of(side.text) for side in sides), default=0)
        self.virtual_size = Size(0, len(self._rows))
        self.refresh()

    def go_to(self, key: str) -> None:
        """Put the change of this key at the top."""
        for item, anchor in zip(self._document.items, self._anchors, strict=True):
            if item.key == key:
                self.scroll_to(y=anchor, animate=False)
                return

    def step(self, direction: int) -> None:
        """To the next (1) or previous (-1) change."""
        here = self.scroll_offset.y
        beyond = [at for at in self._anchors if (at > here if direction > 0 else at < here)]
        if beyond:
            self.scroll_to(y=beyond[0] if direction > 0 else beyond[-1], animate=False)

    def taken(self) -> tuple[str, str]:
        """All of it, one side under the other."""
        return "the diff", "\n".join(_as_text(row) for row in unified(self._document.rows)[0])

    def line_at(self, y: int, width: int) -> Line:
        if y >= len(self._rows):
            return ()
        row, width = self._rows[y], self.scrollable_content_region.width
        if row.whole is not None:
            return row.whole
        if not self._beside or row.alone:
            return _one(row, width, self._shift)
        half = (width - 1) // 2
        return (
            *_side(row.left, half, Role.REMOVED, self._shift),
            (DIVIDER, Role.VOID),
            *_side(row.right, width - 1 - half, Role.ADDED, self._shift),
        )

    # --- long lines, equal lines ------------------------------------------------------------------------

    def _lay_out_here(self) -> None:
        """Laid out anew, the change that was at the top still there."""
        here = self.scroll_offset.y
        at = sum(anchor <= here for anchor in self._anchors) - 1
        self._lay_out()
        self.scroll_to(y=self._anchors[at] if at >= 0 else 0, animate=False)

    def action_wrap(self) -> None:
        self._wrapped, self._shift = not self._wrapped, 0
        self._lay_out_here()

    def action_unfold(self) -> None:
        self._open = not self._open
        self._lay_out_here()

    def action_right(self) -> None:
        self._to(self._shift + SHIFT_CELLS)

    def action_left(self) -> None:
        self._to(self._shift - SHIFT_CELLS)

    def _to(self, shift: int) -> None:
        """Both sides sideways, no further than the widest line goes."""
        shift = max(0, min(shift, self._widest - SHIFT_CELLS))
        if shift != self._shift:
            self._shift = shift
            self.refresh()


def _as_text(row: DiffRow) -> str:
    side = row.left or row.right
    if row.whole is not None or side is None:
        return plain(row.whole or ()).rstrip()
    return f"{' ' if not side.changed else '-' if row.left else '+'} {plain(side.text).rstrip()}"


def _side(side: Side | None, width: int, role: Role, shift: int) -> Line:
    if side is None:
        return ((" " * width, Role.VOID),)
    sign = ("-" if role is Role.REMOVED else "+") if side.changed else " "
    return _numbered(side, sign, width, role if side.changed else Role.TEXT, shift)


def _one(row: DiffRow, width: int, shift: int) -> Line:
    side = row.left or row.right
    if side is None:
        return ()
    sign, role = (
        (" ", Role.TEXT) if not side.changed else ("-", Role.REMOVED) if row.left else ("+", Role.ADDED)
    )
    return _numbered(side, sign, width, role, shift)


def _numbered(side: Side, sign: str, width: int, ground: Role, shift: int) -> Line:
    text = clip(dropped(coloured(side.text, side.kind), shift), width - SIDE_CELLS)
    pad = " " * (width - SIDE_CELLS - width_of(text))
    number = f"{side.number or '':>{NUMBER_CELLS}} "
    return ((number, Role.NUMBER), (f"{sign} ", ground), *text, (pad, ground))
