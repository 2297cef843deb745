"""An agent's terminal, drawn through the sanitiser: only rows that changed, at most four times a second.

What the agent prints stays inside this widget's border and is never taken for the console's own words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

from textual.message import Message
from textual.timer import Timer

from backend.errors import FluidError
from backend.text import screen
from fluid_tui.actions import bindings
from fluid_tui.backend_port import BackendPort
from fluid_tui.widgets.painted import Painted

PAINT_S = 0.25
HISTORY_LINES = 5_000
READ_S = 15.0


class PaneView(Painted):
    """Follows one pane; page up reads its history, the end key follows again."""

    BINDINGS = bindings("move")

    class FollowingChanged(Message):
        """Following stopped or went on, or the stream ended (``problem`` says why)."""

        def __init__(self, of: PaneView, problem: str = "") -> None:
            super().__init__()
            self.of, self.problem = of, problem

        @property
        def control(self) -> PaneView:
            return self.of

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._client: BackendPort | None = None
        self.pane_id = ""
        self.following = True
        self._newest: Sequence[str] | None = None
        self._painted_at = 0.0
        self._gate: Timer | None = None

    def watch_pane(self, client: BackendPort, pane_id: str) -> None:
        """Follow this pane from now on; an empty id shows nothing."""
        if pane_id == self.pane_id:
            return
        self._client, self.pane_id, self.following = client, pane_id, True
        self._newest = None
        self.set_lines([])
        self.workers.cancel_node(self)
        if pane_id:
            self.run_worker(self._follow(client, pane_id), group="pane", exclusive=True)

    async def _follow(self, client: BackendPort, pane_id: str) -> None:
        problem = "the terminal has ended"
        try:
            async for rows in client.pane_stream(pane_id):
                self._newest = rows
                self._paint_soon()
        except FluidError as error:
            problem = error.message
        self.pane_id = ""
        self.post_message(self.FollowingChanged(self, problem))

    def _paint_soon(self) -> None:
        """Paint now, or when the quarter of a second is over; the newest rows win."""
        if not self.following or self._gate is not None:
            return
        wait = self._painted_at + PAINT_S - monotonic()
        if wait <= 0:
            self._paint()
        else:
            self._gate = self.set_timer(wait, self._paint)

    def _paint(self) -> None:
        self._gate = None
        if self._newest is None or not self.following:
            return
        self._painted_at = monotonic()
        drawn = [tuple(spans) for spans in screen(self._newest)]
        while drawn and not any(text.strip() for text, _ in drawn[-1]):
            drawn.pop()
        room = self.size.height
        # Always as many lines as fit: a change of their number would lay out and repaint the whole widget.
        self.set_lines([*drawn[-room:], *[()] * (room - len(drawn))] if room else [])

    def taken(self) -> tuple[str, str]:
        return ("the screen" if self.following else "the history"), super().taken()[1]

    def on_resize(self) -> None:
        self._paint()

    async def _read_history(self) -> None:
        if self._client is None or not self.pane_id:
            return
        try:
            async with asyncio.timeout(READ_S):
                rows = await self._client.read_pane(self.pane_id, HISTORY_LINES)
        except (FluidError, TimeoutError) as error:
            self.following = True
            self.post_message(self.FollowingChanged(self, f"no history: {error}"))
            return
        self.set_lines([tuple(spans) for spans in screen(rows)])
        self.scroll_to(y=max(0, len(rows) - 2 * self.size.height), animate=False)

    def _stop_following(self) -> bool:
        """True if it was following until now; the history is then on its way."""
        if not self.following:
            return False
        self.following = False
        self.run_worker(self._read_history(), group="history", exclusive=True)
        self.post_message(self.FollowingChanged(self))
        return True

    def action_up(self) -> None:
        if not self._stop_following():
            self.scroll_lines(-1)

    def action_page_up(self) -> None:
        if not self._stop_following():
            self.page(-1)

    def action_top(self) -> None:
        if not self._stop_following():
            self.scroll_to(y=0, animate=False)

    def action_down(self) -> None:
        if not self.following:
            self.scroll_lines(1)

    def action_page_down(self) -> None:
        if not self.following:
            self.page(1)

    def action_bottom(self) -> None:
        """Follow again."""
        self.following = True
        self._paint()
        self.post_message(self.FollowingChanged(self))
