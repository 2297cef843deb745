"""A list of any length that repaints only the rows that changed; a stock table repaints everything.

Rows have keys: cursor and marks stay with their row when the order changes. The heading does not scroll.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from fluid_tui.actions import bindings
from fluid_tui.paint import Line, Role, Run, clip, fit, fit_name, line, plain, said, width_of, wrap
from fluid_tui.widgets.painted import Painted
from fluid_tui.words import plural

GUTTER = 2
CURSOR_GLYPH = "▌"
MARK_GLYPH = "*"


@dataclass(frozen=True, slots=True)
class Column:
    """Columns of ``width`` 0 share what is left; one is dropped below ``from_width`` cells of list."""

    title: str
    width: int
    from_width: int = 0
    right: bool = False
    share: int = 1
    name: bool = False  # cut in its middle


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its key, and a run or a whole line for each column."""

    key: str
    cells: tuple[Run | Line, ...]


class LiveList(Painted):
    """Rows under an optional heading, with a cursor and marks."""

    BINDINGS = bindings("move")

    class RowHighlighted(Message):
        """The cursor stands on another row; the key is empty when there is none."""

        def __init__(self, of: LiveList, key: str) -> None:
            super().__init__()
            self.of, self.key = of, key

        @property
        def control(self) -> LiveList:
            return self.of

    class RowOpened(RowHighlighted):
        """A row was clicked twice."""

    class EdgeReached(Message):
        """The cursor was moved beyond the first (-1) or last (1) row."""

        def __init__(self, of: LiveList, direction: int) -> None:
            super().__init__()
            self.of, self.direction = of, direction

        @property
        def control(self) -> LiveList:
            return self.of

    def __init__(self, columns: Sequence[Column], *, id: str, heading: bool = True, empty: str = "") -> None:
        super().__init__(id=id)
        self._columns = list(columns)
        self._heading = 1 if heading else 0
        self._empty = empty
        self._rows: list[Row] = []
        self._at = 0
        self.marked: set[str] = set()
        self._labels: dict[str, str] = {}
        self._sorted = ""

    # --- rows -----------------------------------------------------------------------------------------

    @property
    def empty(self) -> str:
        """What stands there when there is no row."""
        return self._empty

    @empty.setter
    def empty(self, words: str) -> None:
        if words != self._empty:
            self._empty = words
            if not self._rows:
                self.refresh()

    @property
    def rows(self) -> Sequence[Row]:
        return self._rows

    @property
    def key(self) -> str:
        """The key of the row under the cursor, or empty."""
        return self._rows[self._at].key if self._rows else ""

    def set_rows(self, rows: Sequence[Row]) -> None:
        """Show these rows, the cursor staying with its row."""
        key, old, old_at = self.key, self._rows, self._at
        self._rows = list(rows)
        self.marked &= {row.key for row in rows}
        found = next((at for at, row in enumerate(self._rows) if row.key == key), None)
        self._at = min(self._at, max(0, len(rows) - 1)) if found is None else found
        if len(old) != len(rows):
            self.virtual_size = Size(0, max(1, len(rows)) + self._heading)
        top = self.scroll_offset.y
        for at in range(top, min(max(len(old), len(rows)), top + self.size.height)):
            same = at < len(old) and at < len(rows) and old[at] == rows[at]
            if not same or (self._at != old_at and at in (old_at, self._at)):
                self._refresh_row(at)
        if self.key != key:
            self.post_message(self.RowHighlighted(self, self.key))

    def show_columns(self, columns: Sequence[Column]) -> None:
        """Other columns; rows with a cell for each come next."""
        if list(columns) != self._columns:
            self._columns = list(columns)
            self.refresh()

    def move_to(self, key: str) -> None:
        """Put the cursor on a row."""
        found = next((at for at, row in enumerate(self._rows) if row.key == key), None)
        if found is not None:
            self._move(found)

    def toggle_mark(self) -> None:
        """Mark or unmark the row under the cursor, and go on to the next."""
        if self._rows:
            self.marked ^= {self.key}
            self._refresh_row(self._at)
            self._move(min(self._at + 1, len(self._rows) - 1))

    def mark_all(self) -> None:
        """Mark every row shown, or none if all are."""
        keys = {row.key for row in self._rows}
        self.marked = set() if self.marked >= keys else keys
        self.refresh()

    def taken(self) -> tuple[str, str]:
        """The marked rows, or the one under the cursor; tabs between the cells."""
        rows = [row for row in self._rows if row.key in self.marked] or self._rows[self._at : self._at + 1]
        words = plural(len(rows), "marked row") if self.marked else "the row"
        return words, "\n".join("\t".join(cell_text(cell) for cell in row.cells).strip() for row in rows)

    def unmark(self) -> None:
        """No mark is left."""
        self.marked = set()
        self.refresh()

    def keys_in_sight(self) -> list[str]:
        """The keys of the rows that the widget shows now."""
        top, room = self.scroll_offset.y, max(0, self.scrollable_content_region.height - self._heading)
        return [row.key for row in self._rows[top : top + room]]

    def set_labels(self, labels: dict[str, str]) -> None:
        """Letters by row, drawn where the cursor and the marks are."""
        if labels != self._labels:
            self._labels = labels
            self.refresh()

    def show_sorting(self, words: str) -> None:
        """Beside the title of the column that the rows are sorted by."""
        title, _, arrow = words.partition(" ")
        if words != self._sorted:
            self._sorted = words
            self._columns = [
                replace(column, title=column.title.rstrip("▾▴ "))
                if column.title.rstrip("▾▴ ") != title
                else replace(column, title=f"{title} {arrow}")
                for column in self._columns
            ]
            self.refresh_line(0)

    def _refresh_row(self, at: int) -> None:
        self.refresh_line(at + self._heading)

    def _move(self, at: int) -> None:
        if at == self._at or not 0 <= at < len(self._rows):
            return
        old, self._at = self._at, at
        self._refresh_row(old)
        self._refresh_row(at)
        top, room = self.scroll_offset.y, max(1, self.size.height - self._heading)
        if at < top:
            self.scroll_to(y=at, animate=False)
        elif at >= top + room:
            self.scroll_to(y=at - room + 1, animate=False)
        self.post_message(self.RowHighlighted(self, self.key))

    # --- drawing --------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self.virtual_size = Size(0, max(1, len(self._rows)) + self._heading)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        if self._heading and y == 0:
            cells = tuple((column.title, Role.MUTED) for column in self._columns)
            return self._strip((("  ", Role.MUTED), *self._cells(cells)), Role.TEXT)
        at = self.scroll_offset.y + y - self._heading
        if not self._rows:
            return self._strip(self._empty_line(y - self._heading), Role.TEXT)
        if at >= len(self._rows):
            return self._strip((), Role.TEXT)
        row = self._rows[at]
        here = at == self._at
        gutter = (CURSOR_GLYPH if here and self.has_focus else " ") + (
            MARK_GLYPH if row.key in self.marked else " "
        )
        label = self._labels.get(row.key)
        lead = (f"{label:<{GUTTER}}", Role.WARN) if label else (gutter, Role.ACCENT)
        runs = (lead, *self._cells(row.cells))
        return self._strip(runs, Role.CURSOR if here and self.has_focus else Role.TEXT)

    def _empty_line(self, at: int) -> Line:
        """The words of an empty list, wrapped: they may say why it is empty, and what to do."""
        room = self.size.width - GUTTER
        words = wrap(line(said(self._empty, Role.MUTED)), room) if self._empty and room > 0 else []
        return (("  ", Role.TEXT), *words[at]) if 0 <= at < len(words) else ()

    def _strip(self, runs: Line, base: Role) -> Strip:
        below = self.rich_style + self.role_style(base)
        return self.paint(runs, below)

    def _cells(self, cells: Sequence[Run | Line]) -> Line:
        width = self.size.width
        kept = [at for at, column in enumerate(self._columns) if width >= column.from_width]
        fixed = sum(self._columns[at].width + 1 for at in kept)
        shares = sum(self._columns[at].share for at in kept if self._columns[at].width == 0)
        free = width - GUTTER - fixed
        runs: list[Run] = []
        for at in kept:
            column = self._columns[at]
            room = column.width or max(8, free * column.share // shares)
            runs.extend(_cell(cells[at] if at < len(cells) else (), room, column))
        return tuple(runs)

    # --- keys and mouse -------------------------------------------------------------------------------

    def on_focus(self) -> None:
        self._refresh_row(self._at)

    def on_blur(self) -> None:
        self._refresh_row(self._at)

    def on_click(self, event: events.Click) -> None:
        inside = event.get_content_offset(self)
        if inside is None or inside.y < self._heading:
            return  # the frame, or what names the columns
        at = self.scroll_offset.y + inside.y - self._heading
        if at < len(self._rows):
            self._move(at)
            if event.chain == 2:
                self.post_message(self.RowOpened(self, self.key))

    def _step(self, direction: int) -> None:
        if 0 <= self._at + direction < len(self._rows):
            self._move(self._at + direction)
        else:
            self.post_message(self.EdgeReached(self, direction))

    def action_down(self) -> None:
        self._step(1)

    def action_up(self) -> None:
        self._step(-1)

    def action_page_down(self) -> None:
        self._move(min(self._at + max(1, self.size.height - 2), len(self._rows) - 1))

    def action_page_up(self) -> None:
        self._move(max(self._at - max(1, self.size.height - 2), 0))

    def action_top(self) -> None:
        self._move(0)

    def action_bottom(self) -> None:
        self._move(len(self._rows) - 1)


def cell_text(cell: Run | Line) -> str:
    """What a cell says, without its colours."""
    runs = ((cell[0], Role.TEXT),) if cell and isinstance(cell[0], str) else cell
    return plain(runs).strip()


def _cell(cell: Run | Line, width: int, column: Column) -> Line:
    """A cell and the space behind it, which takes no colour of its own: colours are bytes on a slow line."""
    if cell and isinstance(cell[0], str):
        text, role = cell  # a single run
        fitted = fit_name(text, width) if column.name else fit(text, width, right=column.right)
        return ((fitted + " ", role),)
    runs = clip(cell, width)
    blank = (" " * (width - width_of(runs)), Role.TEXT)
    return (blank, *runs, (" ", Role.TEXT)) if column.right else (*runs, blank, (" ", Role.TEXT))
