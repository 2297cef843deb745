"""Several agents at once: a grid of their terminals, as many as fit. What does not change costs nothing."""

from __future__ import annotations

from typing import cast

from textual import on
from textual.app import ComposeResult
from textual.containers import Grid

from backend.models import Pane, now
from fluid_tui.actions import bindings
from fluid_tui.fleet_rows import Sorting, asking_sandboxes, matches, sandbox_filter, sandbox_rows
from fluid_tui.mirror import Contact
from fluid_tui.paint import Line, Role, line, said
from fluid_tui.screens.base import FluidScreen
from fluid_tui.screens.terminal import TerminalScreen
from fluid_tui.widgets.pane_view import AGAIN_S, PaneView
from fluid_tui.widgets.text_view import TextView
from fluid_tui.words import ASKS, plural

CELL_WIDTH, CELL_HEIGHT = 38, 7
"""A pane that is smaller tells nothing."""
MAX_PANES = 20
MAX_PAGES = 1_000_000
TERMINAL_WIDTH, TERMINAL_HEIGHT = 80, 24


class WallPane(PaneView):
    """One of the wall: it follows, and the keys that move are the wall's."""

    def _wall(self) -> WallScreen:
        return cast("WallScreen", self.screen)

    def action_down(self) -> None:
        self._wall().step(self._wall().columns)

    def action_up(self) -> None:
        self._wall().step(-self._wall().columns)

    def action_page_down(self) -> None:
        self._wall().turn(1)

    def action_page_up(self) -> None:
        self._wall().turn(-1)

    def action_top(self) -> None:
        self._wall().turn(-MAX_PAGES)

    def action_bottom(self) -> None:
        self._wall().turn(MAX_PAGES)


