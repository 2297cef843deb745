"""Home: does anyone need me, is anything wrong, what is each of them doing; in this order."""

from __future__ import annotations

from rich.cells import cell_len
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal

from backend.models import Sandbox, now
from backend.text import visible
from fluid_tui.actions import bindings
from fluid_tui.fleet_rows import (
    NEED_COLUMNS,
    SANDBOX_COLUMNS,
    SORTED_COLUMN,
    Sorting,
    need_rows,
    sandbox_filter,
    sandbox_rows,
    waiting,
)
from fluid_tui.host_rows import host_mark
from fluid_tui.mirror import Contact
from fluid_tui.paint import Line, Role, said
from fluid_tui.screens.base import NARROW_BELOW, FluidScreen
from fluid_tui.screens.sandbox_actions import NONE_MEANT, SandboxActions
from fluid_tui.widgets.filter_field import FilterField
from fluid_tui.widgets.live_list import LiveList
from fluid_tui.widgets.pane_view import PaneView
from fluid_tui.words import ago, plural

PREVIEW_DELAY_S = 0.15
"""A cursor that runs through the list opens no stream for every row it passes."""
NEED_ROWS_SHOWN = 7
NO_SANDBOX = "No sandbox yet. Agents make theirs; by hand: fluid sandboxes create SOURCE"
HOSTS_NAMED = 4
CORNERS = 4  # of a frame, with the blanks beside a title
LEAST_CELLS = 16  # of words that are cut off
PREVIEW_STEP, PREVIEW_MIN, PREVIEW_MAX = 5, 20, 80  # percent


