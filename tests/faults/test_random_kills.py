"""kill -9 at a hundred random moments, while two agents work: after each one everything agrees again."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter

import pytest

from backend.client import Fluid
from backend.errors import BackendDown, FluidError
from tests.faults.world import World

KILLS = 100
AGENTS = 2
BOXES_MAX, POINTS_MAX = 3, 3
PAUSE_S = (0.1, 5.0)


class Agent:
    """Does something, and again, until the backend dies under it. ``doing`` is what it was at then."""

    def __init__(self, world: World, number: int, chance: random.Random) -> None:
        self._fluid = Fluid(world.stage.paths.operator_socket)
        self._mark = f"a{number}-"
        self._chance = chance
        self.doing = ""
        self.done: Counter[str] = Counter()

    def work(self) -> None:
        while True:
            try:
                self._something()
            except BackendDown:
                return
            except FluidError:
                continue  # the other agent was first, or the backend is about to die
            self.done[self.doing] += 1

    def _something(self) -> None:
        self.doing = "looking"
        boxes = [row for row in self._fluid.fleet().sandboxes if row.sandbox_name.startswith(self._mark)]
        name = f"{self._mark}{self._chance.randrange(10**9)}"
        if not boxes or (len(boxes) < BOXES_MAX and self._chance.random() < 0.25):
            self.doing = "create"
            self._fluid.create(self._fluid.sources()[0].name, agent_id="faults", name=name)
            return
        box = self._chance.choice(boxes)
        points = [point.name for point in self._fluid.snapshots(box.id)]
        acts = ["run", "destroy" if len(boxes) > 1 else "run"]
        acts += ["snapshot"] * 2 if len(points) < POINTS_MAX else []
        acts += ["restore", "forget"] if points else []
        acts += ["branch"] if points and len(boxes) < BOXES_MAX else []
        self.doing = self._chance.choice(acts)
        point = self._chance.choice(points) if points else ""
        match self.doing:
            case "run":
                self._fluid.run(box.id, "date >>/root/log; sync")
            case "destroy":
                self._fluid.destroy(box.id)
            case "snapshot":
                self._fluid.snapshot(box.id, name)
            case "restore":
                self._fluid.restore(box.id, point)
            case "forget":
                self._fluid.delete_snapshot(box.id, point)
            case "branch":
                self._fluid.branch(box.id, point, vm_name=name)


@pytest.mark.full
async def test_a_hundred_kills_at_random_moments_lose_and_leak_nothing(empty_world: World) -> None:
    world = empty_world
    seed = int(os.environ.get("FLUID_TEST_SEED", "7"))
    chance = random.Random(seed)
    killed_at: Counter[str] = Counter()
    done: Counter[str] = Counter()
    for number in range(KILLS):
        agents = [Agent(world, one, random.Random(chance.random())) for one in range(AGENTS)]
        at_work = [asyncio.create_task(asyncio.to_thread(agent.work)) for agent in agents]
        await asyncio.sleep(chance.uniform(*PAUSE_S))
        killed_at.update(agent.doing for agent in agents)
        await world.stage.kill()
        await asyncio.gather(*at_work)
        await world.start()
        try:
            await world.agree()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, kill {number}, at {[one.doing for one in agents]}") from error
        for agent in agents:
            done += agent.done
    print(f"seed {seed}: {KILLS} kills at {dict(killed_at)}; done between them: {dict(done)}")