def grid_of(panes: int, width: int, height: int) -> tuple[int, int]:
    """Columns and rows for so many panes, none smaller than a cell, that tell the most."""
    most_columns, most_rows = max(1, width // CELL_WIDTH), max(1, height // CELL_HEIGHT)
    wanted = max(1, min(panes, most_columns * most_rows, MAX_PANES))
    grids = [(columns, -(-wanted // columns)) for columns in range(1, most_columns + 1)]

    def told(grid: tuple[int, int]) -> float:
        """How much a cell tells: lines that are cut cost more than lines that are missing."""
        columns, rows = grid
        return min(width / columns, TERMINAL_WIDTH) ** 2 * min(height / rows, TERMINAL_HEIGHT)

    return max((grid for grid in grids if grid[1] <= most_rows), key=told)


class WallScreen(FluidScreen):
    """Pages of panes, who needs a person first."""

    PLACE = "wall"
    BINDINGS = bindings("wall")
    FOOTER = (
        ("wall.open", "open"),
        ("wall.next", "next"),
        ("move.page_down", "next page"),
        ("app.command", "command"),
        ("app.back", "back"),
    )

    def __init__(self, words: str = "") -> None:
        super().__init__()
        self._words = words
        self._page = 0
        self._shown: list[str] = []
        self._told = ""

    def again(self) -> FluidScreen:
        return WallScreen(self._words)

    def crumb(self) -> Line:
        told = " · terminals as they were" if self._told and self.is_lost else self._told
        return line(("wall", Role.TITLE), said(f" {self._words}" if self._words else ""), (told, Role.MUTED))

    def body(self) -> ComposeResult:
        nothing = TextView(id="nothing")
        nothing.display = False
        yield nothing
        yield Grid(id="wall")

    def on_mount(self) -> None:
        self.refresh_data()

    def on_resize(self) -> None:
        self.refresh_data()

    def on_screen_suspend(self) -> None:
        """What nobody sees is not followed."""
        for view in self.query(WallPane):
            view.watch_pane(self.fluid.client, "")

    def _panes(self) -> list[Pane]:
        """The live terminals that match, in the fleet's order."""
        mirror = self.fluid.mirror
        if mirror.fleet is None:
            return []
        at, wanted, asking = now(), sandbox_filter(self._words), asking_sandboxes(mirror.fleet)
        kept = {one.id for one in mirror.fleet.sandboxes if matches(one, wanted, one.id in asking, at)}
        found = [mirror.pane_of(row.key) for row in sandbox_rows(mirror.fleet, at, "", Sorting.NEED)]
        return [pane for pane in found if pane is not None and pane.alive and pane.sandbox_id in kept]

    def refresh_data(self) -> None:
        if not self.composed or not self.is_current:
            return
        if self._shown and self.fluid.mirror.link.contact is Contact.LOST:
            return  # what they showed last stays
        grid = self.query_one("#wall", Grid)
        panes = self._panes()
        columns, rows = grid_of(len(panes), grid.size.width or 80, grid.size.height or 22)
        room = min(columns * rows, MAX_PANES)
        self._page = min(self._page, max(0, (len(panes) - 1) // room))
        shown = panes[self._page * room : (self._page + 1) * room]
        self.call_later(self._build, [pane.pane_id for pane in shown], columns, rows)
        pages = -(-len(panes) // room) if panes else 1
        known = self.fluid.mirror.fleet is not None
        self._told = f" · {plural(len(panes), 'live terminal')}" if known else ""
        self._told += f" · page {self._page + 1} of {pages}" if pages > 1 else ""
        nothing = self.query_one("#nothing", TextView)
        nothing.display, grid.display = not panes, bool(panes)
        matching = " that matches" if self._words else ""
        words = f"No agent has a terminal open{matching}. One of yours: fluid sandboxes ssh NAME"
        nothing.set_lines([line(said(words if known else self.why_nothing(), Role.MUTED))])
        self.draw_bars()

    async def _build(self, ids: list[str], columns: int, rows: int) -> None:
        """One view a pane; those that stay keep their stream."""
        grid = self.query_one("#wall", Grid)
        grid.styles.grid_size_columns, grid.styles.grid_size_rows = columns, rows
        views = list(self.query(WallPane))
        for view in views[len(ids) :]:
            await view.remove()
        views = views[: len(ids)]
        fresh = [WallPane(id=f"pane-{number}") for number in range(len(views), len(ids))]
        if fresh:
            await grid.mount_all(fresh)
        self._shown = ids
        for view, id in zip([*views, *fresh], ids, strict=True):
            view.watch_pane(self.fluid.client, id)
            self._title(view, id)
        if fresh and not isinstance(self.focused, WallPane):
            self.query(WallPane).first().focus()

    def _title(self, view: WallPane, pane_id: str) -> None:
        mirror = self.fluid.mirror
        panes = mirror.fleet.panes if mirror.fleet else []
        pane = next((one for one in panes if one.pane_id == pane_id), None)
        sandbox = mirror.sandbox(pane.sandbox_id) if pane else None
        if sandbox is None:
            self.titled(view, pane_id)
            return
        asks = mirror.fleet is not None and sandbox.id in asking_sandboxes(mirror.fleet)
        view.set_class(asks, "-needed")
        below = f"{pane_id} · {pane.taken_by} types" if pane and pane.taken_by else pane_id
        state = f"{ASKS.glyph} {ASKS.word} · " if asks else ""
        self.titled(view, f"{state}{sandbox.sandbox_name} · {sandbox.agent_id}", below)

    def _chosen(self) -> str:
        """The sandbox of the pane that has the focus."""
        views, mirror = list(self.query(WallPane)), self.fluid.mirror
        at = views.index(self.focused) if isinstance(self.focused, WallPane) else 0
        if not (mirror.fleet and at < len(self._shown)):
            return ""
        return next((one.sandbox_id for one in mirror.fleet.panes if one.pane_id == self._shown[at]), "")

    @on(PaneView.FollowingChanged)
    def _ended(self) -> None:
        """A stream that was cut is tried again, not at once: it may be cut again."""
        self.set_timer(AGAIN_S, self.refresh_data)

    def action_open(self) -> None:
        if sandbox_id := self._chosen():
            self.app.push_screen(TerminalScreen(sandbox_id))

    def step(self, by: int) -> None:
        """The focus goes so many panes on."""
        views = list(self.query(WallPane))
        if views:
            at = views.index(self.focused) if isinstance(self.focused, WallPane) else 0
            views[(at + by) % len(views)].focus()

    @property
    def columns(self) -> int:
        return self.query_one("#wall", Grid).styles.grid_size_columns or 1

    def turn(self, pages: int) -> None:
        """Other panes, so many pages on."""
        self._page = max(0, self._page + pages)
        self.refresh_data()

    def action_next(self) -> None:
        self.step(1)

    def action_previous(self) -> None:
        self.step(-1)
