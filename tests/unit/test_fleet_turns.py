"""The queue of creates: how many at once, in which order, and what those who wait are told."""

from __future__ import annotations

import asyncio

import pytest

from backend.fleet.turns import USUAL_S, Place, Turns


class Work:
    """Creates that end when they are let go."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.begun: list[int] = []
        self.told: dict[int, list[Place]] = {}
        self.let_go: dict[int, asyncio.Event] = {}

    async def one(self, number: int) -> None:
        async def told(place: Place) -> None:
            self.told.setdefault(number, []).append(place)

        self.let_go[number] = asyncio.Event()
        async with self.turns.turn(told):
            self.begun.append(number)
            await self.let_go[number].wait()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_as_many_as_the_host_carries_and_the_rest_in_order() -> None:
    turns = Turns()
    turns.at_once = 2
    work = Work(turns)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work.one(number)) for number in range(5)]
        await settled()
        assert work.begun == [0, 1] and (turns.under_way, turns.waiting) == (2, 3)
        assert [place.before for place in work.told[4]] == [2]
        assert work.told[2][0].about_s == USUAL_S and work.told[4][0].about_s == 2 * USUAL_S
        work.let_go[1].set()
        await settled()
        assert work.begun == [0, 1, 2]
        assert [place.before for place in work.told[4]] == [2, 1]
        tasks[3].cancel()  # who gives up makes room for those behind
        await settled()
        assert [place.before for place in work.told[4]] == [2, 1, 0]
        for number in (0, 2, 4):
            work.let_go[number].set()
            await settled()
    assert work.begun == [0, 1, 2, 4] and (turns.under_way, turns.waiting) == (0, 0)


async def test_one_that_fails_gives_its_turn_back() -> None:
    turns = Turns()
    work = Work(turns)
    with pytest.raises(ZeroDivisionError):
        async with turns.turn(lambda place: settled()):
            raise ZeroDivisionError
    task = asyncio.create_task(work.one(1))
    await settled()
    assert work.begun == [1]
    work.let_go[1].set()
    await task
