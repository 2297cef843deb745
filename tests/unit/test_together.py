"""Things at once: the results, the first failure, and a caller that can go on after it."""

from __future__ import annotations

import asyncio

import pytest

from backend.errors import NotFound
from backend.together import together


async def fails(error: Exception) -> None:
    await asyncio.sleep(0)
    raise error


async def test_results_come_in_order() -> None:
    assert await together(asyncio.sleep(0.01, "slow"), asyncio.sleep(0, "quick")) == ["slow", "quick"]


async def test_after_a_failure_a_time_limit_is_a_time_limit() -> None:
    with pytest.raises(ValueError, match="mine"):
        await together(fails(ValueError("mine")), asyncio.sleep(60))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_of_two_failures_the_one_that_says_what_to_do_is_raised() -> None:
    with pytest.raises(NotFound):
        await together(fails(ValueError()), fails(NotFound("no such thing", remedy="look")))


async def test_who_stops_waiting_ends_them() -> None:
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("long")

    waiting = asyncio.create_task(together(long(), long()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == ["long", "long"]
