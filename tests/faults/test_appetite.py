"""Sandboxes that want more than there is: a real backend and real guests, their disks on a file system that a
guest is able to fill.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import libvirt
import pytest

from backend.client import AsyncFluid
from backend.errors import InvalidValue, NoSpace, PolicyDenied, WrongState
from backend.images import Images
from backend.models import Event, Phase, Sandbox, now
from backend.paths import Paths
from tests.bench.stage import Stage

pytestmark = pytest.mark.full
DISK_MB, BALLAST_MB, RESERVE_MB = 5000, 1500, 500
ENOUGH_MB, WRITTEN_MB = 250, 2500  # what it may write before the reserve, and what it wants to
EVENT_LIMIT_S, READY_LIMIT_S = 120, 120
LOOK_LIMIT_S = 10
LOOK_S = 0.5  # nothing announces a template
DISK_GB = 12
IDLE_S = 15
WARN_S, LONGER_S = 85, 90
HOUR_S = 3600
GIB = 1024**3
GUESTS = {"expiry_warnings_s": [600, WARN_S]}
SIZES = "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo; cat /sys/block/vda/size; df -B1 --output=size /"


@dataclass(frozen=True)
class Lab:
    """A backend whose guests' disks are in ``folder``, a small file system."""

    stage: Stage
    fluid: AsyncFluid
    folder: Path

    async def restart(self, reserve_mb: int = RESERVE_MB, **guests: int) -> None:
        """Start the backend, one that runs killed, with other settings."""
        self.stage.configure(
            storage={"domains": str(self.folder / "domains")},
            limits={"disk_reserve_mb": reserve_mb, "ttl_max_s": 2 * HOUR_S},
            guests={**GUESTS, **guests},
        )
        await self.stage.start()

    def free_mb(self) -> int:
        return shutil.disk_usage(self.folder).free >> 20

    async def row(self, sandbox: Sandbox) -> Sandbox:
        return await self.fluid.sandbox(sandbox.id)

    async def told(self, kind: str, sandbox: Sandbox, after: int) -> Event:
        """The first event of that kind about it after number ``after``."""
        async with asyncio.timeout(EVENT_LIMIT_S):
            async for event in self.fluid.events(after):
                if (event.kind, event.id) == (kind, sandbox.id):
                    return event
        raise AssertionError(f"no {kind}")

    async def said(self, sandbox: Sandbox, command: str) -> list[str]:
        done = await self.fluid.run(sandbox.id, command)
        assert done.exit_code == 0, done.stderr
        return done.stdout.split()


