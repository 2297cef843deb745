"""What the console would be of Textual's stock widgets: a DataTable of sandboxes, a Static for each terminal.

On the same backend by the same client, to be measured beside ours: ``python -m tests.bench.stock fleet
SOCKET``, or a number of terminals in place of ``fleet``.
"""

from __future__ import annotations

import sys

from rich.text import Text
from textual.app import App, ComposeResult
from textual.containers import Grid
from textual.widgets import DataTable, Static

from backend.client import AsyncFluid
from backend.models import FleetView, Pane, now
from fluid_tui.fleet_rows import SANDBOX_COLUMNS, Sorting, sandbox_rows
from fluid_tui.mirror import MOVED
from fluid_tui.widgets.live_list import cell_text

COLUMNS = 4


class StockFleet(App[None]):
    """A row of the table for each sandbox; a cell that changed is updated."""

    def __init__(self, client: AsyncFluid) -> None:
        super().__init__()
        self._client = client

    def compose(self) -> ComposeResult:
        yield DataTable[str](cursor_type="row")

    def on_mount(self) -> None:
        self.run_worker(self._follow())

    async def _follow(self) -> None:
        table = self.query_one(DataTable[str])
        for column in SANDBOX_COLUMNS:
            table.add_column(column.title, key=column.title)
        fleet = await self._client.fleet()
        for key, cells in _cells(fleet).items():
            table.add_row(*cells, key=key)
        async for event in self._client.events(fleet.seq):
            if event.kind != MOVED:
                continue
            one = await self._client.sandbox(event.id)
            fresh = _cells(fleet.model_copy(update={"sandboxes": [one]}))[one.id]
            for column, cell in zip(SANDBOX_COLUMNS, fresh, strict=True):
                if table.get_cell(one.id, column.title) != cell:
                    table.update_cell(one.id, column.title, cell)


class StockWall(App[None]):
    """A grid of the newest terminals, each drawn anew when it printed."""

    CSS = f"Grid {{ grid-size: {COLUMNS}; }} Static {{ border: round gray; height: 1fr; }}"

    def __init__(self, client: AsyncFluid, most: int) -> None:
        super().__init__()
        self._client, self._most = client, most

    def compose(self) -> ComposeResult:
        yield Grid() if self._most > 1 else Static()

    async def on_mount(self) -> None:
        panes = (await self._client.fleet()).panes[-self._most :]
        if self._most > 1:
            await self.query_one(Grid).mount_all(Static() for _ in panes)
        for view, pane in zip(self.query(Static), panes, strict=True):
            self.run_worker(self._follow(view, pane))

    async def _follow(self, view: Static, pane: Pane) -> None:
        view.border_title = pane.sandbox_name
        async for shown in self._client.pane_screens(pane.pane_id):
            view.update(Text.from_ansi("\n".join(shown.rows[-max(1, view.size.height) :])))


def _cells(fleet: FleetView) -> dict[str, list[str]]:
    rows = sandbox_rows(fleet, now(), "", Sorting.NEED)
    return {row.key: [cell_text(cell) for cell in row.cells] for row in rows}


if __name__ == "__main__":
    place, door = sys.argv[1:]
    client = AsyncFluid(door)
    (StockFleet(client) if place == "fleet" else StockWall(client, int(place))).run()
