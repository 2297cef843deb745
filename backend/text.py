"""The sanitiser: the one way from a guest's or an agent's bytes to an operator's terminal (DESIGN §7.4).

What comes out holds no control character, no escape and nothing invisible: what could act on the terminal
or deceive the eye is made visible. :func:`visible` gives plain text; :func:`spans` and :func:`screen` also
keep the colours of a whitelist of SGR sequences, as values that the caller draws, never as bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

MAX_LINE_CHARS = 4096
MAX_TEXT_CHARS = 4_000_000
TAB_COLUMNS = 8

Colour = int | tuple[int, int, int] | None
"""A palette index 0-255, a 24-bit colour, or the terminal's default."""

# Bidi controls, zero-width and other invisible characters, line separators, tags, variation selectors.
_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff"
)
_COMBINING = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_UNSAFE = re.compile(
    rf"[\x00-\x1f\x7f-\x9f\ud800-\udfff{_INVISIBLE}]|(?<=[{_COMBINING}])[{_COMBINING}]{{2,}}"
)
_SGR = re.compile(r"\x1b\[([0-9;:]{0,64})m")
_EMOJI_SELECTOR = "\ufe0f"


@dataclass(frozen=True, slots=True)
class Style:
    """How a run of characters looks. Blinking and concealed text do not exist here."""

    fg: Colour = None
    bg: Colour = None
    bold: bool = False
    dim: bool = False
    italic: bool = False
    underline: bool = False
    reverse: bool = False
    strike: bool = False


PLAIN = Style()
Spans = list[tuple[str, Style]]

_SWITCHES: dict[int, dict[str, bool]] = {
    1: {"bold": True},
    2: {"dim": True},
    3: {"italic": True},
    4: {"underline": True},
    7: {"reverse": True},
    9: {"strike": True},
    21: {"underline": True},
    22: {"bold": False, "dim": False},
    23: {"italic": False},
    24: {"underline": False},
    27: {"reverse": False},
    29: {"strike": False},
}


def visible(
    text: str | bytes, *, keep_newlines: bool = False, tab: int | None = None, limit: int = MAX_TEXT_CHARS
) -> str:
    """``text`` with all that is not plainly printable made visible, at most about ``limit`` characters.

    Control characters become ``␛`` ``␀`` …, C1 codes and bytes that are not UTF-8 ``\\x9b``, bidi and
    invisible characters ``⟨U+202E⟩``. Newlines become ``␊`` unless kept; tabs ``␉`` unless expanded to
    ``tab`` columns.
    """
    if isinstance(text, bytes):
        text = text[: limit * 4].decode("utf-8", "surrogateescape")
    beyond = len(text) - limit
    if beyond > 0:
        text = text[:limit]
    if not (text.isascii() and text.isprintable()):
        if tab is not None and "\t" in text:
            text = text.expandtabs(tab)
        if keep_newlines:
            text = "\n".join(_UNSAFE.sub(_mark, line) for line in text.replace("\r\n", "\n").split("\n"))
        else:
            text = _UNSAFE.sub(_mark, text)
    return f"{text}… ({beyond} more characters)" if beyond > 0 else text


def spans(line: str, *, limit: int = MAX_LINE_CHARS) -> Spans:
    """One line of a terminal as runs of printable text with their :class:`Style`, cut at ``limit``."""
    return _scan(line, PLAIN, limit)[0]


def screen(rows: Iterable[str], *, limit: int = MAX_LINE_CHARS) -> list[Spans]:
    """The rows of one captured screen; a colour runs on into the next row (``tmux capture-pane -e``)."""
    drawn: list[Spans] = []
    style = PLAIN
    for row in rows:
        runs, style = _scan(row, style, limit)
        drawn.append(runs)
    return drawn


def harmless(row: str) -> str:
    """A row of a captured screen for whoever reads the API: its SGR sequences stay, all else that is not
    printable is made visible. :func:`screen` draws it as it draws the row itself."""
    row = row.rstrip("\r\n")
    if row.isascii() and row.isprintable():
        return row
    parts, at = list[str](), 0
    for found in _SGR.finditer(row):
        parts += [_clean(row[at : found.start()]), found[0]]
        at = found.end()
    return "".join([*parts, _clean(row[at:])])


