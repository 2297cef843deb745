"""``NO_COLOR``: no colour is sent, not even a grey (no-color.org). What a ground marked is marked by reverse,
bold and underline, which the stylesheets say (``:nocolor``).
"""

from __future__ import annotations

from functools import lru_cache

from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter


class Colourless(LineFilter):
    """Over every line that is drawn, whoever drew it."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Only the colours go."""
        return [Segment(text, style and colourless(style), control) for text, style, control in segments]


@lru_cache(4096)
def colourless(style: Style) -> Style:
    """The same without colours; what it says of clicks stays."""
    plain = style.without_color
    return plain + Style.from_meta(style.meta) if style.meta else plain
