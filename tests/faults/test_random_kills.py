"""kill -9 at a hundred random moments, while two agents work: after each one everything agrees again."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backend.client import Fluid
from backend.errors import BackendDown, FluidError
from backend.models import Sandbox
from tests.faults.world import World

KILLS = 100
AGENTS = 2
BOXES_MAX, POINTS_MAX = 3, 3
PAUSE_S = (0.1, 5.0)
LOOK = "pgrep -cx sleep; cat /root/log 2>/dev/null; true"
WRITE = "pgrep -x sleep || (setsid sleep infinity </dev/null >/dev/null 2>&1 &); echo {} >>/root/log; sync"
Log = tuple[str, ...]


class Ledger:
    """What one agent's machines and their snapshots may hold: several logs, while nobody knows whether what
    was cut off was done.
    """

    def __init__(self) -> None:
        self.boxes: dict[str, set[Log]] = {}  # by name
        self.points: dict[str, set[Log]] = {}  # names are used once

    @contextmanager
    def may(self, logs: dict[str, set[Log]], name: str, after: set[Log]) -> Iterator[None]:
        """What is there after the block; if it fails, that or what was there before it."""
        before = logs.get(name, set())
        logs[name] = before | after
        yield
        logs[name] = after

    def read(self, name: str, printed: str) -> None:
        """As :data:`LOOK` shows it. A process that was begun there lives on, in each snapshot too."""
        alive, *log = printed.split("\n")[:-1]
        assert tuple(log) in self.boxes[name], f"{name} has {log}, not one of {self.boxes[name]}"
        assert alive != "0" or not log, f"no process is alive in {name}, which has {log}"
        self.boxes[name] = {tuple(log)}


class Agent:
    """Does something, and again, until the backend dies under it. ``doing`` is what it was at then."""

    def __init__(self, world: World, number: int, chance: random.Random, ledger: Ledger) -> None:
        self._fluid = Fluid(world.stage.paths.operator_socket)
        self._mark = f"a{number}-"
        self._chance = chance
        self._ledger = ledger
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
        boxes, ledger = self._boxes(), self._ledger
        name = f"{self._mark}{self._chance.randrange(10**9)}"
        if not boxes or (len(boxes) < BOXES_MAX and self._chance.random() < 0.25):
            self.doing = "create"
            with ledger.may(ledger.boxes, name, {()}):
                self._fluid.create(self._fluid.sources()[0].name, agent_id="faults", name=name)
            return
        box = self._chance.choice(boxes)
        held = ledger.boxes[box.sandbox_name]
        points = [point.name for point in self._fluid.snapshots(box.id)]
        acts = ["run", "destroy" if len(boxes) > 1 else "run"]
        acts += ["snapshot"] * 2 if len(points) < POINTS_MAX else []
        acts += ["restore", "forget"] if points else []
        acts += ["branch"] if points and len(boxes) < BOXES_MAX else []
        self.doing = self._chance.choice(acts)
        point = self._chance.choice(points) if points else ""
        match self.doing:
            case "run":
                self._look(box)
                held = ledger.boxes[box.sandbox_name]
                with ledger.may(ledger.boxes, box.sandbox_name, {(*log, name) for log in held}):
                    self._fluid.run(box.id, WRITE.format(name))
            case "destroy":
                self._fluid.destroy(box.id)
            case "snapshot":
                ledger.points[name] = held
                self._fluid.snapshot(box.id, name)
            case "restore":
                with ledger.may(ledger.boxes, box.sandbox_name, ledger.points[point]):
                    self._fluid.restore(box.id, point)
            case "forget":
                self._fluid.delete_snapshot(box.id, point)
            case "branch":
                with ledger.may(ledger.boxes, name, ledger.points[point]):
                    self._fluid.branch(box.id, point, vm_name=name)

    def _boxes(self) -> list[Sandbox]:
        return [row for row in self._fluid.fleet().sandboxes if row.sandbox_name.startswith(self._mark)]

    def _look(self, box: Sandbox) -> None:
        done = self._fluid.run(box.id, LOOK)
        assert done.exit_code == 0, done
        self._ledger.read(box.sandbox_name, done.stdout)

    def look_at_all(self) -> int:
        """Each machine, and each of its snapshots, holds what it must. How many snapshots there were."""
        seen = 0
        for box in self._boxes():
            self._look(box)
            for point in self._fluid.snapshots(box.id):
                self._fluid.restore(box.id, point.name)
                self._ledger.boxes[box.sandbox_name] = self._ledger.points[point.name]
                self._look(box)
                seen += 1
        return seen


@pytest.mark.full
async def test_a_hundred_kills_at_random_moments_lose_and_leak_nothing(empty_world: World) -> None:
    world = empty_world
    seed = int(os.environ.get("FLUID_TEST_SEED", "7"))
    chance = random.Random(seed)
    killed_at: Counter[str] = Counter()
    done: Counter[str] = Counter()
    ledgers = [Ledger() for _ in range(AGENTS)]
    for number in range(KILLS):
        agents = [
            Agent(world, one, random.Random(chance.random()), ledger) for one, ledger in enumerate(ledgers)
        ]
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
    seen = sum([await asyncio.to_thread(agent.look_at_all) for agent in agents])
    print(
        f"seed {seed}: {KILLS} kills at {dict(killed_at)}; done between them: {dict(done)}; {seen} snapshots"
    )
