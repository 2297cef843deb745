"""A world to kill backends in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from backend.images import Images
from backend.paths import Paths
from tests.bench.stage import Stage
from tests.faults.world import World

LIMITS = {"sandboxes_per_owner": 50}


@pytest.fixture(scope="module")
async def empty_world() -> AsyncIterator[World]:
    """A backend without sandboxes, and foreign domains beside it."""
    cache = Paths.default()
    await Images(cache.images).build(progress=lambda _: None)
    async with Stage(cache.cache) as stage:
        world = World(stage, limits=LIMITS)
        world.configure()
        await world.settle_foreign()
        await world.start()
        try:
            yield world
        finally:
            world.remove_foreign()
