"""Work that outlives the request that began it. One task group, one rule: a failure is logged, never lost,
and never takes the backend down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Background:
    """A supervised set of tasks. ``async with`` it; leaving cancels what still runs and waits for it."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

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
        work: Callable[[], Coroutine[Any, Any, object]],
        *,
        failed: Callable[[Exception], Coroutine[Any, Any, object]] | None = None,
    ) -> None:
        """Run ``work()``, unless one of that name is under way. ``failed`` hears an error."""
        if name not in self._tasks:
            task = asyncio.create_task(self._guard(name, work, failed), name=name)
            self._tasks[name] = task
            task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def stop(self, name: str) -> None:
        """Cancel the task of this name, if one is under way, and wait for its end."""
        if task := self._tasks.get(name):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _guard(
        self,
        name: str,
        work: Callable[[], Coroutine[Any, Any, object]],
        failed: Callable[[Exception], Coroutine[Any, Any, object]] | None,
    ) -> None:
        try:
            await work()
        except Exception as error:
            log.exception("%s failed", name)
            if failed is not None:
                await failed(error)
