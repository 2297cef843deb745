"""A terminal without a terminal: what a program printed, as the screen that it made. Without I/O.

It understands what ``TERM=screen-256color`` promises to programs (terminfo(5), ECMA-48) and answers nothing.
What it holds is drawn as :func:`backend.text.screen` draws a pane: printable text and whitelisted styles.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Self

from backend.asciicast import MAX_COLUMNS, MAX_ROWS
from backend.text import PLAIN, Spans, Style, restyled, visible

TAB_COLUMNS = 8
PENDING_CHARS = 4096
"""An escape sequence that is longer was none."""

Cell = tuple[str, Style]
Row = list[Cell]
BLANK: Cell = (" ", PLAIN)
WIDE_REST = ""
"""What stands in the second cell of a wide character."""

_PART = re.compile(
    r"(?P<text>[^\x00-\x1f\x7f-\x9f]+)"
    r"|\x1b\[(?P<params>[0-?]*)(?P<between>[ -/]*)(?P<final>[@-~])"
    r"|\x1b(?P<string>[\]PX^_k])"
    r"|\x1b(?P<into>[ -/]+)(?P<set>[0-~])"
    r"|\x1b(?P<escape>[0-~])"
    r"|(?P<control>[\x00-\x1f\x7f-\x9f])"
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[ -/]*)\Z")
_STRING_END = re.compile(r"[\x07\x18\x1a]|(?=\x1b)")  # of titles, links, commands to the terminal
_DCS_END = re.compile(r"[\x18\x1a]|\x1b\\")
_LINES = str.maketrans(  # DEC special graphics, the names that terminfo's acsc has
    "`afgjklmnopqrstuvwxyz{|}~", "◆▒°±┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·"
)


def cells(text: str) -> int:
    """The columns that printable text takes."""
    return len(text) if text.isascii() else sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class Emulator:
    """``feed`` it what was printed; ``rows`` is what stands there. ``scrolled`` gets the rows that leave the
    top of the screen for good."""

    def __init__(self, width: int, height: int, scrolled: Callable[[Spans], None] | None = None) -> None:
        self.width, self.height = _size(width, height)
        self._scrolled = scrolled
        self._pending = ""
        self._reset()

    def _reset(self) -> None:
        self._grid = self._blank_rows(self.height)
        self._other: list[Row] | None = None  # the main screen, while a program uses the alternate one
        self._x = self._y = 0
        self._wrap_due = False
        self._style = PLAIN
        self._saved = (0, 0, PLAIN)
        self._top, self._bottom = 0, self.height - 1
        self._autowrap, self._insert = True, False
        self._graphics = [False, False]  # G0 and G1
        self._shifted = 0
        self._last = " "
        self._string = ""  # which kind of string is open

    def copy(self) -> Self:
        """The same screen, to go on from later."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._grid = [list(row) for row in self._grid]
        twin._other = [list(row) for row in self._other] if self._other is not None else None
        twin._graphics = list(self._graphics)
        return twin

    def resize(self, width: int, height: int) -> None:
        """A new size; what no longer fits at the right and at the top is gone."""
        self.width, self.height = _size(width, height)
        for grid in (self._grid, self._other):
            if grid is None:
                continue
            del grid[: max(0, len(grid) - self.height)]
            for row in grid:
                del row[self.width :]
                row += [BLANK] * (self.width - len(row))
            grid += self._blank_rows(self.height - len(grid))
        self._top, self._bottom = 0, self.height - 1
        self._go(self._x, self._y)

    def rows(self) -> list[Spans]:
        """The screen, a row a line, without the blanks at its end."""
        return [_spans(row) for row in self._grid]

    def feed(self, text: str) -> None:
        """Take what was printed, cut anywhere. What is meant for the terminal itself (titles, links, the
        clipboard, pictures) is passed over."""
        text, self._pending = self._pending + text, ""
        last = text.rfind("\x1b", -PENDING_CHARS)
        if last >= 0 and _UNFINISHED.match(text, last):
            text, self._pending = text[:last], text[last:]
        at = 0
        while at < len(text):
            if self._string:
                at = self._skip_string(text, at)
            elif part := _PART.match(text, at):
                at = part.end()
                self._take(part)
            else:
                at += 1

    def _skip_string(self, text: str, at: int) -> int:
        """Where the string ends that is open at ``at``."""
        end = (_DCS_END if self._string == "P" else _STRING_END).search(text, at)
        if end is not None:
            self._string = ""
            return end.end()
        return len(text)

    def _take(self, part: re.Match[str]) -> None:
        match part.lastgroup:
            case "text":
                self._put(part["text"])
            case "control":
                if act := _CONTROLS.get(part["control"]):
                    act(self)
            case "final":
                if not part["between"]:
                    self._csi(part["params"], part["final"])
            case "string":
                self._string = part["string"]
            case "set":
                if part["into"] in ("(", ")"):
                    self._graphics[part["into"] == ")"] = part["set"] == "0"
            case "escape":
                if act := _ESCAPES.get(part["escape"]):
                    act(self)

    # --- text -----------------------------------------------------------------------------------------------

    def _put(self, text: str) -> None:
        if self._graphics[self._shifted]:
            text = text.translate(_LINES)
        self._last = text[-1]
        if text.isascii() and not self._insert:
            self._put_narrow(text)
        else:
            for character in text:
                self._put_one(character)

    def _put_narrow(self, text: str) -> None:
        at = 0
        while at < len(text):
            if self._wrap_due:
                self._wrap()
            room = self.width - self._x
            piece = text[at : at + room]
            self._clear_halves(self._x, self._x + len(piece))
            self._grid[self._y][self._x : self._x + len(piece)] = [(each, self._style) for each in piece]
            self._advance(len(piece))
            if not self._autowrap and len(piece) == room:  # the last column keeps the last character
                self._grid[self._y][-1] = (text[-1], self._style)
                return
            at += len(piece)

    def _put_one(self, character: str) -> None:
        width = min(_width(character), self.width)
        if width == 0:
            self._combine(character)
            return
        if self._wrap_due or (self._autowrap and self._x + width > self.width):
            self._wrap()
        x = min(self._x, self.width - width)
        row = self._grid[self._y]
        if self._insert:
            row[x:x] = [BLANK] * width
            del row[self.width :]
        self._clear_halves(x, x + width)
        row[x : x + width] = [(character, self._style), (WIDE_REST, self._style)][:width]
        self._x = x
        self._advance(width)

    def _combine(self, character: str) -> None:
        x = self._x if self._wrap_due else self._x - 1
        row = self._grid[self._y]
        if x > 0 and row[x][0] == WIDE_REST:
            x -= 1
        if x >= 0 and len(row[x][0]) < 4:
            row[x] = (row[x][0] + character, row[x][1])

    def _clear_halves(self, start: int, end: int) -> None:
        """A wide character that is half overwritten is gone."""
        row = self._grid[self._y]
        if row[start][0] == WIDE_REST and start > 0:
            row[start - 1] = BLANK
        if end < self.width and row[end][0] == WIDE_REST:
            row[end] = BLANK

    def _advance(self, columns: int) -> None:
        self._x += columns
        if self._x >= self.width:
            self._x = self.width - 1
            self._wrap_due = self._autowrap

    def _wrap(self) -> None:
        self._x, self._wrap_due = 0, False
        self._line_feed()

    # --- moving ---------------------------------------------------------------------------------------------

    def _go(self, x: int, y: int) -> None:
        self._x = min(max(x, 0), self.width - 1)
        self._y = min(max(y, 0), self.height - 1)
        self._wrap_due = False

    def _up(self, count: int) -> None:
        self._go(self._x, max(self._y - count, self._top if self._y >= self._top else 0))

    def _down(self, count: int) -> None:
        self._go(self._x, min(self._y + count, self._bottom if self._y <= self._bottom else self.height - 1))

    def _row_on(self, count: int) -> None:
        self._down(count) if count > 0 else self._up(-count)
        self._go(0, self._y)

    def _line_feed(self) -> None:
        if self._y == self._bottom:
            self._scroll_up(self._top, self._bottom, 1)
        elif self._y < self.height - 1:
            self._y += 1

    def _scroll_up(self, top: int, bottom: int, count: int) -> None:
        count = min(count, bottom - top + 1)
        if self._scrolled and top == 0 and self._other is None:
            for row in self._grid[:count]:
                self._scrolled(_spans(row))
        del self._grid[top : top + count]
        self._grid[bottom - count + 1 : bottom - count + 1] = self._blank_rows(count)

    def _scroll_down(self, top: int, bottom: int, count: int) -> None:
        count = min(count, bottom - top + 1)
        del self._grid[bottom - count + 1 : bottom + 1]
        self._grid[top:top] = self._blank_rows(count)

    def _blank_rows(self, count: int) -> list[Row]:
        return [[BLANK] * self.width for _ in range(count)]

    def _blank(self) -> Cell:
        """Erased cells keep the background."""
        return BLANK if self._style.bg is None else (" ", Style(bg=self._style.bg))

    # --- controls -------------------------------------------------------------------------------------------

    def _feed_line(self) -> None:
        self._wrap_due = False
        self._line_feed()

    def _next_line(self) -> None:
        self._go(0, self._y)
        self._line_feed()

    def _reverse_line_feed(self) -> None:
        if self._y == self._top:
            self._scroll_down(self._top, self._bottom, 1)
        else:
            self._go(self._x, self._y - 1)

    def _shift(self, to: int) -> None:
        self._shifted = to

    def _save(self) -> None:
        self._saved = (self._x, self._y, self._style)

    def _restore(self) -> None:
        x, y, self._style = self._saved
        self._go(x, y)

    def _csi(self, params: str, final: str) -> None:
        if params[:1] == "?" and final in "hl":
            for mode in params[1:].split(";")[:16]:
                self._private_mode(mode, final == "h")
        elif params[:1] in ("<", "=", ">", "?"):
            return
        elif final == "m":
            self._style = restyled(self._style, params[:64])
        elif act := _SEQUENCES.get(final):
            numbers = [int(each[:5]) if each.isdigit() else 0 for each in params.split(";")[:2]]
            act(self, numbers[0], numbers[1] if len(numbers) > 1 else 0)

    def _insert_mode(self, number: int, on: bool) -> None:
        if number == 4:
            self._insert = on

    def _repeat(self, count: int) -> None:
        self._put(self._last * min(count, self.width * self.height))

    # --- erasing --------------------------------------------------------------------------------------------

    def _erase_line(self, number: int) -> None:
        x = self._x
        start, end = {0: (x, self.width), 1: (0, x + 1), 2: (0, self.width)}.get(number, (0, 0))
        self._grid[self._y][start:end] = [self._blank()] * (end - start)

    def _erase_cells(self, count: int) -> None:
        end = min(self._x + count, self.width)
        self._grid[self._y][self._x : end] = [self._blank()] * (end - self._x)

    def _insert_cells(self, count: int) -> None:
        row = self._grid[self._y]
        row[self._x : self._x] = [self._blank()] * min(count, self.width - self._x)
        del row[self.width :]

    def _delete_cells(self, count: int) -> None:
        row = self._grid[self._y]
        gone = min(count, self.width - self._x)
        del row[self._x : self._x + gone]
        row += [self._blank()] * gone

    def _insert_lines(self, count: int) -> None:
        if self._top <= self._y <= self._bottom:
            self._scroll_down(self._y, self._bottom, count)

    def _delete_lines(self, count: int) -> None:
        if self._top <= self._y <= self._bottom:
            count = min(count, self._bottom - self._y + 1)
            del self._grid[self._y : self._y + count]
            at = self._bottom - count + 1
            self._grid[at:at] = self._blank_rows(count)

    def _erase_screen(self, number: int) -> None:
        row, x = self._grid[self._y], self._x
        blank = self._blank()
        if number == 0:
            row[x:] = [blank] * (self.width - x)
            rest = range(self._y + 1, self.height)
        elif number == 1:
            row[: x + 1] = [blank] * (x + 1)
            rest = range(self._y)
        elif number == 2:
            self._keep_erased()
            rest = range(self.height)
        else:
            return
        for y in rest:
            self._grid[y] = [blank] * self.width

    def _keep_erased(self) -> None:
        """A screen that is cleared was there: who keeps what scrolls away keeps it too."""
        if self._scrolled and self._other is None:
            rows = self.rows()
            while rows and not rows[-1]:
                rows.pop()
            for row in rows:
                self._scrolled(row)

    def _region(self, top: int, bottom: int) -> None:
        top, bottom = top - 1, (min(bottom, self.height) or self.height) - 1
        if top < bottom:
            self._top, self._bottom = top, bottom
            self._go(0, 0)

    def _private_mode(self, mode: str, on: bool) -> None:
        match mode:
            case "7":
                self._autowrap = on
            case "47" | "1047" | "1049":
                self._alternate(on)

    def _alternate(self, on: bool) -> None:
        if on and self._other is None:
            self._save()
            self._other, self._grid = self._grid, self._blank_rows(self.height)
        elif not on and self._other is not None:
            self._grid, self._other = self._other, None
            self._restore()


