"""One agent's terminal, full size, following; page up reads back. Looking never resizes its window."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult

from backend.models import now
from backend.text import visible
from fluid_tui.actions import bindings
from fluid_tui.fleet_rows import Sorting, sandbox_rows
from fluid_tui.paint import Line, Role, line, said
from fluid_tui.screens.base import FluidScreen
from fluid_tui.screens.diff import DiffScreen
from fluid_tui.screens.timeline import TimelineScreen
from fluid_tui.widgets.pane_view import PaneView
from fluid_tui.words import ago

NO_TERMINAL = "Its agent has opened none. One of yours: fluid sandboxes ssh NAME"


class TerminalScreen(FluidScreen):
    """The pane of one sandbox."""

    PLACE = "terminal"
    BINDINGS = bindings("terminal")
    FOOTER = (
        ("move.page_up", "scroll back"),
        ("move.bottom", "follow"),
        ("terminal.next", "next"),
        ("terminal.diff", "diff"),
        ("terminal.timeline", "timeline"),
        ("app.back", "back"),
    )

    def __init__(self, sandbox_id: str) -> None:
        super().__init__()
        self._sandbox_id = sandbox_id
        self._problem = ""

    def again(self) -> FluidScreen:
        return TerminalScreen(self._sandbox_id)

    def crumb(self) -> Line:
        sandbox = self.fluid.mirror.sandbox(self._sandbox_id)
        name = sandbox.sandbox_name if sandbox else self._sandbox_id
        return line(("terminal ", Role.MUTED), said(name, Role.TITLE))

    def body(self) -> ComposeResult:
        yield PaneView(id="pane")

    def on_mount(self) -> None:
        self.query_one(PaneView).focus()
        self.refresh_data()

    def refresh_data(self) -> None:
        view = self.query_one(PaneView)
        pane = self.fluid.mirror.pane_of(self._sandbox_id)
        if pane is not None and pane.alive and not view.pane_id and not self._problem:
            view.watch_pane(self.fluid.client, pane.pane_id)
        self._draw_title()

    def _draw_title(self) -> None:
        view = self.query_one(PaneView)
        sandbox = self.fluid.mirror.sandbox(self._sandbox_id)
        pane = self.fluid.mirror.pane_of(self._sandbox_id)
        if pane is None:
            self.titled(view, "No terminal")
            known = self.fluid.mirror.fleet is not None
            view.set_lines([line(said(NO_TERMINAL if known else self.why_nothing(), Role.MUTED))])
            return
        who = f"{sandbox.sandbox_name} · {sandbox.agent_id}" if sandbox else self._sandbox_id
        state = "live" if view.following else "history"
        if self._problem or not pane.alive:
            state = "ended"
        below = visible(self._problem) or (
            f"{pane.width}x{pane.height} · last output {ago(pane.last_output_at, now()) or 'unknown'}"
        )
        if not view.following:
            below = "reading back: the end key follows again"
        self.titled(view, f"{who} · {pane.pane_id} · {state}", below)

    @on(PaneView.FollowingChanged)
    def _following_changed(self, message: PaneView.FollowingChanged) -> None:
        self._problem = message.problem
        self._draw_title()

    def action_next(self) -> None:
        self._step(1)

    def action_previous(self) -> None:
        self._step(-1)

    def _step(self, by: int) -> None:
        """The sandboxes in the fleet's order, those with a terminal."""
        mirror = self.fluid.mirror
        if mirror.fleet is None:
            return
        ids = [
            row.key for row in sandbox_rows(mirror.fleet, now(), "", Sorting.NEED) if mirror.pane_of(row.key)
        ]
        others = [id for id in ids if id != self._sandbox_id]
        if not others:
            self.say("There is no other terminal.")
            return
        at = ids.index(self._sandbox_id) + by if self._sandbox_id in ids else min(by, 0)
        self._sandbox_id = ids[at % len(ids)]
        self._problem = ""
        pane = mirror.pane_of(self._sandbox_id)
        self.query_one(PaneView).watch_pane(self.fluid.client, pane.pane_id if pane else "")
        self.draw_bars()
        self._draw_title()

    def action_timeline(self) -> None:
        self.app.push_screen(TimelineScreen(self._sandbox_id))

    def action_diff(self) -> None:
        self.app.push_screen(DiffScreen(self._sandbox_id))
