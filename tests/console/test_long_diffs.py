"""Diffs that are long, or made to be: the keys go on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import thread_time

import pytest

from backend.models import Changes, ChangeVerb, FileChange
from tests.console.fake_backend import FakeBackend
from tests.console.sample import _file

LAID_OUT_S = 120
"""On a machine with ten times more work than processors."""
STALL_S = 3.0
"""Of a processor, in one turn: it is a tenth of that where the processor is not shared, and was 11."""


def _changes(backend: FakeBackend, old: str, new: str) -> Changes:
    one = FileChange(
        path="/srv/data/long.conf", verb=ChangeVerb.MODIFIED, before=_file(old), after=_file(new)
    )
    return backend.changed.model_copy(update={"files": [one], "packages": [], "units": [], "users": []})


HONEST = (
    "".join(f"line {number} = value {number * 7} some words\n" for number in range(50_000)),
    "".join(
        f"line {number} = value {number * 7 + (number % 4 == 0)} some words\n" for number in range(50_000)
    ),
)
HOSTILE = (
    "".join("a," * 195 + f"{number}\n" for number in range(900)),
    "".join(",a" * 98 + "b," * 98 + f"{number}\n" for number in range(900)),
)


@asynccontextmanager
async def _watched() -> AsyncIterator[list[float]]:
    """What each turn of the loop cost its thread, in seconds of a processor; the dearest last."""
    gaps = [0.0]

    async def beat() -> None:
        before = thread_time()
        while True:
            await asyncio.sleep(0.01)
            gaps.append(thread_time() - before)
            before = thread_time()

    task = asyncio.create_task(beat())
    try:
        yield gaps
    finally:
        task.cancel()
        gaps.sort()


@pytest.mark.parametrize("key", ["d", "enter"])
@pytest.mark.parametrize("texts", [HONEST, HOSTILE], ids=["honest", "hostile"])
async def test_no_diff_holds_up_the_keys(console, key: str, texts: tuple[str, str]) -> None:
    backend = FakeBackend()
    backend.changed = _changes(backend, *texts)
    async with console(backend=backend) as seen:
        async with _watched() as gaps:
            await seen.press(key)
            async with asyncio.timeout(LAID_OUT_S):
                while texts[1][:14] not in seen.text():
                    await asyncio.sleep(0.1)
            await seen.press("g")
            await seen.pilot.resize_terminal(90, 30)
            await seen.pilot.pause(1)
        assert gaps[-1] < STALL_S, gaps[-4:]
