"""Changes side by side, aligned, with the words that differ marked; one under the other when narrow."""

from __future__ import annotations

import asyncio

from textual.geometry import Size

from fluid_tui.actions import bindings
from fluid_tui.diff_layout import LaidOut, Layout, lay_out, takes_long
from fluid_tui.diff_rows import DiffDocument
from fluid_tui.paint import Line, Role, clip, dropped, plain, width_of
from fluid_tui.side_rows import NUMBER_CELLS, SIDE_CELLS, DiffRow, Side, fact, unified
from fluid_tui.syntax import coloured
from fluid_tui.widgets.painted import Scrolled

SIDE_BY_SIDE_FROM = 80
"""Cells of this view: 31 of a file on each side, as on a terminal of 120 columns beside the tree."""
DIVIDER = "│"
SHIFT_CELLS = 16


class DiffView(Scrolled):
    """A :class:`DiffDocument`. Rows are drawn when they come in sight."""

    BINDINGS = bindings("sides")

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._document = DiffDocument()
        self._laid, self._laid_of = LaidOut(), self._document
        self._under_way: Layout | None = None
        self._sought = ""  # the change to go to once it is laid out
        self._wrapped, self._open = True, False
        self._shift = 0  # cells

    @property
    def document(self) -> DiffDocument:
        return self._document

    def show(self, document: DiffDocument) -> None:
        """Show another document from its first row."""
        self._document, self._shift, self._sought = document, 0, ""
        self._under_way = None
        self._lay_out()
        self.scroll_to(y=0, animate=False)

    def _lay_out(self) -> None:
        """At once, or in a thread where that would hold up the keys: until then it stands as it did."""
        width = self.scrollable_content_region.width
        how = Layout(width, width >= SIDE_BY_SIDE_FROM, self._wrapped, self._open)
        if how == self._under_way:
            return
        if not takes_long(self._document, how):
            self._under_way = None
            self._take(lay_out(self._document, how))
            return
        if self._laid_of is not self._document:
            self._take(LaidOut([fact(f"Laying out {len(self._document.rows):,} lines …", Role.MUTED)]))
        if not width:
            return
        self._under_way = how
        self.run_worker(self._lay_out_beside(self._document, how), group="layout", exclusive=True)

    async def _lay_out_beside(self, document: DiffDocument, how: Layout) -> None:
        laid = await asyncio.to_thread(lay_out, document, how)
        if document is self._document and how == self._under_way:
            self._under_way = None
            self._take(laid)

    def _take(self, laid: LaidOut) -> None:
        self._laid, self._laid_of = laid, self._document
        self.virtual_size = Size(0, len(laid.rows))
        self.refresh()
        if self._sought:
            self.go_to(self._sought)

    def go_to(self, key: str) -> None:
        """Put the change of this key at the top, as soon as it is laid out."""
        self._sought = key if self._under_way or key not in self._laid.keys else ""
        for known, anchor in zip(self._laid.keys, self._laid.anchors, strict=True):
            if known == key:
                self.scroll_to(y=anchor, animate=False)
                return

    def step(self, direction: int) -> None:
        """To the next (1) or previous (-1) change."""
        here, anchors = self.scroll_offset.y, self._laid.anchors
        beyond = [at for at in anchors if (at > here if direction > 0 else at < here)]
        if beyond:
            self.scroll_to(y=beyond[0] if direction > 0 else beyond[-1], animate=False)

    def taken(self) -> tuple[str, str]:
        """All of it, one side under the other."""
        return "the diff", "\n".join(_as_text(row) for row in unified(self._document.rows)[0])

    def line_at(self, y: int, width: int) -> Line:
        if y >= len(self._laid.rows):
            return ()
        row, width = self._laid.rows[y], self.scrollable_content_region.width
        if row.whole is not None:
            return row.whole
        if not self._laid.beside or row.alone:
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
        at = sum(anchor <= here for anchor in self._laid.anchors) - 1
        self._sought = self._laid.keys[at] if at >= 0 else ""
        self._lay_out()
        if at < 0:
            self.scroll_to(y=0, animate=False)

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
        shift = max(0, min(shift, self._laid.widest - SHIFT_CELLS))
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
