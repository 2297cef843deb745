"""One backend, two real hosts: this machine, and one behind an SSH login that is not root there.

What an agent does on the first works on the second; a host that hangs takes its own sandboxes and no others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from backend.client import Fluid
from backend.client.blocking import FluidSandbox
from backend.errors import FluidError, NoRoom, WrongState
from backend.images import Images
from backend.models import Phase, Sandbox
from backend.paths import Paths
from tests.bench.stage import Stage
from tests.fix_hosts import RealHost, real_hosts

FAR = "far-1"
UP_S, LOST_S, FOUND_S = 180.0, 75.0, 75.0
LOOK_S = 0.2
CREATE_S = 40.0  # emulated, beside another guest


@dataclass(frozen=True)
class Two:
    """The backend's operator door, and the host behind SSH."""

    stage: Stage
    far: RealHost
    fluid: Fluid

    async def until(self, holds: Callable[[], bool], limit_s: float, what: str) -> float:
        """Seconds until it holds."""
        began = time.monotonic()
        while not await asyncio.to_thread(self._now, holds):
            assert time.monotonic() - began < limit_s, f"{what}: not within {limit_s:g} s"
            await asyncio.sleep(LOOK_S)
        return time.monotonic() - began

    def _now(self, holds: Callable[[], bool]) -> bool:
        try:
            return holds()
        except FluidError:
            return False

    async def create(self, name: str, on: str) -> FluidSandbox:
        """A sandbox on that host, because the other one is drained."""
        other = FAR if on == "local" else "local"
        await asyncio.to_thread(self.fluid.drain_host, other)
        try:
            box = await asyncio.to_thread(self.fluid.create_sandbox, self.source, agent_id="e2e", name=name)
        finally:
            await asyncio.to_thread(self.fluid.resume_host, other)
        assert box.noun.host_name == on
        assert f"not {other}: {other} is draining" in box.noun.placement
        return box

    @property
    def source(self) -> str:
        return self.fluid.sources()[0].name

    def row(self, id: str) -> Sandbox:
        return next(row for row in self.fluid.fleet().sandboxes if row.id == id)

    def volumes(self) -> list[str]:
        """What lies in our pool on the second host."""
        (pool,) = (self.far.folder / "lib" / "images").iterdir()
        return sorted(path.name for path in pool.iterdir())


@pytest.fixture(scope="module")
async def two() -> AsyncIterator[Two]:
    cache = Paths.default()
    await Images(cache.images).build(progress=lambda _: None)
    with real_hosts(FAR) as (far,):
        async with Stage(cache.cache, limits={"sandboxes_per_owner": 50}) as stage:
            local = {"name": "local", "uri": stage.libvirt}
            stage.configure(limits={"sandboxes_per_owner": 50}, hosts=[local, far.settings])
            await stage.start()
            two = Two(stage, far, Fluid(stage.paths.operator_socket))
            both = {"local", FAR}
            await two.until(
                lambda: {host.name for host in two.fluid.hosts() if host.templates} == both,
                UP_S,
                "both hosts have a template",
            )
            yield two
            for box in two.fluid.fleet().sandboxes:
                two.fluid.destroy(box.id)


async def test_a_sandbox_on_the_second_host_does_what_one_on_the_first_does(two: Two) -> None:
    for host in ("local", FAR):
        began = time.monotonic()
        box = await two.create(f"work-{host}", host)
        print(f"{host}: created by {box.noun.created_by} in {time.monotonic() - began:.1f} s")
        assert box.noun.created_by == "fork"
        await asyncio.to_thread(live, two, box)
    assert two.fluid.leftovers().found == []
    assert [name for name in two.volumes() if not name.startswith("image.") and "template" not in name] == []


