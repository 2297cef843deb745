"""kill -9 at each step of what changes a sandbox: the next start finishes or undoes it, nothing is left over.

The steps are those that the program marks (backend/steps.py); a test sees that none is forgotten here.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.client import Fluid
from backend.errors import FluidError, SandboxNotFound
from backend.hypervisor.merging import MANY_LAYERS
from backend.models import Sandbox
from tests.faults.world import World
from tests.processes import qemu_of

CHECKOUT = Path(__file__).parents[2]
MAKING = ("row", "identity made", "claimed", "overlay", "memory", "running", "defined", "identity")
LAST = ("login", "egress", "ready")
STEPS = {
    "create": (*MAKING, "filter", *LAST),
    "branch": (*MAKING[:3], "layers", *MAKING[3:], *LAST),
    "snapshot": ("ahead", "marked", "overlay", "frozen", "taken", "thawed", "manifest", "row", "done"),
    "restore": ("ahead", "overlay", "off", "disk changed", "memory", "running", "defined", "awake", "done"),
    "merge": ("merging", "merged", "merged away"),
    "forget": ("ahead", "memory gone", "row gone", "done"),
    "destroy": ("ahead", "domain gone", "files gone", "done"),
    "hand out": ("claimed row", "woken", "login", "ready"),
    "stock": ("overlay", "running", "defined", "ready"),
    "move": ("suspended", "recalled"),
    "rotate": ("next key", "taught", "old kept", "switched"),  # these two are cut off in tests/service/guests
    "revoke": ("next key", "revoked"),
}
STOCK_STEPS = [f"{name}.{step}" for name in ("stock", "hand out") for step in STEPS[name]]
MOVE_STEPS = ["move.suspended", "move.recalled", "hand out.recalled"]
STOCK = {"per_source": 1}
SHORT = {"per_source": 1, "memory_reserve_mb": 1 << 30}  # a petabyte
BOX, POINT = "steady", "before"


def make_box(fluid: Fluid, name: str) -> Sandbox:
    return fluid.create(source(fluid), agent_id="faults", name=name)


def source(fluid: Fluid) -> str:
    return fluid.sources()[0].name


def create(fluid: Fluid) -> None:
    make_box(fluid, "fresh")


def branch(fluid: Fluid) -> None:
    fluid.branch(id_of(fluid, BOX), POINT, vm_name="fresh")


def snapshot(fluid: Fluid) -> None:
    fluid.snapshot(id_of(fluid, BOX), "fresh")


def look(fluid: Fluid) -> None:
    fluid.diff(id_of(fluid, BOX), POINT)


def look_often(fluid: Fluid) -> None:
    """Until the next look finds too many layers."""
    domain = fluid.sandbox(id_of(fluid, BOX)).domain
    while layers_of(domain) < MANY_LAYERS:
        look(fluid)


def layers_of(domain: str) -> int:
    """How many layers the disk has that it runs on: its QEMU has them open."""
    (pid,) = qemu_of(domain)
    return len(
        {file for fd in Path(f"/proc/{pid}/fd").iterdir() if (file := fd.readlink()).suffix == ".qcow2"}
    )


def restore(fluid: Fluid) -> None:
    fluid.restore(id_of(fluid, BOX), POINT)


def forget(fluid: Fluid) -> None:
    fluid.delete_snapshot(id_of(fluid, BOX), "fresh")


def destroy(fluid: Fluid) -> None:
    fluid.destroy(id_of(fluid, "fresh"))


Act = Callable[[Fluid], None]
ACTS: dict[str, tuple[Act | None, Act]] = {
    "create": (None, create),
    "branch": (None, branch),
    "snapshot": (None, snapshot),
    "merge": (look_often, look),
    "restore": (None, restore),
    "forget": (snapshot, forget),
    "destroy": (create, destroy),
}
"""What must be there before, and what is cut off."""


BEFORE = "echo before >/root/what; (setsid sleep infinity </dev/null >/dev/null 2>&1 &); sync"
AFTER = "echo before >/root/what; echo after >>/root/what; sync"
NEW, AT_POINT, WHOLE = (0, ""), (1, "before\n"), (1, "before\nafter\n")


def holds(fluid: Fluid, id: str) -> tuple[int, str]:
    """How many of the processes that were begun before the snapshot are alive, and what the file has."""
    done = fluid.run(id, "pgrep -cx sleep; cat /root/what 2>/dev/null; true")
    assert done.exit_code == 0
    alive, _, what = done.stdout.partition("\n")
    return int(alive), what


def id_of(fluid: Fluid, name: str) -> str:
    return next(row.id for row in fluid.fleet().sandboxes if row.sandbox_name == name)


@pytest.fixture(scope="module")
async def world(empty_world: World) -> World:
    """With one sandbox that has a snapshot."""
    await settle(empty_world)
    return empty_world


async def settle(world: World) -> None:
    await asyncio.to_thread(make_box, world.fluid, BOX)
    box = id_of(world.fluid, BOX)
    await asyncio.to_thread(world.fluid.run, box, BEFORE)
    await asyncio.to_thread(world.fluid.snapshot, box, POINT)


def clear(world: World) -> None:
    """What the last one left, because it came as far as that."""
    for row in world.fluid.fleet().sandboxes:
        if row.sandbox_name == "fresh":
            world.fluid.destroy(row.id)
    steady = id_of(world.fluid, BOX)
    for point in world.fluid.snapshots(steady):
        if point.name == "fresh":
            world.fluid.delete_snapshot(steady, "fresh")


def test_each_step_that_the_program_marks_is_cut_off_here() -> None:
    marked = {
        name
        for file in (CHECKOUT / "backend").rglob("*.py")
        for name in re.findall(r'\breached\("([a-z ]+)"\)', file.read_text())
    }
    assert marked == {step for steps in STEPS.values() for step in steps}


@pytest.mark.full
@pytest.mark.parametrize(
    ("operation", "step"), [(name, step) for name in ACTS for step in STEPS[name]], ids=lambda word: word
)
async def test_a_kill_at_any_step_leaves_the_thing_whole_or_nothing(
    world: World, operation: str, step: str
) -> None:
    await cut_off(world, operation, step)


async def cut_off(world: World, operation: str, step: str) -> None:
    """The backend dies there; what the next one makes of it."""
    before, act = ACTS[operation]
    await world.start()
    if before:
        await asyncio.to_thread(before, world.fluid)
    await asyncio.to_thread(world.fluid.run, id_of(world.fluid, BOX), AFTER)
    await world.start(f"{operation}.{step}")
    with pytest.raises(FluidError):
        await asyncio.to_thread(act, world.fluid)
    assert await world.stage.died() == -9
    began = time.monotonic()
    await world.start()
    await world.agree()
    held = {row.sandbox_name: await asyncio.to_thread(holds, world.fluid, row.id) for row in world.rows()}
    assert held.pop(BOX) in ((WHOLE, AT_POINT) if operation == "restore" else (WHOLE,))
    assert held in ({}, {"fresh": AT_POINT if operation == "branch" else NEW})
    print(f"killed at {operation}.{step}: everything agrees {time.monotonic() - began:.1f} s after the start")
    await asyncio.to_thread(clear, world)
    await world.agree()


@pytest.mark.full
@pytest.mark.parametrize("step", STOCK_STEPS)
async def test_stock_is_never_handed_out_twice_and_never_half_made(world: World, step: str) -> None:
    await cut_stock_off(world, step)


async def cut_stock_off(world: World, step: str) -> None:
    """The backend dies while it makes stock or hands it out; what the next one makes of it."""
    world.configure(stock=STOCK)
    await world.start(step)
    if step.startswith("hand out"):
        await until_stock(world, in_memory=1)
        with pytest.raises(FluidError):
            await asyncio.to_thread(create, world.fluid)
    await it_goes_on(world)


@pytest.mark.full
@pytest.mark.parametrize("step", MOVE_STEPS)
async def test_stock_that_goes_to_the_disk_and_back_is_whole_or_gone(world: World, step: str) -> None:
    await cut_move_off(world, step)


async def cut_move_off(world: World, step: str) -> None:
    """The backend dies while stock goes to the disk or back."""
    world.configure(stock=STOCK)
    await world.start()
    await until_stock(world, in_memory=1)
    world.configure(stock=SHORT)
    if step == "move.suspended":
        await world.start(step)
    else:
        await world.start()
        await until_stock(world, on_disk=1)
        world.configure(stock=STOCK if step == "move.recalled" else SHORT)
        await world.start(step)
        if step == "hand out.recalled":
            with pytest.raises(FluidError):
                await asyncio.to_thread(create, world.fluid)
    await it_goes_on(world)


async def until_stock(world: World, *, in_memory: int = 0, on_disk: int = 0) -> None:
    def stock() -> tuple[int, int]:
        (host,) = world.fluid.hosts()
        return host.stock - host.stock_suspended, host.stock_suspended

    await asyncio.to_thread(world.until, lambda: stock() == (in_memory, on_disk))


async def it_goes_on(world: World) -> None:
    """The backend was killed: the next one has stock again, and gives none of it to two."""
    assert await world.stage.died() == -9
    world.configure(stock=STOCK)
    await world.start()
    await until_stock(world, in_memory=1)
    await world.agree()
    boxes = [await asyncio.to_thread(make_box, world.fluid, name) for name in ("fresh-a", "fresh-b")]
    who = [world.fluid.run(box.id, "cat /etc/machine-id").stdout for box in boxes]
    assert len({box.domain for box in boxes}) == len(set(who)) == 2
    world.configure()
    await world.start()
    for row in world.fluid.fleet().sandboxes:
        if row.sandbox_name.startswith("fresh"):
            try:
                await asyncio.to_thread(world.fluid.destroy, row.id)
            except SandboxNotFound:
                continue
    await until_stock(world)
    await world.agree()
