"""Keys one after the other: the next has its turn when all that the one before set off has happened.

Textual 8.2.8 gives each key to what has the focus when it arrives. A burst (a stalled line, a script) would
go to the list although its first key opens a field: ``:stop`` would take a snapshot and open a terminal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from textual import events
from textual.app import App
from textual.dom import DOMNode

Handle = Callable[[events.Event], Awaitable[None]]

ROUNDS = 3
"""A key may lead to a message and that to another: Input.Submitted, then FilterField.Kept."""
LOST_S = 1.0
"""Whoever was removed with the key in its queue passes it on no more."""


class Turns:
    """The keys of one app that wait."""

    def __init__(self, app: App[Any]) -> None:
        self._app = app
        self._waiting: deque[tuple[events.Event, Handle]] = deque()
        self._number = 0
        self._busy = False

    @property
    def busy(self) -> bool:
        """Whether what a key set off may still go on."""
        return self._busy

    async def take(self, event: events.Event, handle: Handle) -> None:
        """``handle`` this key now, or when it is its turn."""
        self._waiting.append((event, handle))
        if not self._busy:
            await self._next()
        elif len(self._waiting) == 1:
            self._watch(self._number)

    async def _next(self) -> None:
        self._number += 1
        self._busy = bool(self._waiting)
        if not self._waiting:
            return
        event, handle = self._waiting.popleft()
        target = self._app.focused or self._app.screen
        await handle(event)
        self._follow(target, self._number, ROUNDS)
        if self._waiting:
            self._watch(self._number)

    def _follow(self, node: DOMNode | None, number: int, rounds: int) -> None:
        """Behind the key in the queue of everyone whom it goes through, up to the app, which acts on it."""
        if number != self._number:
            return
        if (
            node is None
            or node is self._app
            or not node.call_later(self._follow, node.parent, number, rounds)
        ):
            self._app.call_later(self._round, number, rounds - 1)

    async def _round(self, number: int, left: int) -> None:
        if left:
            self._follow(self._app.focused or self._app.screen, number, left)
        else:
            await self._over(number)

    async def _over(self, number: int) -> None:
        if number == self._number:
            await self._next()

    def _watch(self, number: int) -> None:
        self._app.set_timer(LOST_S, lambda: self._over(number))