def live(two: Two, box: FluidSandbox) -> None:
    """Commands, files, a terminal, snapshots, a diff, a branch, off and on, and the end."""
    fluid = two.fluid
    assert box.run("hostname; cat /etc/machine-id").stdout.split() == [
        box.noun.sandbox_name,
        box.noun.machine_id,
    ]
    box.write_file("/root/mark", b"one\n")
    pid = box.run("sleep 1000 </dev/null >/dev/null 2>&1 & echo $!").stdout.strip()
    assert box.run("ss -ltn | grep -c 127.0.0.1:3128").stdout.strip() == "1"
    box.snapshot("one")
    box.write_file("/root/mark", b"two\n")
    box.run("useradd -m ada; sync")
    changes = box.diff("one", "now")
    assert changes.read_from == "disk" and changes.quiesced
    assert "/root/mark" in {change.path for change in changes.shown()}
    assert "ada" in {user.name for user in changes.users}
    box.snapshot("two")
    box.restore("one")
    assert box.read_file("/root/mark") == b"one\n"
    assert box.run(f"kill -0 {pid}").exit_code == 0
    branch = FluidSandbox(fluid, fluid.branch(box.id, "two", vm_name=f"{box.noun.sandbox_name}-b"))
    assert branch.noun.host_name == box.noun.host_name
    assert branch.read_file("/root/mark") == b"two\n"
    pane = box.open_pane()
    fluid.send_keys(pane.pane_id, text="echo pane-$((40+2))")
    fluid.send_keys(pane.pane_id, key="Enter")
    deadline = time.monotonic() + CREATE_S
    while not any("pane-42" in row for row in fluid.read_pane(pane.pane_id)):
        assert time.monotonic() < deadline
        time.sleep(LOOK_S)
    box.pause()
    box.resume()
    box.delete_snapshot("two")
    box.stop()
    box.start()
    assert box.read_file("/root/mark") == b"one\n"
    box.destroy()
    assert branch.read_file("/root/mark") == b"two\n"
    branch.destroy()


async def test_the_first_hosts_files_do_not_exist_on_the_second(two: Two) -> None:
    near, far = await two.create("near", "local"), await two.create("far", FAR)
    folder = two.stage.paths.domains / "domains" / near.noun.domain
    assert (folder / "disk-0.qcow2").exists()
    assert two.far.exec(["sh", "-c", f"ls {folder} 2>/dev/null | wc -l"]).strip() == b"0"
    assert not (two.stage.paths.domains / "domains" / far.noun.domain).exists()
    assert any(name.startswith(far.noun.domain) for name in two.volumes())
    assert not any(name.startswith(near.noun.domain) for name in two.volumes())
    for box in (near, far):
        await asyncio.to_thread(box.destroy)


async def test_a_host_that_hangs_takes_its_own_sandboxes_and_no_others(two: Two) -> None:
    near, far = await two.create("stays", "local"), await two.create("goes", FAR)
    two.far.freeze()
    try:
        began = time.monotonic()
        assert (await asyncio.to_thread(near.run, "true")).exit_code == 0
        extra = await asyncio.to_thread(
            two.fluid.create_sandbox, two.source, agent_id="e2e", name="beside-a-hanging-host"
        )
        assert time.monotonic() - began < CREATE_S and extra.noun.host_name == "local"
        lost_s = await two.until(lambda: two.row(far.id).phase is Phase.LOST, LOST_S, "its sandbox is lost")
        assert (
            f"{FAR} is silent since" in two.row(far.id).reason and "it was running" in two.row(far.id).reason
        )
        assert two.row(near.id).phase is Phase.RUNNING
        with pytest.raises(WrongState, match="is lost"):
            await asyncio.to_thread(far.run, "true")
        await asyncio.to_thread(two.fluid.drain_host, "local")
        with pytest.raises(NoRoom, match="local is draining"):
            await asyncio.to_thread(two.fluid.create, two.source, agent_id="e2e", name="nowhere")
        await asyncio.to_thread(two.fluid.resume_host, "local")
    finally:
        two.far.thaw()
    found_s = await two.until(lambda: two.row(far.id).phase is Phase.RUNNING, FOUND_S, "it is found again")
    print(f"lost after {lost_s:.1f} s, found {found_s:.1f} s after the host went on")
    assert (await asyncio.to_thread(far.run, "hostname")).stdout.strip() == "goes"
    for box in (near, far, extra):
        await asyncio.to_thread(box.destroy)


async def test_a_backend_that_dies_finds_both_hosts_again(two: Two) -> None:
    far = await two.create("outlives", FAR)
    await two.stage.start()
    await two.until(lambda: two.row(far.id).phase is Phase.RUNNING, UP_S, "it runs as before")
    await two.until(lambda: all(host.status == "up" for host in two.fluid.hosts()), UP_S, "both are up")
    assert (await asyncio.to_thread(far.run, "hostname")).stdout.strip() == "outlives"
    await asyncio.to_thread(far.destroy)
    assert Path(two.stage.paths.links / f"{FAR}.sock").is_socket()
