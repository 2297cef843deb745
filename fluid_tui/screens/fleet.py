"""Home: does anyone need me, is anything wrong, what is each of them doing; in this order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input

from backend.models import Sandbox, now
from backend.text import visible
from fluid_tui.actions import bindings
from fluid_tui.fleet_rows import (
    NEED_COLUMNS,
    SANDBOX_COLUMNS,
    Sorting,
    need_rows,
    sandbox_rows,
    waiting,
)
from fluid_tui.mirror import Contact
from fluid_tui.paint import Line, Role, line, said
from fluid_tui.screens.ask import AskScreen
from fluid_tui.screens.base import NARROW_BELOW, FluidScreen
from fluid_tui.screens.confirm import NameDialog, TypedConfirm, consequences
from fluid_tui.screens.diff import DiffScreen
from fluid_tui.screens.hosts import HostsScreen
from fluid_tui.screens.review import ReviewScreen
from fluid_tui.screens.terminal import TerminalScreen
from fluid_tui.widgets.live_list import LiveList
from fluid_tui.widgets.pane_view import PaneView
from fluid_tui.words import ago, plural

EXTEND_S = 3600
TICK_S = 10.0
"""Relative times move in steps of ten seconds."""
PREVIEW_DELAY_S = 0.15
"""A cursor that runs through the list opens no stream for every row it passes."""
NEED_ROWS_SHOWN = 7


class FleetScreen(FluidScreen):
    """Two lists that one cursor walks through, and the pane of the sandbox under it."""

    PLACE = "fleet"
    BINDINGS = bindings("fleet")
    FOOTER = (
        ("fleet.open", "open"),
        ("fleet.review", "review"),
        ("fleet.diff", "diff"),
        ("fleet.terminal", "terminal"),
        ("fleet.filter", "filter"),
        ("app.palette", "command"),
        ("fleet.hosts", "hosts"),
        ("fleet.pause", "pause"),
        ("fleet.snapshot", "snapshot"),
        ("app.back", "leave"),
    )

    def __init__(self) -> None:
        super().__init__()
        self._words = ""
        self._sorting = Sorting.NEED
        self._chosen = ""
        self._settled = False
        self._needs_height = 0

    def body(self) -> ComposeResult:
        yield LiveList(NEED_COLUMNS, id="needs", heading=False, empty="Nobody needs you.")
        with Horizontal(id="middle"):
            yield LiveList(SANDBOX_COLUMNS, id="sandboxes", empty="Connecting …")
            yield PaneView(id="preview")
        yield Input(id="filter", placeholder="words, host:…, state:…, agent:…  (enter keeps, escape clears)")

    def on_mount(self) -> None:
        field = self.query_one("#filter", Input)
        field.cursor_blink = False
        field.display = False
        self.query_one("#preview").can_focus = False
        self.titled(self.query_one("#needs"), "Needs you")
        self.titled(self.query_one("#sandboxes"), "Sandboxes")
        if not self._settled:
            self.query_one("#sandboxes").focus()
        self.set_interval(TICK_S, self._tick)
        self.refresh_data()

    def title_line(self) -> Line:
        fleet = self.fluid.mirror.fleet
        hosts = (
            [said(f"  {host.name}", Role.MUTED if host.status == "up" else Role.BAD) for host in fleet.hosts]
            if fleet
            else []
        )
        return line(("fluid", Role.TITLE), *hosts)

    def _tick(self) -> None:
        self.draw_bars()
        self.refresh_data()

    def refresh_data(self) -> None:
        mirror = self.fluid.mirror
        needs, sandboxes = self.query_one("#needs", LiveList), self.query_one("#sandboxes", LiveList)
        if mirror.fleet is None:
            problem = mirror.link.contact is Contact.LOST
            sandboxes.empty = f"{mirror.link.problem}. {mirror.link.remedy}" if problem else "Connecting …"
            return
        at = now()
        rows = need_rows(mirror.fleet, at)
        needs.set_rows(rows)
        if (height := min(max(1, len(rows)), NEED_ROWS_SHOWN) + 2) != self._needs_height:
            self._needs_height = height
            needs.styles.height = height
        approvals, asks = waiting(mirror.fleet)
        needs.set_class(bool(approvals or asks), "-needed")
        sandboxes.empty = "No sandbox matches." if self._words else "No sandbox yet."
        sandboxes.set_rows(sandbox_rows(mirror.fleet, at, self._words, self._sorting))
        self._title_lists(sandboxes)
        self._draw_preview_title()
        if not self._settled and (approvals or asks):
            needs.focus()
        self._settled = True
        self._chosen = self._chosen or sandboxes.key
        self._preview_soon()

    def _title_lists(self, sandboxes: LiveList) -> None:
        words = [f"filter: {self._words}"] if self._words else []
        words += [f"by {self._sorting}"] if self._sorting is not Sorting.NEED else []
        words += [f"{len(sandboxes.marked)} marked"] if sandboxes.marked else []
        self.titled(sandboxes, "Sandboxes", " · ".join(words))

    # --- the pane of the sandbox under the cursor -----------------------------------------------------

    @on(LiveList.RowHighlighted)
    def _highlighted(self, message: LiveList.RowHighlighted) -> None:
        if message.control.has_focus:
            self._preview_soon()

    def on_descendant_focus(self) -> None:
        self._preview_soon()

    def _preview_soon(self) -> None:
        sandbox = self.chosen()
        if sandbox is not None and sandbox.id != self._chosen:
            self._chosen = sandbox.id
        self._draw_preview_title()
        self.set_timer(PREVIEW_DELAY_S, self._preview)

    def on_resize(self) -> None:
        self._preview_soon()

    def _preview(self) -> None:
        """Follow the chosen sandbox's pane; a hidden preview follows nothing."""
        view = self.query_one("#preview", PaneView)
        hidden = self.size.width < NARROW_BELOW or not self.is_current
        pane = self.fluid.mirror.pane_of(self._chosen)
        view.watch_pane(self.fluid.client, pane.pane_id if pane and pane.alive and not hidden else "")

    def on_screen_resume(self) -> None:
        self.on_fleet_changed()

    def on_screen_suspend(self) -> None:
        self.query_one("#preview", PaneView).watch_pane(self.fluid.client, "")

    def _draw_preview_title(self) -> None:
        view = self.query_one("#preview", PaneView)
        sandbox = self.fluid.mirror.sandbox(self._chosen)
        if sandbox is None:
            self.titled(view, "No terminal")
            return
        pane = self.fluid.mirror.pane_of(sandbox.id)
        state = f"{pane.pane_id} · {'live' if pane.alive else 'ended'}" if pane else "no terminal"
        self.titled(view, f"{sandbox.sandbox_name} · {sandbox.agent_id} · {state}", self._doing(sandbox))

    def _doing(self, sandbox: Sandbox) -> str:
        words = []
        if sandbox.last_activity_at:
            words.append(f"last command {ago(sandbox.last_activity_at, now())}")
        if sandbox.commands:
            words.append(plural(sandbox.commands, "command"))
        if sandbox.status != "unknown":
            note = f": {visible(sandbox.status_note, limit=60)}" if sandbox.status_note else ""
            words.append(f"says {sandbox.status}{note} {ago(sandbox.status_at, now())}".rstrip())
        return " · ".join(words)

    # --- what is under the cursor ---------------------------------------------------------------------

    def chosen(self) -> Sandbox | None:
        """The sandbox that the actions of this screen mean."""
        mirror = self.fluid.mirror
        needs = self.query_one("#needs", LiveList)
        if needs.has_focus and needs.key:
            approval, ask = mirror.approval(needs.key), mirror.ask(needs.key)
            id = approval.sandbox_id if approval else (ask.sandbox_id or "") if ask else ""
            return mirror.sandbox(id)
        return mirror.sandbox(self.query_one("#sandboxes", LiveList).key)

    def _meant(self) -> list[Sandbox]:
        """The marked sandboxes, or the one under the cursor."""
        marked = self.query_one("#sandboxes", LiveList).marked
        found = [self.fluid.mirror.sandbox(id) for id in sorted(marked)] if marked else [self.chosen()]
        return [one for one in found if one is not None]

    @on(LiveList.EdgeReached)
    def _edge(self, message: LiveList.EdgeReached) -> None:
        other = "#sandboxes" if message.control.id == "needs" else "#needs"
        if (message.direction > 0) == (other == "#sandboxes") and self.query_one(other, LiveList).rows:
            self.query_one(other).focus()

    @on(LiveList.RowOpened)
    def _opened(self) -> None:
        self.action_open()

    def action_open(self) -> None:
        needs = self.query_one("#needs", LiveList)
        if needs.has_focus and needs.key:
            if self.fluid.mirror.approval(needs.key):
                self.app.push_screen(ReviewScreen(needs.key))
            else:
                self.app.push_screen(AskScreen(needs.key))
        else:
            self.action_terminal()

    def action_review(self) -> None:
        needs, fleet, sandbox = self.query_one("#needs", LiveList), self.fluid.mirror.fleet, self.chosen()
        if needs.has_focus and needs.key:
            self.action_open()
            return
        found = [one for one in fleet.approvals if sandbox and one.sandbox_id == sandbox.id] if fleet else []
        if found:
            self.app.push_screen(ReviewScreen(max(found, key=lambda one: one.created_at).id))
        else:
            self.say("There is no request for approval of this sandbox.")

    def action_hosts(self) -> None:
        self.app.push_screen(HostsScreen())

    def action_diff(self) -> None:
        if sandbox := self.chosen():
            self.app.push_screen(DiffScreen(sandbox.id))

    def action_terminal(self) -> None:
        if sandbox := self.chosen():
            self.app.push_screen(TerminalScreen(sandbox.id))

    # --- list ------------------------------------------------------------------------------------------

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    def look_for(self, words: str | None, sandbox: str) -> None:
        """Filter by these words (``None``: as it was) and go to that sandbox."""
        if words is not None:
            self.query_one("#filter", Input).value = self._words = words
            self.refresh_data()
        sandboxes = self.query_one("#sandboxes", LiveList)
        sandboxes.focus()
        if sandbox:
            sandboxes.move_to(sandbox)

    @on(Input.Changed, "#filter")
    def _filtered(self, message: Input.Changed) -> None:
        self._words = message.value
        self.refresh_data()

    @on(Input.Submitted, "#filter")
    def _filter_kept(self, message: Input.Submitted) -> None:
        message.input.display = False
        self.query_one("#sandboxes").focus()

    def action_back(self) -> None:
        field = self.query_one("#filter", Input)
        if field.display or self._words:
            field.value = ""
            field.display = False
            self.query_one("#sandboxes").focus()
        else:
            self.app.exit(0)

    def action_mark(self) -> None:
        sandboxes = self.query_one("#sandboxes", LiveList)
        sandboxes.toggle_mark()
        self._title_lists(sandboxes)

    def action_sort(self) -> None:
        order = list(Sorting)
        self._sorting = order[(order.index(self._sorting) + 1) % len(order)]
        self.refresh_data()

    # --- sandboxes --------------------------------------------------------------------------------------

    def _each(self, act: Callable[[str], Awaitable[object]], done: str) -> None:
        for sandbox in self._meant():
            self.do(lambda id=sandbox.id: act(id), f"{sandbox.sandbox_name}: {done}")  # type: ignore[misc]

    def action_pause(self) -> None:
        self._each(self.fluid.client.pause, "paused")

    def action_resume(self) -> None:
        self._each(self.fluid.client.resume, "resumed")

    def action_stop(self) -> None:
        self._each(self.fluid.client.stop, "stopped")

    def action_extend(self) -> None:
        self._each(lambda id: self.fluid.client.extend(id, EXTEND_S), "an hour more")

    def action_snapshot(self) -> None:
        if not (meant := self._meant()):
            return
        what = consequences(
            f"Memory and disk of {', '.join(one.sandbox_name for one in meant)}, as they are now."
        )

        def take(name: str | None) -> None:
            if name:
                self._each(lambda id: self.fluid.client.snapshot(id, name), f"snapshot {name} taken")

        self.app.push_screen(NameDialog("Take a snapshot", what, "Its name:"), take)

    def action_destroy(self) -> None:
        if not (meant := self._meant()):
            return
        names = ", ".join(visible(one.sandbox_name) for one in meant)
        word = visible(meant[0].sandbox_name) if len(meant) == 1 else str(len(meant))
        what = consequences(
            f"{names}: the machine, its disk and its snapshots are removed. This cannot be undone."
        )

        def destroy(yes: bool | None) -> None:
            if yes:
                self._each(self.fluid.client.destroy, "destroyed")

        self.app.push_screen(TypedConfirm("Destroy", what, word, "destroy", bad=True), destroy)
