"""Work that outlives the request that began it. One task group, one rule: a failure is logged, never lost,
and never takes the backend down.

A duty is kept: it is begun again, after growing pauses, until it returns. What it failed of is logged once
and told in health until it works again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from backend.errors import DatabaseDown, FluidError, GuestDown, HypervisorDown, NoSpace, PanicActive
from backend.models import Component, now

log = logging.getLogger(__name__)

Work = Callable[[], Coroutine[Any, Any, object]]
PAUSE_FIRST_S = 1.0
AWAY_PAUSE_S = 2.0
PAUSE_MAX_S = 60.0
STEADY_S = 300.0  # a duty that ran so long after its failure works again
TURN_S = 5.0
COMPONENT = "duties"
# Told of by the part that is away itself, or by the panic.
AWAY = (DatabaseDown, HypervisorDown, GuestDown, NoSpace, PanicActive)


@dataclass(frozen=True)
class Chore:
    """Work of the housekeeping, due again ``every_s`` seconds after it was done, or after a turn."""

    name: str
    work: Callable[[], Awaitable[object]]
    every_s: float = 0.0


@dataclass(frozen=True)
class Trouble:
    """What a duty last failed of. ``words`` are for the log; what nobody foresaw may hold anything, so health
    has its kind alone."""

    words: str
    shown: str
    is_told: bool
    since: datetime
    at: datetime
    times: int = 1


class Background:
    """A supervised set of tasks. ``async with`` it; leaving cancels what still runs and waits for it."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._troubles: dict[str, Trouble] = {}

    async def __aenter__(self) -> Background:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def running(self, name: str) -> bool:
        """Whether a task of this name is under way."""
        return name in self._tasks

    def start(
        self,
        name: str,
        work: Work,
        *,
        failed: Callable[[Exception], Coroutine[Any, Any, object]] | None = None,
    ) -> None:
        """Run ``work()``, unless one of that name is under way. ``failed`` hears an error."""
        self._begin(name, partial(self._guard, name, work, failed))

    def keep(self, name: str, work: Work) -> None:
        """Run ``work()`` until it returns, unless one of that name is under way: after a failure again."""
        self._begin(name, partial(self._keep, name, work))

    async def stop(self, name: str) -> None:
        """Cancel the task of this name, if one is under way, and wait for its end."""
        if task := self._tasks.get(name):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._troubles.pop(name, None)

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """One turn of a loop that goes on, whatever happens in the block: a failure is for the log and for
        health, until a turn of that name succeeds."""
        try:
            yield
        except Exception as error:
            self._failed(name, error)
        else:
            self._troubles.pop(name, None)

    async def keep_house(self, chores: Iterable[Chore]) -> None:
        """Each when it is due, without end and however long another takes."""
        async with asyncio.TaskGroup() as group:
            for chore in chores:
                group.create_task(self._again_and_again(chore), name=chore.name)

    async def _again_and_again(self, chore: Chore) -> None:
        """One that failed is due again after a turn."""
        pause_s = TURN_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = TURN_S
            with self.turn(chore.name):
                await chore.work()
                pause_s = max(chore.every_s, TURN_S)

    async def component(self) -> Component:
        """Health: whether what runs by itself does."""
        recently = now() - timedelta(seconds=STEADY_S)
        told = [
            f"{name} failed {one.times} times since {one.since:%H:%M:%S} UTC: {one.shown}"
            for name, one in self._troubles.items()
            if one.is_told and one.at > recently
        ]
        if not told:
            return Component(name=COMPONENT, status="ok", message="everything that runs by itself does")
        return Component(
            name=COMPONENT,
            status="degraded",
            message="; ".join(told),
            remedy="it is tried again by itself; the backend's log has the whole of it",
        )

    def _begin(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if (old := self._tasks.get(name)) and not old.done():
            return
        task = asyncio.create_task(work(), name=name)
        self._tasks[name] = task
        task.add_done_callback(partial(self._ended, name))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]

    async def _guard(
        self,
        name: str,
        work: Work,
        failed: Callable[[Exception], Coroutine[Any, Any, object]] | None,
    ) -> None:
        try:
            await work()
        except Exception as error:
            log.exception("%s failed", name)
            if failed is not None:
                await failed(error)

    async def _keep(self, name: str, work: Work) -> None:
        loop, pause_s = asyncio.get_running_loop(), PAUSE_FIRST_S
        while True:
            began = loop.time()
            try:
                await asyncio.create_task(work())  # one of its own: see backend/together.py
            except (DatabaseDown, HypervisorDown) as error:  # one that is back is not made to wait
                self._failed(name, error)
                await asyncio.sleep(AWAY_PAUSE_S)
                continue
            except Exception as error:
                self._failed(name, error)
            else:
                self._troubles.pop(name, None)
                return
            if loop.time() - began > STEADY_S:
                pause_s = PAUSE_FIRST_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    def _failed(self, name: str, error: Exception) -> None:
        """The same failure again is counted, and logged no more."""
        foreseen = isinstance(error, FluidError)
        words = error.message if isinstance(error, FluidError) else repr(error)
        before = self._troubles.get(name)
        if before and before.words == words:
            self._troubles[name] = replace(before, at=now(), times=before.times + 1)
            return
        shown = words if foreseen else type(error).__name__
        self._troubles[name] = Trouble(words, shown, not isinstance(error, AWAY), now(), now())
        if foreseen:
            log.warning("%s waits: %s", name, words)
        else:
            log.error("%s failed, and is tried again", name, exc_info=error)
