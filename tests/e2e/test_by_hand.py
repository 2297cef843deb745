"""What somebody does to a real sandbox past Fluid, with libvirt's calls as virsh makes them: its row says
what it is, why, and what to do; whoever listens is told; and it goes on, or goes away whole.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import libvirt
import pytest

from backend.client import AsyncFluid, Fluid
from backend.errors import SandboxNotFound, WrongState
from backend.models import Phase, Sandbox
from tests.fix_demo import Demo
from tests.leftovers import left_of
from tests.processes import qemu_of

LIMIT_S = 60
LOOK_S = 0.05
CLOCK_S = 5.0
CUT_OFF_AFTER_S = 1.0  # its identity is written back by then, emulated and on two busy processors


class Hands:
    """A sandbox, and libvirt's side of it."""

    def __init__(self, fluid: AsyncFluid, box: Sandbox, connection: libvirt.virConnect) -> None:
        self.fluid, self.box, self.connection = fluid, box, connection

    @property
    def domain(self) -> libvirt.virDomain:
        return self.connection.lookupByUUIDString(self.box.uuid)

    async def told(self, kind: str, act: Callable[[], object]) -> str:
        """The reason that the event of that kind tells after ``act``; its row says the same."""
        seq = (await self.fluid.fleet()).seq
        act()
        async with asyncio.timeout(LIMIT_S):
            async for event in self.fluid.events(seq):
                if (event.kind, event.id) == (kind, self.box.id):
                    row = await self.fluid.sandbox(self.box.id)
                    assert f"sandbox.{row.phase}" == kind and row.reason == event.data["reason"]
                    return row.reason
        raise AssertionError(f"no {kind}")

    async def until(self, holds: Callable[[], bool]) -> None:
        """What libvirt alone shows."""
        async with asyncio.timeout(LIMIT_S):
            while not holds():
                await asyncio.sleep(LOOK_S)

    async def is_running(self) -> None:
        """Its row says so, root's commands work, and its clock is right."""
        async with asyncio.timeout(LIMIT_S):
            while (await self.fluid.sandbox(self.box.id)).phase is not Phase.RUNNING:
                await asyncio.sleep(LOOK_S)
        done = await self.fluid.run(self.box.id, "date +%s")
        assert abs(int(done.stdout) - time.time()) < CLOCK_S

    def qemu(self) -> int:
        (pid,) = qemu_of(self.box.domain)
        return pid


@pytest.fixture
async def hands(demo: Demo, operator: Fluid) -> AsyncIterator[Hands]:
    """``operator``: the demo's backend runs."""
    async with AsyncFluid(demo.operator_socket) as fluid:
        (host,) = await fluid.hosts()
        connection = libvirt.open(host.uri)
        source = (await fluid.sources())[0].name
        box = await fluid.create(source, agent_id="e2e", name="by-hand")
        yield Hands(fluid, box, connection)
        with suppress(SandboxNotFound):
            await fluid.destroy(box.id)
        connection.close()


async def test_one_that_is_paused_undefined_and_killed_by_hand_goes_on_until_it_died(hands: Hands) -> None:
    fluid, box = hands.fluid, hands.box
    reason = await hands.told("sandbox.paused", lambda: hands.domain.suspend())
    assert reason.startswith("somebody paused it on local, not by Fluid")
    with pytest.raises(WrongState, match="not by Fluid"):
        await fluid.run(box.id, "true")
    await fluid.resume(box.id)
    await hands.is_running()

    hands.domain.undefine()
    await hands.until(lambda: bool(hands.domain.isPersistent()))
    await hands.is_running()

    reason = await hands.told("sandbox.error", lambda: os.kill(hands.qemu(), signal.SIGKILL))
    assert reason.startswith("its virtual machine died: it was killed or ended by itself")


async def test_one_that_is_switched_off_renamed_and_removed_by_hand_is_told_each_time(hands: Hands) -> None:
    reason = await hands.told("sandbox.stopped", lambda: hands.domain.destroy())
    assert reason == "somebody switched it off on local, not by Fluid"
    hands.domain.rename("somebodys-web-server")
    await hands.until(lambda: hands.domain.name() == hands.box.domain)
    row = await hands.fluid.sandbox(hands.box.id)
    assert (row.phase, row.reason) == (Phase.STOPPED, reason)
    reason = await hands.told("sandbox.error", lambda: hands.domain.undefine())
    assert reason == "its virtual machine is gone: somebody removed it on local, not by Fluid"
    await hands.fluid.destroy(hands.box.id)
    assert left_of(await hands.fluid.leftovers()) == []


@pytest.mark.full
async def test_one_that_is_cut_off_just_after_it_was_made_comes_back_as_itself(hands: Hands) -> None:
    await asyncio.sleep(CUT_OFF_AFTER_S)
    await hands.told("sandbox.stopped", lambda: hands.domain.destroy())
    await hands.fluid.start(hands.box.id)
    await hands.is_running()
    done = await hands.fluid.run(hands.box.id, "hostname; cat /etc/machine-id")
    assert done.stdout.split() == [hands.box.sandbox_name, hands.box.machine_id]
