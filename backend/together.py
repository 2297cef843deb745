"""Several things at once in a task of their own.

A task group that fails leaves the task that opened it counted as cancelled, and in early Python 3.11 (Debian
12 has 3.11.2) its next time limit then ends the task instead of raising TimeoutError. Whoever goes on after a
failure asks here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from backend.errors import FluidError


async def together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Their results in order. The first failure ends the others, and one that says what to do is the one that
    is raised."""
    return await asyncio.create_task(_all(work))


async def _all(work: tuple[Coroutine[Any, Any, Any], ...]) -> list[Any]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failures:
        known = (error for error in failures.exceptions if isinstance(error, FluidError))
        raise next(known, failures.exceptions[0]) from None
    return [task.result() for task in tasks]
