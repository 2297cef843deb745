"""Work that outlives its request."""

from __future__ import annotations

import asyncio

from backend.background import Background


async def test_a_failure_reaches_its_handler_and_harms_nobody() -> None:
    heard: list[str] = []
    told = asyncio.Event()

    async def bad() -> None:
        raise ValueError("no")

    async def failed(error: Exception) -> None:
        heard.append(str(error))
        told.set()

    async with Background() as background:
        background.start("bad", bad, failed=failed)
        async with asyncio.timeout(5):
            await told.wait()
    assert heard == ["no"]


async def test_one_name_runs_once_at_a_time() -> None:
    begun = 0
    gate = asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        await gate.wait()

    async with Background() as background:
        background.start("work", work)
        background.start("work", work)
        await asyncio.sleep(0)
        gate.set()
    assert begun == 1


async def test_leaving_cancels_and_waits() -> None:
    ended = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Background() as background:
        background.start("forever", forever)
        await asyncio.sleep(0)
    assert ended.is_set()