def in_sight(rows: Sequence[Spans], height: int, cursor_row: int | None = None) -> slice:
    """The ``height`` rows of a screen that tell most: down to its last text, the cursor's row among them."""
    ends = [at + 1 for at, runs in enumerate(rows) if any(text.strip() for text, _ in runs)]
    if cursor_row is not None:
        ends.append(cursor_row + 1)
    first = max(0, max(ends, default=0) - height)
    first = first if cursor_row is None else min(first, cursor_row)
    return slice(first, first + height)


def _scan(line: str, style: Style, limit: int) -> tuple[Spans, Style]:
    line = line.rstrip("\r\n")
    if style == PLAIN and len(line) <= limit and line.isascii() and line.isprintable():
        return ([(line, PLAIN)] if line else []), style
    runs: Spans = []
    room, at = limit, 0
    for found in _SGR.finditer(line):
        room = _put(runs, line[at : found.start()], style, room)
        if room <= 0:
            break
        style = restyled(style, found[1])
        at = found.end()
    else:
        _put(runs, line[at:], style, room)
    return runs, style


def _put(runs: Spans, text: str, style: Style, room: int) -> int:
    """Append ``text`` made visible; returns the characters that still fit."""
    if not text:
        return room
    cut = len(text) > room
    clean = _clean(text[:room])
    if clean or cut:
        runs.append((clean + ("…" if cut else ""), style))
    return 0 if cut else room - len(text)


def _clean(text: str) -> str:
    return _UNSAFE.sub(_mark, text.replace(_EMOJI_SELECTOR, "").expandtabs(TAB_COLUMNS))


def _mark(found: re.Match[str]) -> str:
    return "".join(_mark_character(ord(character)) for character in found[0])


def _mark_character(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if code < 0xA0:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"⟨U+{code:04X}⟩"


def restyled(style: Style, parameters: str) -> Style:
    """``style`` after one SGR sequence (ECMA-48 8.3.117); what is not on the whitelist changes nothing."""
    fields = [_numbers(field) for field in parameters.split(";")]
    at = 0
    while at < len(fields):
        code = fields[at][0]
        if code in (38, 48):
            colour, at = _extended(fields, at)
            style = replace(style, fg=colour) if code == 38 else replace(style, bg=colour)
            continue
        style = _simple(style, code, fields[at])
        at += 1
    # Text in the colour of its background would be hidden from the reader.
    return replace(style, fg=None, bg=None) if style.fg is not None and style.fg == style.bg else style


def _simple(style: Style, code: int, field: list[int]) -> Style:
    if code == 0:
        return PLAIN
    if field == [4, 0]:
        return replace(style, underline=False)
    if switches := _SWITCHES.get(code):
        return replace(style, **switches)
    for base, offset in ((30, 0), (90, 8)):
        if base <= code < base + 8:
            return replace(style, fg=code - base + offset)
        if base + 10 <= code < base + 18:
            return replace(style, bg=code - base - 10 + offset)
    if code == 39:
        return replace(style, fg=None)
    return replace(style, bg=None) if code == 49 else style


def _extended(fields: list[list[int]], at: int) -> tuple[Colour, int]:
    """The colour of ``38`` or ``48`` in its two spellings (``;`` and ``:``), and where to read on."""
    field = fields[at]
    if len(field) > 1:
        numbers, after = field[1:], at + 1
    else:
        numbers = [each[0] for each in fields[at + 1 : at + 5]]
        after = at + 1 + {5: 2, 2: 4}.get(numbers[0] if numbers else -1, 1)
    match numbers:
        case [5, index, *_] if index <= 255:
            return index, after
        case [2, red, green, blue] if max(red, green, blue) <= 255:
            return (red, green, blue), after
        case [2, _, red, green, blue, *_] if max(red, green, blue) <= 255:
            return (red, green, blue), after
    return None, after


def _numbers(field: str) -> list[int]:
    return [int(part[:4] or "0") for part in field.split(":")]
