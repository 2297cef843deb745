"""Lines to read: a playbook, a run, a list of commands, the evidence. Wrapped, scrolled by the usual keys."""

from __future__ import annotations

from fluid_tui.actions import bindings
from fluid_tui.widgets.painted import Painted


class TextView(Painted):
    """Wrapped lines."""

    BINDINGS = bindings("move")

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, wraps=True)

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
        self.scroll_to(y=len(self.lines), animate=False)
