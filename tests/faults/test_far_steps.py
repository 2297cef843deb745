"""kill -9 at each step of what changes a sandbox of another host: what holds here holds there."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from backend.images import Images
from backend.paths import Paths
from tests.bench.stage import Stage
from tests.faults.conftest import LIMITS
from tests.faults.test_every_step import (
    ACTS,
    MOVE_STEPS,
    STEPS,
    STOCK_STEPS,
    cut_move_off,
    cut_off,
    cut_stock_off,
    settle,
)
from tests.faults.world import FarWorld
from tests.fix_hosts import real_hosts

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
async def far_world() -> AsyncIterator[FarWorld]:
    """A backend whose only host is behind SSH, with one sandbox there that has a snapshot."""
    cache = Paths.default()
    await Images(cache.images).build(progress=lambda _: None)
    with real_hosts("far-1") as (far,):
        async with Stage(cache.cache) as stage:
            world = FarWorld(stage, far, limits=LIMITS)
            world.configure()
            await world.settle_foreign()
            await world.start()
            await settle(world)
            yield world


@pytest.mark.parametrize(
    ("operation", "step"), [(name, step) for name in ACTS for step in STEPS[name]], ids=lambda word: word
)
async def test_a_kill_at_any_step_there_leaves_the_thing_whole_or_nothing(
    far_world: FarWorld, operation: str, step: str
) -> None:
    await cut_off(far_world, operation, step)


@pytest.mark.parametrize("step", STOCK_STEPS)
async def test_stock_there_is_never_handed_out_twice_and_never_half_made(
    far_world: FarWorld, step: str
) -> None:
    await cut_stock_off(far_world, step)


@pytest.mark.parametrize("step", MOVE_STEPS)
async def test_stock_there_that_goes_to_the_disk_and_back_is_whole_or_gone(
    far_world: FarWorld, step: str
) -> None:
    await cut_move_off(far_world, step)
