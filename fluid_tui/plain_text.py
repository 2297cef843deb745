"""A terminal without UTF-8 gets ASCII: borders, marks and foreign letters, each as wide as it was."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from backend.environment import as_given

LOCALE = ("LC_ALL", "LC_CTYPE", "LANG")
OLD_TERMINALS = ("vt100", "vt102", "vt220", "ansi", "dumb")
WANTED = "FLUID_ASCII"

_SAME = {
    "─━╌┄═": "-",
    "│┃▎╎┆║": "|",
    "╭╮╰╯┌┐└┘├┤┬┴┼╔╗╚╝": "+",
    "●▰█": "*",
    "○▱◌·⋅": ".",
    "✓": "v",
    "✗†": "x",
    "■▪▮": "#",
    "▌▸▶›": ">",
    "◂‹": "<",
    "—–": "-",
    "…⋯": "~",
    "◆‼": "!",
    "▾▼": "v",
    "▴▲": "^",
    "↑": "^",
    "↓": "v",
    "→": ">",
    "←": "<",
    "␛␀␇␊␉␡": "?",
    "⟨": "<",
    "⟩": ">",
    "“”": '"',
    "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}": "'",
}
_TABLE = {character: plain for same, plain in _SAME.items() for character in same}


def wants_ascii(environment: Mapping[str, str] | None = None) -> bool:
    """``FLUID_ASCII=1`` or ``0`` decides; else a locale that is set without UTF-8, or an old terminal. Of the
    environment that the operator gave, if no other is meant."""
    environment = as_given() if environment is None else environment
    if chosen := environment.get(WANTED):
        return chosen != "0"
    if environment.get("TERM", "").startswith(OLD_TERMINALS):
        return True
    named = next((environment[name] for name in LOCALE if environment.get(name)), "")
    return bool(named) and "utf" not in named.lower()


@lru_cache(4096)
def to_ascii(text: str) -> str:
    """The same text in ASCII, in as many cells."""
    if text.isascii():
        return text
    return "".join(
        each
        if each.isascii()
        else _TABLE.get(each, "?") + "?" * (cell_len(each) - 1)
        if cell_len(each)
        else ""
        for each in text
    )


class AsciiFilter(LineFilter):
    """Over every line that is drawn, whoever drew it."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Only the text changes."""
        return [Segment(to_ascii(text), style, control) for text, style, control in segments]
