"""What the line widgets draw: runs of text with a role (a word of ours) or a style (a colour of an agent's).

Pure: no widget, no terminal. Whoever makes a line puts foreign text through :mod:`backend.text` first, with
:func:`said`; a role names a meaning, and only the stylesheets know its colour.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from rich.cells import cell_len, chop_cells, set_cell_size

from backend.text import Style, visible


class Role(StrEnum):
    """What a run of text means. Each is a component class ``painted--…`` of the stylesheets."""

    TEXT = "text"
    MUTED = "muted"
    TITLE = "title"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    ACCENT = "accent"
    ADDED = "added"
    REMOVED = "removed"
    ADDED_WORD = "added-word"
    REMOVED_WORD = "removed-word"
    NUMBER = "number"
    HEAD = "head"
    VOID = "void"
    CURSOR = "cursor"
    KEY = "key"
    STRING = "string"


class Mixed(NamedTuple):
    """The ink of one role on the ground of another."""

    ground: Role
    ink: Role


Ink = Role | Style | Mixed
Run = tuple[str, Ink]
Line = tuple[Run, ...]
BLANK: Line = ()


def line(*parts: str | Run) -> Line:
    """A line of runs; a bare string is plain text."""
    return tuple((part, Role.TEXT) if isinstance(part, str) else part for part in parts)


def said(text: str, role: Role = Role.TEXT) -> Run:
    """Foreign text on one line, made harmless."""
    return (visible(text), role)


def width_of(runs: Line) -> int:
    """The cells that a line takes."""
    return sum(cell_len(text) for text, _ in runs)


def fit(text: str, width: int, *, right: bool = False) -> str:
    """``text`` in exactly ``width`` cells, its end cut with ``…``."""
    if width <= 0:
        return ""
    size = cell_len(text)
    if size > width:
        return set_cell_size(text, width - 1) + "…"
    return " " * (width - size) + text if right else text + " " * (width - size)


def fit_name(text: str, width: int) -> str:
    """As :func:`fit`, its middle cut: names differ at their ends."""
    if cell_len(text) <= width:
        return fit(text, width)
    behind = ""
    while cell_len(longer := text[len(text) - len(behind) - 1 :]) <= (width - 1) // 2:
        behind = longer
    return fit(set_cell_size(text, max(0, width - 1 - cell_len(behind))) + "…" + behind, width)


def clip(runs: Line, width: int) -> Line:
    """A line cut to ``width`` cells."""
    kept: list[Run] = []
    for text, role in runs:
        size = cell_len(text)
        if size > width:
            kept.append((fit(text, width), role))
            break
        kept.append((text, role))
        width -= size
    return tuple(kept)


def dropped(runs: Line, cells: int) -> Line:
    """A line without its first ``cells``; of a wide character that is cut in two a space is left."""
    kept: list[Run] = []
    for text, role in runs:
        if (size := cell_len(text)) <= cells:
            cells -= size
            continue
        while cells > 0:
            cells -= cell_len(text[0])
            text = text[1:]
        kept.append((" " * -cells + text, role))
        cells = 0
    return tuple(kept)


def wrap(runs: Line, width: int, indent: int = 0) -> list[Line]:
    """A line as several of at most ``width`` cells, broken at spaces; later ones are indented."""
    width = max(width, indent + 8)
    if width_of(runs) <= width:
        return [runs]
    lines: list[Line] = []
    current: list[Run] = []
    used = 0
    for word, role in _words(runs):
        size = cell_len(word)
        if used + cell_len(word.rstrip()) > width and used > indent:
            lines.append(tuple(current))
            current, used = [(" " * indent, Role.TEXT)], indent
            word = word.lstrip()
            size = cell_len(word)
        while size > width - used:
            piece = chop_cells(word, width - used)[0] if used < width else ""
            lines.append((*current, (piece, role)) if piece else tuple(current))
            current, used = [(" " * indent, Role.TEXT)], indent
            word = word[len(piece) :].lstrip()  # a space that did not fit begins no line
            size = cell_len(word)
        current.append((word, role))
        used += size
    lines.append(tuple(current))
    return lines


def chop(runs: Line, width: int) -> list[Line]:
    """A line as several of at most ``width`` cells (2 or more), broken wherever that is: no space is lost."""
    lines: list[Line] = []
    current: list[Run] = []
    left = width = max(width, 2)
    for text, role in runs:
        if cell_len(text) > left:
            fills = left > 1 or cell_len(text[:1]) <= left
            piece = chop_cells(text, left)[0] if fills else ""
            lines.append((*current, (piece, role)) if piece else tuple(current))
            *whole, text = chop_cells(text[len(piece) :], width)
            lines += [((each, role),) for each in whole]
            current, left = [], width
        if text:
            current.append((text, role))
            left -= cell_len(text)
    return [*lines, tuple(current)] if current or not lines else lines


def _words(runs: Line) -> Iterable[Run]:
    for text, role in runs:
        start = 0
        while start < len(text):
            space = text.find(" ", start)
            end = len(text) if space < 0 else space + 1
            yield text[start:end], role
            start = end


def plain(runs: Line) -> str:
    """The text of a line, for a file or a test."""
    return "".join(text for text, _ in runs)
