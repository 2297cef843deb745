"""Lines to read: a playbook, a run, a list of commands, the evidence. Wrapped, scrolled by the usual keys."""

from __future__ import annotations

from fluid_tui.widgets.painted import Scrolled


class TextView(Scrolled):
    """Wrapped lines."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, wraps=True)
