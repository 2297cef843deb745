"""A new CA key, and every guest can still be logged in to: running, restored, branched, resumed, booted, from
stock and forked of a template that is older."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from backend.client import Fluid
from backend.client.blocking import FluidSandbox
from backend.images import Images
from backend.paths import Paths
from tests.bench.stage import Stage

KEYS = "cat /etc/ssh/fluid_ca.pub"
POINT = "before"
MADE_LIMIT_S = 120


@pytest.fixture
async def fluid() -> AsyncIterator[Fluid]:
    cache = Paths.default()
    await Images(cache.images).build(progress=lambda _: None)
    async with Stage(cache.cache, stock={"per_source": 1}) as stage:
        await stage.start()
        with Fluid(stage.paths.operator_socket) as fluid:
            yield fluid


@pytest.mark.full
async def test_guests_of_every_age_are_logged_in_to_with_the_new_key(fluid: Fluid) -> None:
    await asyncio.to_thread(grow_old, fluid)


def grow_old(fluid: Fluid) -> None:
    until(lambda: bool(fluid.hosts()[0].templates), "a template")  # its making is heavy where it is emulated
    source = fluid.sources()[0].name
    running, sleeper = (fluid.create_sandbox(source, agent_id="e2e", name=name) for name in ("run", "sleep"))
    before = trusted(running)
    running.snapshot(POINT)
    sleeper.pause()
    until(lambda: fluid.hosts()[0].stock == 1, "a parked fork")

    told = fluid.rotate_ca()
    assert told.old is not None and before == {told.old.public_key} and told.behind == []
    both = {told.old.public_key, told.current.public_key}
    assert trusted(running) == both

    running.restore(POINT)  # its memory and its disk know the old key alone
    assert trusted(running) == both
    branch = FluidSandbox(fluid, fluid.branch(running.id, POINT, vm_name="branch"))
    assert trusted(branch) == both
    sleeper.resume()
    assert trusted(sleeper) == both
    fluid.stop(sleeper.id)
    fluid.start(sleeper.id)
    assert trusted(sleeper) == both
    parked, fresh = (fluid.create_sandbox(source, agent_id="e2e", name=name) for name in ("parked", "fresh"))
    assert parked.noun.created_by == "stock"
    assert trusted(parked) == trusted(fresh) == both


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + MADE_LIMIT_S
    while not holds():
        assert time.monotonic() < deadline, f"never made: {what}"
        time.sleep(0.5)


def trusted(box: FluidSandbox) -> set[str]:
    done = box.run(KEYS)
    assert done.exit_code == 0, done.stderr
    return set(done.stdout.splitlines())
