"""The keys of the screen that the operator came from, with the action ids that a keymap file names."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from fluid_tui.actions import WITHIN, of, shown_keys
from fluid_tui.keymap import default_path
from fluid_tui.paint import BLANK, Line, Role, line
from fluid_tui.screens.base import FluidScreen
from fluid_tui.widgets.text_view import TextView

TITLES = {
    "fleet": "Fleet",
    "review": "Review",
    "ask": "Question",
    "diff": "Diff",
    "hosts": "Hosts",
    "terminal": "Terminal",
    "wall": "Wall",
    "timeline": "Timeline",
    "sides": "In a diff",
    "replay": "In a recording",
    "panic": "Panic",
    "move": "Moving",
    "app": "Everywhere",
}
WORDS_CELLS, WIDE_FROM = 76, 118
"""On a wide screen the ids stand in a column of their own."""
GLYPHS = (
    "! waits for you   ? question   ● works   ◌ on its way   ○ paused   ■ stopped   ✗ error   ✓ done",
    "In a dialog: enter confirms, escape is No.",
)


class HelpScreen(FluidScreen):
    """Effective keys: defaults with the user's keymap laid over them."""

    PLACE = "help"
    FOOTER = (("app.back", "back"),)
    BINDINGS: ClassVar[list[BindingType]] = [Binding("question_mark", "back", show=False)]

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def crumb(self) -> Line:
        return line((f"help · {TITLES.get(self._place, '')}", Role.TITLE))

    def body(self) -> ComposeResult:
        yield TextView(id="help")

    def on_mount(self) -> None:
        view = self.query_one(TextView)
        view.set_lines(self._lines())
        view.focus()

    def _lines(self) -> list[Line]:
        lines: list[Line] = []
        words_cells = WORDS_CELLS if self.app.size.width >= WIDE_FROM else 0
        for place in dict.fromkeys((self._place, *WITHIN.get(self._place, ()), "move", "app")):
            actions = of(place)
            if not actions:
                continue
            lines.append(line((TITLES.get(place, place), Role.HEAD)))
            for action in actions:
                off = self.fluid.read_only and action.changes
                lines.append(
                    line(
                        (
                            f"  {shown_keys(self.fluid.keys[action.id]):<13} ",
                            Role.MUTED if off else Role.ACCENT,
                        ),
                        (
                            f"{action.words + (' (off: read-only)' if off else ''):<{words_cells}}",
                            Role.MUTED if off else Role.TEXT,
                        ),
                        (f"  {action.id}", Role.MUTED),
                    )
                )
            lines.append(BLANK)
        lines += [line((text, Role.MUTED)) for text in GLYPHS]
        lines.append(line((f"Other keys: {default_path()}, lines such as `fleet.diff: f2`.", Role.MUTED)))
        return lines