class FleetScreen(FluidScreen):
    """Two lists that one cursor walks through, and the pane of the sandbox under it."""

    PLACE = "fleet"
    AUTO_FOCUS = "#sandboxes"
    FOOTER_KEPT = 1
    BINDINGS = bindings("fleet")
    FOOTER = (
        ("fleet.open", "open"),
        ("fleet.review", "review"),
        ("fleet.diff", "diff"),
        ("fleet.terminal", "terminal"),
        ("fleet.filter", "filter"),
        ("app.command", "command"),
        ("fleet.wall", "wall"),
        ("fleet.timeline", "timeline"),
        ("fleet.hosts", "hosts"),
        ("fleet.pause", "pause"),
        ("fleet.snapshot", "snapshot"),
        ("app.back", "leave"),
    )

    def __init__(self) -> None:
        super().__init__()
        self._acts = SandboxActions(self)
        self._words = ""
        self._chosen = ""
        self._settled = False
        self._needs_height = 0

    def body(self) -> ComposeResult:
        yield LiveList(NEED_COLUMNS, id="needs", heading=False, empty="Not known yet.")
        with Horizontal(id="middle"):
            yield LiveList(SANDBOX_COLUMNS, id="sandboxes", empty="Connecting …")
            yield PaneView(id="preview")
        yield FilterField("nginx host:kvm-02 -paused state:error|lost ttl<30m")

    def on_mount(self) -> None:
        self.query_one("#preview").can_focus = False
        self.titled(self.query_one("#needs"), "Needs you")
        self.titled(self.query_one("#sandboxes"), "Sandboxes")
        self._lay_out_preview()
        self.refresh_data()

    def title_line(self) -> Line:
        """The hosts stand beside the name (there is no way to this screen), those that are not `up` first and
        with their state; of many that are up their number stands there."""
        runs, fleet = [*self.name_line()], self.fluid.mirror.fleet
        hosts = fleet.hosts if fleet else []
        for host in (one for one in hosts if one.status != "up"):
            mark = host_mark(host)
            runs += [said(f"  {host.name}", Role.MUTED), (f" {mark.glyph} {mark.word}", mark.role)]
        up = [host.name for host in hosts if host.status == "up"]
        named = up if len(up) <= HOSTS_NAMED else [f"{len(up)} hosts up"]
        return (*runs, *(said(f"  {name}", Role.MUTED) for name in named))

    def refresh_data(self) -> None:
        mirror = self.fluid.mirror
        needs, sandboxes = self.query_one("#needs", LiveList), self.query_one("#sandboxes", LiveList)
        if mirror.fleet is None:
            sandboxes.empty = self.why_nothing()
            needs.empty = "Not known yet."
            return
        live = mirror.link.contact is Contact.LIVE
        needs.empty = "Nobody needs you." if live else "Nobody needed you when the backend was last heard."
        at = now()
        rows = need_rows(mirror.fleet, at)
        needs.set_rows(rows)
        self.titled(needs, "Needs you", f"✗ {why}" if (why := self.why_lost()) else "")
        if (height := min(max(1, len(rows)), NEED_ROWS_SHOWN) + 2) != self._needs_height:
            self._needs_height = height
            needs.styles.height = height
        approvals, asks = waiting(mirror.fleet)
        needs.set_class(bool(approvals or asks), "-needed")
        why = f": {problem}. E" if (problem := sandbox_filter(self._words).problem) else ": e"
        nothing = f"No sandbox matches{why}scape clears the filter."
        sandboxes.empty = nothing if self._words else NO_SANDBOX
        kept = self.fluid.layout_kept
        sandboxes.set_rows(sandbox_rows(mirror.fleet, at, self._words, self.sorting, reverse=kept.reverse))
        sandboxes.show_sorting(
            f"{SORTED_COLUMN.get(self.sorting, str(self.sorting)).split()[0]} {'▴' if kept.reverse else '▾'}"
        )
        self._title_lists(sandboxes)
        self._draw_preview_title()
        if not self._settled and (approvals or asks):
            needs.focus()
        self._settled = True
        self._chosen = self._chosen or sandboxes.key
        self._preview_soon()

    @property
    def sorting(self) -> Sorting:
        """The order that was chosen, today or before."""
        known = list(Sorting)
        return Sorting(kept) if (kept := self.fluid.layout_kept.sorting) in known else Sorting.NEED

    def _title_lists(self, sandboxes: LiveList) -> None:
        kept, problem = self.fluid.layout_kept, sandbox_filter(self._words).problem
        words = [f"filter: {self._words}"] if self._words else []
        words += [problem] if problem else []
        words += [f"by {self.sorting}"] if self.sorting is not Sorting.NEED else []
        words += ["reversed"] if kept.reverse else []
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
        if self.fluid.mirror.link.contact is Contact.LOST:
            return  # what it showed last stays
        shown = self.fluid.layout_kept.preview and self.size.width >= NARROW_BELOW
        hidden = not shown or not self.is_current
        pane = self.fluid.mirror.pane_of(self._chosen)
        view.watch_pane(self.fluid.client, pane.pane_id if pane and pane.alive and not hidden else "")

    def on_screen_suspend(self) -> None:
        self.query_one("#preview", PaneView).watch_pane(self.fluid.client, "")

    def _draw_preview_title(self) -> None:
        view = self.query_one("#preview", PaneView)
        sandbox = self.fluid.mirror.sandbox(self._chosen)
        if sandbox is None:
            self.titled(view, "No terminal")
            return
        pane = self.fluid.mirror.pane_of(sandbox.id)
        lost = self.fluid.mirror.link.contact is Contact.LOST
        word = "lost" if lost else "live" if pane and pane.alive else "ended"
        state = f"{pane.pane_id} · {word}" if pane else "no terminal"
        doing = self._doing(sandbox, view.size.width - CORNERS)
        self.titled(view, f"{sandbox.sandbox_name} · {sandbox.agent_id} · {state}", doing)

    def _doing(self, sandbox: Sandbox, room: int) -> str:
        """The last command first; the last fact is left out where next to nothing of it would be seen."""
        words = []
        if sandbox.last_activity_at:
            words.append(f"last command {ago(sandbox.last_activity_at, now())}")
        if sandbox.last_exit is not None:
            words.append(f"exit {sandbox.last_exit}")
        if sandbox.commands:
            words.append(plural(sandbox.commands, "command"))
        if sandbox.status != "unknown":
            note = f": {visible(sandbox.status_note, limit=60)}" if sandbox.status_note else ""
            words.append(f"says {sandbox.status}{note} {ago(sandbox.status_at, now())}".rstrip())
        told, rest = " · ".join(words), " · ".join(words[:-1])
        return told if cell_len(told) <= room or cell_len(rest) + LEAST_CELLS <= room else rest or told

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

    def _said_of(self) -> Sandbox | None:
        """The chosen sandbox; that there is none is said."""
        if (sandbox := self.chosen()) is None:
            self.say(NONE_MEANT)
        return sandbox

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
        from fluid_tui.screens.ask import AskScreen
        from fluid_tui.screens.review import ReviewScreen

        needs = self.query_one("#needs", LiveList)
        if needs.has_focus and needs.key:
            if self.fluid.mirror.approval(needs.key):
                self.app.push_screen(ReviewScreen(needs.key))
            else:
                self.app.push_screen(AskScreen(needs.key))
        else:
            self.action_terminal()

    def action_review(self) -> None:
        from fluid_tui.screens.review import ReviewScreen

        needs, sandbox = self.query_one("#needs", LiveList), self.chosen()
        if needs.has_focus and needs.key:
            self.action_open()
            return
        request = self.fluid.mirror.request_of(sandbox.id) if sandbox else None
        if request is not None:
            self.app.push_screen(ReviewScreen(request.id))
        else:
            self.say("There is no request for approval of this sandbox.")

    def action_wall(self) -> None:
        from fluid_tui.screens.wall import WallScreen

        self.app.push_screen(WallScreen(self._words))

    def action_timeline(self) -> None:
        from fluid_tui.screens.timeline import TimelineScreen

        sandbox = self.chosen()
        self.app.push_screen(TimelineScreen(sandbox.id if sandbox else ""))

    def action_hosts(self) -> None:
        from fluid_tui.screens.hosts import HostsScreen

        self.app.push_screen(HostsScreen())

    def action_diff(self) -> None:
        from fluid_tui.screens.diff import DiffScreen

        if sandbox := self._said_of():
            self.app.push_screen(DiffScreen(sandbox.id))

    def action_compare(self) -> None:
        from fluid_tui.screens.diff import open_compare

        meant, here = self._meant(), self.chosen()
        if len(meant) == 1 and here is not None and here != meant[0]:
            meant.append(here)
        if problem := open_compare(self, meant):
            self.say(problem)

    def action_terminal(self) -> None:
        from fluid_tui.screens.terminal import TerminalScreen

        if sandbox := self._said_of():
            self.app.push_screen(TerminalScreen(sandbox.id))

    # --- list ------------------------------------------------------------------------------------------

    def action_filter(self) -> None:
        self.query_one(FilterField).open()

    def look_for(self, words: str | None, sandbox: str) -> None:
        """Filter by these words (``None``: as it was) and go to that sandbox."""
        if words is not None:
            self.query_one(FilterField).value = self._words = words
            self.refresh_data()
        sandboxes = self.query_one("#sandboxes", LiveList)
        self.set_focus(sandboxes)  # at once: whoever closes the command line looks where the focus is
        if sandbox:
            sandboxes.move_to(sandbox)

    @on(FilterField.Narrowed)
    def _narrowed(self, message: FilterField.Narrowed) -> None:
        self._words = message.words
        self.refresh_data()

    @on(FilterField.Kept)
    def _filter_kept(self) -> None:
        self.query_one("#sandboxes").focus()

    def action_back(self) -> None:
        field = self.query_one(FilterField)
        if field.in_use:
            field.clear_words()
            self.query_one("#sandboxes").focus()
        elif (sandboxes := self.query_one("#sandboxes", LiveList)).marked:
            sandboxes.unmark()
            self._title_lists(sandboxes)
        else:
            self.app.exit(0)

    def action_mark(self) -> None:
        sandboxes = self.query_one("#sandboxes", LiveList)
        sandboxes.toggle_mark()
        self._title_lists(sandboxes)

    def action_mark_all(self) -> None:
        sandboxes = self.query_one("#sandboxes", LiveList)
        sandboxes.mark_all()
        self._title_lists(sandboxes)

    def action_sort(self) -> None:
        order = list(Sorting)
        self.sort_by(order[(order.index(self.sorting) + 1) % len(order)])

    def sort_by(self, sorting: Sorting) -> None:
        """Order the sandboxes so, also the next time."""
        self.fluid.layout_kept.sorting = str(sorting)
        self.refresh_data()

    def action_reverse(self) -> None:
        self.fluid.layout_kept.reverse = not self.fluid.layout_kept.reverse
        self.refresh_data()

    # --- layout ----------------------------------------------------------------------------------------

    def action_preview(self) -> None:
        self.fluid.layout_kept.preview = not self.fluid.layout_kept.preview
        self._lay_out_preview()

    def action_wider(self) -> None:
        self._resize_preview(-PREVIEW_STEP)

    def action_narrower(self) -> None:
        self._resize_preview(PREVIEW_STEP)

    def _resize_preview(self, by: int) -> None:
        kept = self.fluid.layout_kept
        kept.preview_percent = min(max(kept.preview_percent + by, PREVIEW_MIN), PREVIEW_MAX)
        self._lay_out_preview()

    def _lay_out_preview(self) -> None:
        kept, view = self.fluid.layout_kept, self.query_one("#preview", PaneView)
        view.styles.width = f"{kept.preview_percent}%"
        self.set_class(not kept.preview, "-no-preview")
        self._preview_soon()

    # --- sandboxes --------------------------------------------------------------------------------------

    def action_pause(self) -> None:
        self._acts.pause(self._meant())

    def action_resume(self) -> None:
        self._acts.resume(self._meant())

    def action_stop(self) -> None:
        self._acts.stop(self._meant())

    def action_extend(self) -> None:
        self._acts.extend(self._meant())

    def action_snapshot(self) -> None:
        self._acts.snapshot(self._meant())

    def action_destroy(self) -> None:
        self._acts.destroy(self._meant())
