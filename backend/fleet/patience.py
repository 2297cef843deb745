"""A question to somebody who may hang: all who ask share it; once it is known to be silent nobody waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from backend.errors import TimedOut

T = TypeVar("T")


class Asked(Generic[T]):
    """``ask`` has a time limit of its own, longer than ``limit_s``: that is how long anybody waits."""

    def __init__(self, ask: Callable[[], Awaitable[T]], limit_s: float) -> None:
        self._ask = ask
        self._limit_s = limit_s
        self._asking: asyncio.Task[T] | None = None
        self._until = 0.0  # time.monotonic(); what comes later is late, and nobody waits longer
        self._silent = False

    async def answer(self, *, patient: bool = False) -> T:
        """Its answer, to a question that may be under way already. While it is silent the question goes on by
        itself, and only who is ``patient`` waits for it.

        Raises:
            TimeoutError: it does not answer soon.
        """
        if self._asking is None or self._asking.done():
            self._until = time.monotonic() + self._limit_s
            self._asking = asyncio.create_task(self._until_prompt())
            self._asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        asking = self._asking
        wait_s = self._limit_s if patient else 0.0 if self._silent else self._until - time.monotonic()
        await asyncio.wait([asking], timeout=max(wait_s, 0.0))
        if not asking.done() or asking.cancelled():
            self._silent = True
            raise TimeoutError
        return asking.result()

    async def _until_prompt(self) -> T:
        """A late answer shows that it is there, not that it is quick: it is asked again."""
        while True:
            try:
                found = await self._ask()
            except TimedOut:
                self._silent = True
                raise
            except Exception:
                self._silent = False
                raise
            self._silent = time.monotonic() > self._until
            if not self._silent:
                return found
            self._until = time.monotonic() + self._limit_s

    def close(self) -> None:
        """Nobody asks any more."""
        if self._asking:
            self._asking.cancel()
