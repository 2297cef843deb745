"""An agent's terminal, drawn through the sanitiser: only rows that changed, at most four times a second.

What the agent prints stays inside this widget's border and is never taken for the console's own words.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, ClassVar, cast

from rich.cells import cell_len
from textual import events, work
from textual.message import Message
from textual.timer import Timer

from backend.errors import FluidError
from backend.models import PaneScreen
from backend.text import Style, in_sight, screen
from fluid_tui.actions import bindings
from fluid_tui.backend_port import BackendPort
from fluid_tui.key_bytes import key_bytes, paste_bytes
from fluid_tui.paint import Line
from fluid_tui.widgets.painted import Painted

if TYPE_CHECKING:
    from fluid_tui.app import FluidApp

PAINT_S = 0.25
TOGETHER, APART_S = 4, 0.04
"""So many terminals are painted at once, and others so much later, that a key comes between: 20 of them have
their four paints a second all the same. One by one would take twice the processor."""
AGAIN_S = 2.0
"""A stream that was cut is begun anew after so long, while its terminal lives."""
DEAF_S = 1.0
"""What is still being typed when the terminal is lost to somebody must not become commands of the console."""
HISTORY_LINES = 5_000
READ_S = 15.0


class PaneView(Painted):
    """Follows one pane; page up reads its history, the end key follows again. While its operator types, every
    key is the pane's but those that hand it back."""

    BINDINGS = bindings("move")
    _slot: ClassVar[float] = 0.0  # the last time that terminals, of all views, are painted together
    _in_slot: ClassVar[int] = 0

    class FollowingChanged(Message):
        """Following stopped or went on, or the stream ended (``problem`` says why)."""

        def __init__(self, of: PaneView, problem: str = "") -> None:
            super().__init__()
            self.of, self.problem = of, problem

        @property
        def control(self) -> PaneView:
            return self.of

    class HandBackAsked(Message):
        """The key that hands the pane back was pressed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._client: BackendPort | None = None
        self.pane_id = ""
        self.following = True
        self._newest: PaneScreen | None = None
        self._typed: asyncio.Queue[bytes | None] | None = None
        self._leave: frozenset[str] = frozenset()
        self._was_at: int | None = None  # where in the history, before somebody typed
        self._deaf_until = 0.0
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
            self._follow(client, pane_id)

    @work(group="pane", exclusive=True)
    async def _follow(self, client: BackendPort, pane_id: str) -> None:
        problem = "the terminal has ended"
        try:
            async for shown in client.pane_screens(pane_id):
                self._newest = shown
                self._paint_soon()
        except FluidError as error:
            problem = error.message
        self.pane_id = ""
        self.post_message(self.FollowingChanged(self, problem))

    def _paint_soon(self) -> None:
        """Paint now, or when the quarter of a second is over and few other terminals are painted; the newest
        rows win."""
        if not self.following or self._gate is not None:
            return
        if self.typing:
            self._paint()
            return
        now = monotonic()
        if (at := _slot_from(max(now, self._painted_at + PAINT_S))) > now:
            self._gate = self.set_timer(at - now, self._paint_behind_keys)
        else:
            self._paint_behind_keys()

    def _paint_behind_keys(self) -> None:
        """What a key sets off comes first, unless keys never end."""
        if cast("FluidApp", self.app).key_under_way and monotonic() < self._painted_at + 2 * PAINT_S:
            self._gate = self.set_timer(APART_S, self._paint_behind_keys)
        else:
            self._paint()

    def _paint(self) -> None:
        self._gate = None
        if self._newest is None or not self.following:
            return
        self._painted_at = monotonic()
        rows = screen(self._newest.rows)
        cursor = self._newest.cursor if self.typing else None
        room = self.size.height
        shown = in_sight(rows, room, cursor[1] if cursor else None)
        drawn: list[Line] = [tuple(spans) for spans in rows[shown]]
        if cursor and 0 <= cursor[1] - shown.start < len(drawn):
            at = cursor[1] - shown.start
            drawn[at] = with_cursor(drawn[at], cursor[0])
        # Always as many lines as fit: a change of their number would lay out and repaint the whole widget.
        self.set_lines([*drawn, *[()] * (room - len(drawn))] if room else [])

    def taken(self) -> tuple[str, str]:
        return ("the screen" if self.following else "the history"), super().taken()[1]

    def on_resize(self) -> None:
        self._paint()

    # --- typing -----------------------------------------------------------------------------------------

    @property
    def typing(self) -> bool:
        """Whether keys go to the pane."""
        return self._typed is not None

    def begin_typing(self, leave: frozenset[str]) -> asyncio.Queue[bytes | None]:
        """Until :meth:`end_typing` keys are bytes in this queue; those of ``leave`` ask for the end."""
        self._typed, self._leave = asyncio.Queue(), leave
        self._was_at = None if self.following else self.scroll_offset.y
        self.action_bottom()
        return self._typed

    def leave(self) -> None:
        """After what was typed until now, the end."""
        if self._typed is not None:
            self._typed.put_nowait(None)

    def end_typing(self, *, meant: bool) -> None:
        """Back to where the operator was; unless they meant it, they are not heard for a moment."""
        self._typed = None
        self._deaf_until = 0.0 if meant else monotonic() + DEAF_S
        if self._was_at is not None:
            self._stop_following(at=self._was_at)
        self._paint()

    def on_key(self, event: events.Key) -> None:
        if self._typed is None and monotonic() >= self._deaf_until:
            return
        event.stop()
        event.prevent_default()
        if self._typed is None:
            return
        if event.key in self._leave:
            self.post_message(self.HandBackAsked())
        elif sent := key_bytes(event.key, event.character):
            self._typed.put_nowait(sent)

    def on_paste(self, event: events.Paste) -> None:
        if self._typed is not None:
            event.stop()
            self._typed.put_nowait(paste_bytes(event.text))

    # --- history ----------------------------------------------------------------------------------------

    async def _read_history(self, at: int | None) -> None:
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
        to = max(0, len(rows) - 2 * self.size.height) if at is None else at
        self.scroll_to(y=to, animate=False, force=True)  # its scrollbar does not show yet

    def _stop_following(self, at: int | None = None) -> bool:
        """True if it was following until now; the history is then on its way, from its end or from ``at``."""
        if not self.following:
            return False
        self.following = False
        self.run_worker(self._read_history(at), group="history", exclusive=True)
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


def _slot_from(at: float) -> float:
    """The first time from ``at`` on that has room for one more terminal."""
    if at > PaneView._slot + APART_S:
        PaneView._slot, PaneView._in_slot = at, 0
    elif at > PaneView._slot or PaneView._in_slot == TOGETHER:
        PaneView._slot, PaneView._in_slot = PaneView._slot + APART_S, 0
    PaneView._in_slot += 1
    return PaneView._slot


def with_cursor(runs: Line, column: int) -> Line:
    """The line with the cell at ``column`` turned round."""
    drawn: list[tuple[str, Style]] = []
    at = 0
    for text, role in runs:
        style = role if isinstance(role, Style) else Style()
        for each in text:
            width = cell_len(each)
            here = at <= column < at + width
            drawn.append((each, replace(style, reverse=not style.reverse) if here else style))
            at += width
    if at <= column:
        drawn.append((" " * (column - at), Style()))
        drawn.append((" ", Style(reverse=True)))
    return tuple(drawn)
