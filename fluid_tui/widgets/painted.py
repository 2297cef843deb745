"""The line widget that all others stand on: it draws the lines in sight and repaints those that changed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

from rich.color import Color, ColorType
from rich.segment import Segment
from rich.style import Style as RichStyle
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from backend.text import Colour, Style
from fluid_tui.actions import bindings
from fluid_tui.paint import Ink, Line, Mixed, Role, plain, wrap

AGENT_STYLES = 4_096
"""An agent has 16 million colours: those in sight are kept."""
LABEL_CELLS = 16
"""A first run up to this length that ends in a space is a label."""


class Painted(ScrollView, can_focus=True, inherit_bindings=False):
    """Lines of runs. ``set_lines`` compares with what is drawn: an equal line costs nothing."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"painted--{role}" for role in Role}

    def __init__(self, *, id: str | None = None, classes: str | None = None, wraps: bool = False) -> None:
        super().__init__(id=id, classes=classes)
        self._lines: list[Line] = []
        self._source: list[Line] = []
        self._wraps = wraps
        self._styles_of: dict[Role | Mixed, RichStyle] = {}

    @property
    def lines(self) -> Sequence[Line]:
        """What is drawn, after wrapping."""
        return self._lines

    def set_lines(self, lines: Sequence[Line]) -> None:
        """Show these lines; with ``wraps`` they are broken at the widget's width."""
        self._source = list(lines)
        self._lay_out()

    def taken(self) -> tuple[str, str]:
        """What is copied from here: what it is, and the text as it is before wrapping."""
        return "the text", "\n".join(plain(each).rstrip() for each in self._source).strip("\n")

    def on_resize(self) -> None:
        self._lay_out()

    def _lay_out(self) -> None:
        fresh = self._source
        width = self.scrollable_content_region.width
        if self._wraps and width > 0:
            fresh = [part for each in self._source for part in wrap(each, width, _indent_of(each))]
        self._replace(fresh)

    def _replace(self, fresh: list[Line]) -> None:
        old, self._lines = self._lines, fresh
        if len(old) != len(fresh):
            self.virtual_size = Size(self._content_width(), len(fresh))
        for y in range(max(len(old), len(fresh))):
            if y >= len(old) or y >= len(fresh) or old[y] != fresh[y]:
                self.refresh_line(y)

    def _content_width(self) -> int:
        return 0  # lines are clipped, never scrolled sideways

    def line_at(self, y: int, width: int) -> Line:
        """The line to draw at row ``y`` of the content."""
        return self._lines[y] if y < len(self._lines) else ()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        at = self.scroll_offset.y + y
        return self.paint(self.line_at(at, width), self.rich_style)

    def paint(self, runs: Line, below: RichStyle) -> Strip:
        """A line on its ground, exactly as wide as the widget."""
        segments = [Segment(text, below + self.role_style(role)) for text, role in runs]
        return Strip(segments).adjust_cell_length(self.size.width, below).simplify()

    def role_style(self, role: Ink) -> RichStyle:
        """The colours of a role in this theme, or of an agent's own style."""
        if isinstance(role, Style):
            return rich_style(role)
        found = self._styles_of.get(role)
        if found is None:
            if isinstance(role, Mixed):
                found = self.role_style(role.ground) + self.role_style(role.ink)
            elif role is Role.TEXT:
                found = RichStyle()
            else:
                found = self.get_component_rich_style(f"painted--{role}", partial=True)
            self._styles_of[role] = found
        return found

    def notify_style_update(self) -> None:
        self._styles_of.clear()
        super().notify_style_update()

    def scroll_lines(self, count: int) -> None:
        """Scroll without animation: one repaint."""
        self.scroll_to(y=self.scroll_offset.y + count, animate=False)

    def page(self, direction: int) -> None:
        """One page up (-1) or down (1), two lines kept for the eye."""
        self.scroll_lines(direction * max(1, self.size.height - 2))


class Scrolled(Painted):
    """One that the usual keys scroll."""

    BINDINGS = bindings("move")

    def action_down(self) -> None:
        self.scroll_lines(1)

    def action_up(self) -> None:
        self.scroll_lines(-1)

    def action_page_down(self) -> None:
        self.page(1)

    def action_page_up(self) -> None:
        self.page(-1)

    def action_top(self) -> None:
        self.scroll_to(y=0, animate=False)

    def action_bottom(self) -> None:
        self.scroll_to(y=self.virtual_size.height, animate=False)


@lru_cache(AGENT_STYLES)
def rich_style(style: Style) -> RichStyle:
    """An agent's whitelisted style as the terminal library's."""
    return RichStyle(
        color=_colour(style.fg),
        bgcolor=_colour(style.bg),
        bold=style.bold or None,
        dim=style.dim or None,
        italic=style.italic or None,
        underline=style.underline or None,
        reverse=style.reverse or None,
        strike=style.strike or None,
    )


def _colour(colour: Colour) -> Color | None:
    if colour is None:
        return None
    if isinstance(colour, tuple):
        return Color.from_rgb(*colour)
    return Color(
        f"color({colour})", ColorType.STANDARD if colour < 16 else ColorType.EIGHT_BIT, number=colour
    )


def _indent_of(runs: Line) -> int:
    """Wrapped lines hang under the text after a label or a glyph, or two cells deeper than the first."""
    if not runs:
        return 0
    first = runs[0][0]
    if first.endswith(" ") and len(first) <= LABEL_CELLS:
        return len(first)
    return min(len(first) - len(first.lstrip()) + 2, LABEL_CELLS)