def _size(width: int, height: int) -> tuple[int, int]:
    return min(max(width, 2), MAX_COLUMNS), min(max(height, 1), MAX_ROWS)


def _spans(row: Row) -> Spans:
    end = len(row)
    while end and row[end - 1] == BLANK:
        end -= 1
    runs: Spans = []
    text, style = "", PLAIN
    for character, its in row[:end]:
        if its != style and text:
            runs.append((visible(text), style))
            text = ""
        style = its
        text += character
    if text:
        runs.append((visible(text), style))
    return runs


_CONTROLS: dict[str, Callable[[Emulator], None]] = {
    "\n": Emulator._feed_line,
    "\v": Emulator._feed_line,
    "\f": Emulator._feed_line,
    "\r": lambda at: at._go(0, at._y),
    "\b": lambda at: at._go(at._x - 1, at._y),
    "\t": lambda at: at._go((at._x // TAB_COLUMNS + 1) * TAB_COLUMNS, at._y),
    "\x0e": lambda at: at._shift(1),
    "\x0f": lambda at: at._shift(0),
}
_ESCAPES: dict[str, Callable[[Emulator], None]] = {
    "7": Emulator._save,
    "8": Emulator._restore,
    "D": Emulator._feed_line,
    "E": Emulator._next_line,
    "M": Emulator._reverse_line_feed,
    "c": Emulator._reset,
}
_SEQUENCES: dict[str, Callable[[Emulator, int, int], None]] = {
    "A": lambda at, n, _: at._up(n or 1),
    "B": lambda at, n, _: at._down(n or 1),
    "e": lambda at, n, _: at._down(n or 1),
    "C": lambda at, n, _: at._go(at._x + (n or 1), at._y),
    "a": lambda at, n, _: at._go(at._x + (n or 1), at._y),
    "D": lambda at, n, _: at._go(at._x - (n or 1), at._y),
    "E": lambda at, n, _: at._row_on(n or 1),
    "F": lambda at, n, _: at._row_on(-(n or 1)),
    "G": lambda at, n, _: at._go((n or 1) - 1, at._y),
    "`": lambda at, n, _: at._go((n or 1) - 1, at._y),
    "d": lambda at, n, _: at._go(at._x, (n or 1) - 1),
    "H": lambda at, n, m: at._go((m or 1) - 1, (n or 1) - 1),
    "f": lambda at, n, m: at._go((m or 1) - 1, (n or 1) - 1),
    "J": lambda at, n, _: at._erase_screen(n),
    "K": lambda at, n, _: at._erase_line(n),
    "L": lambda at, n, _: at._insert_lines(n or 1),
    "M": lambda at, n, _: at._delete_lines(n or 1),
    "P": lambda at, n, _: at._delete_cells(n or 1),
    "S": lambda at, n, _: at._scroll_up(at._top, at._bottom, n or 1),
    "T": lambda at, n, _: at._scroll_down(at._top, at._bottom, n or 1),
    "X": lambda at, n, _: at._erase_cells(n or 1),
    "@": lambda at, n, _: at._insert_cells(n or 1),
    "b": lambda at, n, _: at._repeat(n or 1),
    "h": lambda at, n, _: at._insert_mode(n, True),
    "l": lambda at, n, _: at._insert_mode(n, False),
    "r": lambda at, n, m: at._region(n or 1, m),
    "s": lambda at, _, __: at._save(),
    "u": lambda at, _, __: at._restore(),
}
