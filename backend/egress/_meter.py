"""What one sandbox has used of its bytes, its rate and its connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Exhausted(Exception):
    """The sandbox's bytes are used up."""


class Meter:
    """One sandbox's account. ``rate_bytes_s`` is held on average, with a burst of one second."""

    def __init__(
        self, limit_bytes: int, rate_bytes_s: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.used = 0  # bytes, both directions
        self.connections = 0
        self.told = False  # on record: the bytes are used up
        self._limit = limit_bytes
        self._rate = rate_bytes_s
        self._clock = clock
        self._credit = float(rate_bytes_s)
        self._at = clock()

    @property
    def exhausted(self) -> bool:
        return self.used >= self._limit

    def debt_s(self, size: int) -> float:
        """Book ``size`` bytes; the seconds to wait before more may pass.

        Raises:
            Exhausted: they do not fit into the limit any more.
        """
        if self.used + size > self._limit:
            self.used = self._limit
            raise Exhausted
        self.used += size
        now = self._clock()
        self._credit = min(self._credit + (now - self._at) * self._rate, float(self._rate)) - size
        self._at = now
        return max(0.0, -self._credit / self._rate)

    def charge(self, size: int) -> None:
        """Book ``size`` bytes as far as they fit, of what is over already."""
        self.used = min(self.used + size, self._limit)

    async def spend(self, size: int) -> None:
        """Book ``size`` bytes and wait as long as the rate asks."""
        if wait_s := self.debt_s(size):
            await asyncio.sleep(wait_s)