@pytest.fixture(scope="module")
def small_disk() -> Iterator[Path]:
    """An ext4 of its own, with something in it that can be thrown away."""
    place = Path(tempfile.mkdtemp(prefix="fluid-small-"))
    place.chmod(0o711)
    disk, folder = place / "disk", place / "mounted"
    folder.mkdir()
    with disk.open("wb") as file:
        file.truncate(DISK_MB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, folder], check=True)
    folder.chmod(0o711)
    (folder / "domains").mkdir(mode=0o711)
    subprocess.run(["fallocate", "-l", f"{BALLAST_MB}M", folder / "ballast"], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        shutil.rmtree(place)


@pytest.fixture(scope="module")
async def lab(small_disk: Path) -> AsyncIterator[Lab]:
    cache = Paths.default()
    await Images(cache.images).build(progress=lambda _: None)
    async with Stage(cache.cache) as stage, AsyncFluid(stage.paths.operator_socket) as fluid:
        lab = Lab(stage, fluid, small_disk)
        await lab.restart()
        async with asyncio.timeout(READY_LIMIT_S):
            while not any(source.template_ready for source in await fluid.sources()):
                await asyncio.sleep(LOOK_S)
        yield lab


@pytest.fixture(scope="module")
async def quiet(lab: Lab) -> Sandbox:
    return await lab.fluid.create("debian-12", agent_id="faults", name="quiet")


@pytest.fixture(scope="module")
async def greedy(lab: Lab) -> Sandbox:
    return await lab.fluid.create(
        "debian-12", agent_id="faults", name="greedy", cpu=1, memory_mb=768, disk_gb=DISK_GB
    )


async def test_a_guest_sees_the_size_that_was_asked_for(lab: Lab, greedy: Sandbox) -> None:
    cpus, memory_kb, sectors, _, size = await lab.said(greedy, SIZES)
    assert cpus == "1" and 0.85 * 768 < int(memory_kb) / 1024 <= 768
    assert int(sectors) * 512 == DISK_GB * GIB
    assert 0.95 * DISK_GB * GIB < int(size) < DISK_GB * GIB
    assert (await lab.row(greedy)).disk_gb == DISK_GB
    with pytest.raises(InvalidValue, match="has 8 GB, 4 are asked for"):
        await lab.fluid.create("debian-12", agent_id="faults", disk_gb=4)
    with pytest.raises(PolicyDenied, match="disk-max"):
        await lab.fluid.create("debian-12", agent_id="faults", disk_gb=65)


async def test_the_size_outlives_a_cold_start_and_is_a_branch_s_too(lab: Lab, greedy: Sandbox) -> None:
    await lab.fluid.stop(greedy.id)
    await lab.fluid.start(greedy.id)
    assert (await lab.said(greedy, SIZES))[2] == str(DISK_GB * GIB // 512)
    await lab.fluid.snapshot(greedy.id, "point")
    branch = await lab.fluid.branch(greedy.id, "point", vm_name="branch")
    assert branch.disk_gb == DISK_GB
    sizes = await lab.said(branch, SIZES)
    assert int(sizes[2]) * 512 == DISK_GB * GIB and int(sizes[4]) > 0.95 * DISK_GB * GIB
    await lab.fluid.destroy(branch.id)
    await lab.fluid.delete_snapshot(greedy.id, "point")


async def test_guests_have_shares_of_the_processors_by_what_they_asked_for(
    lab: Lab, quiet: Sandbox, greedy: Sandbox
) -> None:
    connection = libvirt.open(lab.stage.libvirt)
    try:
        shares = [connection.lookupByName(one.domain).schedulerParameters() for one in (quiet, greedy)]
    finally:
        connection.close()
    assert [one["cpu_shares"] for one in shares] == [200, 100]


async def test_who_fills_the_disk_is_paused_and_everybody_is_told(
    lab: Lab, quiet: Sandbox, greedy: Sandbox
) -> None:
    reserve_mb = lab.free_mb() - ENOUGH_MB
    await lab.restart(reserve_mb)
    seq = (await lab.fluid.fleet()).seq
    write = f"dd if=/dev/zero of=/root/big bs=1M count={WRITTEN_MB}"
    await lab.said(greedy, f"setsid sh -c '{write}' </dev/null >/dev/null 2>&1 &")
    event = await lab.told("sandbox.paused", greedy, seq)
    print(event.data["reason"])
    row = await lab.row(greedy)
    assert (row.phase, row.reason) == (Phase.PAUSED, event.data["reason"])
    assert f"{reserve_mb} are kept back" in row.reason and "resume" in row.reason
    assert reserve_mb - 2 * ENOUGH_MB < lab.free_mb() < reserve_mb  # soon
    assert await lab.said(quiet, "echo alive") == ["alive"]
    assert (await lab.row(quiet)).phase is Phase.RUNNING
    with pytest.raises(WrongState, match="of disk left"):
        await lab.fluid.run(greedy.id, "true")
    for refused in (
        lab.fluid.resume(greedy.id),
        lab.fluid.create("debian-12", agent_id="faults", name="more"),
    ):
        with pytest.raises(NoSpace):
            await refused
    rows = await lab.fluid.audit(sandbox_id=greedy.id, action="sandbox.pause")
    (intent,) = [row for row in rows if row.step == "intent"]
    assert (intent.role, intent.data["reason"]) == ("system", event.data["reason"])


async def test_with_room_it_goes_on_where_it_was(lab: Lab, greedy: Sandbox) -> None:
    (lab.folder / "ballast").unlink()
    row = await lab.row(greedy)
    async with asyncio.timeout(LOOK_LIMIT_S):
        while row.phase is Phase.PAUSED:
            with contextlib.suppress(NoSpace):  # what is known of a host is up to a second old
                row = await lab.fluid.resume(greedy.id)
    assert (row.phase, row.reason) == (Phase.RUNNING, "")
    assert await lab.said(greedy, "pgrep -c dd || test -s /root/big && echo goes on")
    await lab.fluid.destroy(greedy.id)


async def test_an_end_is_announced_once_also_by_the_next_backend_and_put_off_within_policy(
    lab: Lab, quiet: Sandbox
) -> None:
    seq = (await lab.fluid.fleet()).seq
    await lab.fluid.extend(quiet.id, LONGER_S)
    event = await lab.told("sandbox.expiring", quiet, seq)
    assert WARN_S - 10 < event.data["seconds"] <= WARN_S and "extend" in event.data["reason"]
    await lab.restart()
    with pytest.raises(PolicyDenied, match=r"7201 s ahead.*ttl-max"):
        await lab.fluid.extend(quiet.id, 2 * HOUR_S + 1)
    await lab.fluid.extend(quiet.id, HOUR_S)
    told = [kind async for kind in _until_changed(lab, quiet, event.seq)]
    assert "sandbox.expiring" not in told
    row = await lab.row(quiet)
    assert row.expiry_told_s is None and row.expires_at
    assert row.expires_at - now() > timedelta(seconds=HOUR_S - 60)


async def _until_changed(lab: Lab, sandbox: Sandbox, after: int) -> AsyncIterator[str]:
    """What was told of it up to now: the extension is the last of it."""
    last = (await lab.fluid.fleet()).seq
    async with asyncio.timeout(EVENT_LIMIT_S):
        async for event in lab.fluid.events(after):
            if event.id == sandbox.id:
                yield event.kind
            if event.seq >= last:
                return


async def test_what_nobody_works_in_is_stopped_and_starts_again(lab: Lab, quiet: Sandbox) -> None:
    seq = (await lab.fluid.fleet()).seq
    await lab.restart(idle_stop_s=IDLE_S)
    busy = asyncio.ensure_future(lab.said(quiet, f"sleep {IDLE_S * 2}; echo done"))
    assert await busy == ["done"]  # a command is work, however long it takes
    event = await lab.told("sandbox.stopped", quiet, seq)
    row = await lab.row(quiet)
    assert (row.phase, row.reason) == (Phase.STOPPED, event.data["reason"])
    assert f"nobody worked in it for {IDLE_S} s" in row.reason
    await lab.restart()
    started = await lab.fluid.start(quiet.id)
    assert (started.phase, started.reason) == (Phase.RUNNING, "")
    await lab.fluid.destroy(quiet.id)
