"""Whose turn it is: as many creates at once as a host carries, the others in the order in which they came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

USUAL_S = 3.0  # what one takes, before the first was timed
NEWEST_SHARE = 0.3  # of the running mean


@dataclass(frozen=True)
class Place:
    """A place in the queue: how many are before it, and about how long that takes."""

    before: int
    about_s: float

    def __str__(self) -> str:
        return f"{self.before} before it, about {self.about_s:.0f} s"


Told = Callable[[Place], Awaitable[object]]


class Turns:
    """``async with turns.turn(told): …``; ``told`` hears each new place while the caller waits."""

    def __init__(self) -> None:
        self.at_once = 1
        self.under_way = 0
        self._waiting: list[asyncio.Event] = []
        self._took_s = USUAL_S

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def turn(self, told: Told) -> AsyncIterator[None]:
        """Held for the block. What it takes makes the estimate of those who wait."""
        await self._wait(told)
        self.under_way += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self.under_way -= 1
            self._took_s += NEWEST_SHARE * (time.monotonic() - began - self._took_s)
            self._moved()

    async def _wait(self, told: Told) -> None:
        moved = asyncio.Event()
        self._waiting.append(moved)
        try:
            while not self._next(moved):
                await told(self._place(moved))
                await moved.wait()
                moved.clear()
        finally:
            self._waiting.remove(moved)
            self._moved()

    def _next(self, mine: asyncio.Event) -> bool:
        return self._waiting[0] is mine and self.under_way < self.at_once

    def _place(self, mine: asyncio.Event) -> Place:
        before = self._waiting.index(mine)
        rounds = (before + self.under_way) // self.at_once
        return Place(before, max(rounds, 1) * self._took_s)

    def _moved(self) -> None:
        for event in self._waiting:
            event.set()
