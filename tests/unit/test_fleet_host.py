"""How an installation marks what is its own on a libvirtd that others use too, and what it counts as free."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from backend.config import Config, HostConfig
from backend.errors import ArchitectureUnsupported, HypervisorDown, HypervisorFailed, TimedOut
from backend.fleet import Host, object_prefix
from backend.fleet import host as host_module
from backend.fleet.placement import Need, Room, place
from backend.hypervisor import ForeignNetwork, HostFacts
from backend.paths import Paths


def made(folder: Path) -> Paths:
    paths = Paths.under(folder)
    paths.make()
    return paths


def test_a_domains_name_leads_back_to_its_sandbox(tmp_path: Path) -> None:
    host = Host(Config(), HostConfig(), made(tmp_path))
    name = host.domain_name("SBX-1f0c9a2b")
    assert name.startswith(object_prefix(Paths.under(tmp_path))) and name == name.lower()
    assert host.sandbox_id(name) == "SBX-1f0c9a2b"


async def test_two_installations_at_the_same_path_share_no_name_on_a_host(tmp_path: Path) -> None:
    """Each is on a machine of its own, and both list a third."""
    names = set()
    for machine in ("one", "another"):
        host = host_with_network("far", made(tmp_path / "home"))
        network = await host._network()
        assert len(network.bridge) <= 15, "no interface has a longer name"
        names |= {host.domain_name("SBX-1f0c9a2b"), network.name, network.bridge}
        (tmp_path / "home").rename(tmp_path / machine)
    assert len(names) == 6


FACTS = HostFacts("far", "9.0.0", "7.2.0", 4, 1024, 512, 9000, "qemu")


class Asking:
    """A libvirt that is asked how its host is; ``hold`` makes it hang."""

    def __init__(self) -> None:
        self.alive, self.virt_type, self.asked = True, "qemu", 0
        self.is_idle, self.close = AsyncMock(return_value=False), AsyncMock()
        self.fork_way, self.kvm = SimpleNamespace(name="", reason=""), None
        self.answers = asyncio.Event()
        self.answers.set()
        self.fails: Exception | None = None

    async def find_network(self, name: str) -> ForeignNetwork:
        return ForeignNetwork(name, "br0", "192.0.2.0/24", "192.0.2.1")

    async def facts(self) -> HostFacts:
        self.asked += 1
        await self.answers.wait()
        if self.fails:
            raise self.fails
        return FACTS


def reserves(reserved_mb: int) -> Callable[[], Awaitable[int]]:
    async def reserved() -> int:
        return reserved_mb

    return reserved


async def host_that_asks(tmp_path: Path, asking: Asking, reserved_mb: int = 0) -> Host:
    async def hypervisor() -> Any:
        return asking

    host = Host(Config(), HostConfig(network="lan"), made(tmp_path))
    way = {
        "hypervisor": hypervisor,
        "reserved_mb": reserves(reserved_mb),
        "uri": "",
        "link": None,
        "clock_skew": AsyncMock(),
    }
    host.way = cast("Any", SimpleNamespace(**way))
    assert await host.open()
    return host


@pytest.mark.parametrize(("reserved_mb", "free_mb"), [(0, 9000), (2500, 6500), (9500, 0)])
async def test_what_only_root_may_fill_is_not_free(tmp_path: Path, reserved_mb: int, free_mb: int) -> None:
    host = await host_that_asks(tmp_path, Asking(), reserved_mb)
    assert (await host.look()).disk_free_mb == (await host.room("debian-12")).disk_free_mb == free_mb


async def test_a_host_makes_as_many_at_once_as_it_has_processors(tmp_path: Path) -> None:
    host = await host_that_asks(tmp_path, Asking())
    assert host.turns.at_once == 1, "nobody knows it yet"
    await host.look()
    assert host.turns.at_once == FACTS.cpus == 4


async def test_how_busy_a_host_is_comes_of_what_its_processors_did_since_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Asking()
    host = await host_that_asks(tmp_path, asking)

    async def busy(busy_s: int, idle_s: int) -> int | None:
        """After a look that shows so many seconds of its four processors since its start."""
        told = replace(FACTS, cpu_busy_ns=busy_s * 10**9, cpu_idle_ns=idle_s * 10**9)
        monkeypatch.setattr(asking, "facts", AsyncMock(return_value=told))
        await host.look(0)
        return host.busy_percent

    assert await busy(1000, 9000) is None, "what was before is nothing of now"
    assert await busy(1039, 9000) is None, "too short a while"
    assert await busy(1030, 9010) == 75
    assert await busy(1031, 9049) == 2 and await busy(1070, 9049) == 2
    assert await busy(1071, 9049) == 100
    assert await busy(1, 9) is None, "it started again"
    assert await busy(1, 49) == 0
    assert (await host.view(0, 0)).busy_percent == 0


async def test_a_host_that_stays_away_is_asked_in_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async def hypervisor() -> Any:
        if len(pauses) < 6:
            raise HypervisorDown("nobody answers", remedy="wait")
        return Asking()

    host = Host(Config(), HostConfig(network="lan"), made(tmp_path))
    host.way = cast("Any", SimpleNamespace(hypervisor=hypervisor, reserved_mb=reserves(0)))
    monkeypatch.setattr(asyncio, "sleep", pause)
    await host.appear()
    assert host.up and pauses == [1, 2, 4, 8, 15, 15]


LIMIT_S = 0.5


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Asking:
    monkeypatch.setattr(host_module, "LOOK_TIMEOUT_S", LIMIT_S)
    asking = Asking()
    asking.answers.clear()
    return asking


async def told_after_s(host: Host, **how: Any) -> float:
    """How long a caller waits before it hears that the host does not answer."""
    began = time.monotonic()
    with pytest.raises(HypervisorDown, match="does not answer within"):
        await host.look(0, **how)
    return time.monotonic() - began


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


async def test_a_host_that_hangs_holds_up_who_asks_first_and_nobody_after(
    tmp_path: Path, hanging: Asking
) -> None:
    host = await host_that_asks(tmp_path, hanging)
    together = await asyncio.gather(*(told_after_s(host) for _ in range(20)))
    assert min(together) >= 0.9 * LIMIT_S and max(together) < 2 * LIMIT_S
    assert await told_after_s(host) < 0.1, "a look that had no answer is remembered"
    room = await asyncio.wait_for(host.room("debian-12"), 0.1)
    assert isinstance(room.down, HypervisorDown)
    assert hanging.asked == 1, "all share one question, and it goes on"

    hanging.answers.set()
    await until(lambda: not host._asked._silent)
    assert (await host.look(0)).cpus == 4, "it answers again, and is used again"
    assert (await host.room("debian-12")).down is None


async def test_a_list_does_without_the_answer_of_a_host_that_hangs(tmp_path: Path, hanging: Asking) -> None:
    host, asked = await host_that_asks(tmp_path, hanging), list[object]()

    async def hang(machine: object) -> None:
        asked.append(machine)
        await asyncio.Event().wait()

    async def told_s() -> float:
        began = time.monotonic()
        with pytest.raises(HypervisorDown, match="does not answer within"):
            await host.told(hang)
        return time.monotonic() - began

    assert 0.9 * LIMIT_S <= await told_s() < 2 * LIMIT_S
    assert await told_s() < 0.1 and asked == [], "what is known to be silent is asked nothing"
    hanging.answers.set()
    await until(lambda: not host._asked._silent)
    assert 0.9 * LIMIT_S <= await told_s() < 2 * LIMIT_S
    assert asked == [host.require()], "it hung since"


async def test_an_operator_who_asks_of_a_silent_host_has_its_answer(tmp_path: Path, hanging: Asking) -> None:
    host = await host_that_asks(tmp_path, hanging)
    await told_after_s(host)
    assert await told_after_s(host, patient=True) >= 0.9 * LIMIT_S
    asyncio.get_running_loop().call_later(LIMIT_S / 2, hanging.answers.set)
    assert await host.look(0, patient=True) == FACTS


async def test_a_late_answer_is_kept_and_the_host_asked_again_before_it_is_used(
    tmp_path: Path, hanging: Asking
) -> None:
    host = await host_that_asks(tmp_path, hanging)
    await told_after_s(host)
    late, hanging.answers = hanging.answers, asyncio.Event()
    late.set()
    await until(lambda: hanging.asked == 2)
    assert host._facts is not None
    assert await told_after_s(host) < 0.1, "slow is not there"
    hanging.answers.set()
    await until(lambda: not host._asked._silent)
    assert await host.look(0) == FACTS


@pytest.mark.parametrize(
    ("error", "waits"),
    [(TimedOut("30 s", remedy="wait"), False), (HypervisorDown("the link is lost", remedy="wait"), True)],
)
async def test_a_host_stays_silent_until_it_answers_or_its_link_is_another(
    tmp_path: Path, hanging: Asking, error: Exception, waits: bool
) -> None:
    host = await host_that_asks(tmp_path, hanging)
    await told_after_s(host)
    hanging.fails = error
    hanging.answers.set()
    await until(lambda: host._asked._asking is None or host._asked._asking.done())
    hanging.answers.clear()
    assert (await told_after_s(host) >= 0.9 * LIMIT_S) is waits
    assert hanging.asked == 2, "it is asked again all the same"
    hanging.fails = None
    hanging.answers.set()
    await until(lambda: not host._asked._silent)
    assert await host.look(0) == FACTS


async def test_nothing_asks_a_host_that_is_closed(tmp_path: Path, hanging: Asking) -> None:
    host = await host_that_asks(tmp_path, hanging)
    host.way.leave = AsyncMock()  # type: ignore[method-assign]
    waiting = asyncio.create_task(told_after_s(host))
    await until(lambda: hanging.asked == 1)
    await host.close()
    assert await waiting < LIMIT_S / 2


def host_with_network(name: str, paths: Paths) -> Host:
    async def routes() -> list[IPv4Network]:
        await asyncio.sleep(0)
        return [IPv4Network("10.231.0.0/24")]

    host = Host(Config(), HostConfig(name=name), paths)
    host.way = cast("Any", SimpleNamespace(routes=routes))
    return host


async def test_hosts_that_open_at_once_have_networks_of_their_own(tmp_path: Path) -> None:
    paths = made(tmp_path)
    (paths.state / "networks").mkdir()
    (paths.state / "networks" / ".new-x").touch()  # of a backend that was killed
    both = [host_with_network(name, paths) for name in ("a", "b")]
    chosen = [spec.cidr for spec in await asyncio.gather(*(host._network() for host in both))]
    assert chosen == ["10.231.1.0/24", "10.231.2.0/24"]
    assert [(await host._network()).cidr for host in both] == chosen


async def test_a_network_is_on_the_disk_before_it_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError("no power")

    paths = made(tmp_path)
    host = host_with_network("a", paths)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no power"):
        patch.setattr(os, "fsync", fail)
        await host._network()
    assert list((paths.state / "networks").iterdir()) == []


async def test_a_file_that_holds_no_network_is_told(tmp_path: Path) -> None:
    paths = made(tmp_path)
    (paths.state / "networks").mkdir()
    (paths.state / "networks" / "a").touch()
    for name in ("a", "b"):
        with pytest.raises(HypervisorFailed, match="networks/a does not hold the network"):
            await host_with_network(name, paths)._network()


async def test_a_host_that_stays_down_is_logged_when_the_reason_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reasons = iter(("no route", "no route", "refused"))

    async def hypervisor() -> Any:
        raise OSError(next(reasons))

    host = Host(Config(), HostConfig(), made(tmp_path))
    host.way = cast("Any", SimpleNamespace(hypervisor=hypervisor))
    assert not any([await host.open() for _ in range(3)])
    assert [one.message.rpartition(": ")[2] for one in caplog.records] == ["no route", "refused"]


async def test_a_host_that_runs_no_guests_of_an_image_has_no_room_for_it(tmp_path: Path) -> None:
    host = Host(Config(), HostConfig(), made(tmp_path))
    host.cannot["debian-12-arm64"] = ArchitectureUnsupported("it runs no aarch64 guests", remedy="none")
    room = await host.room("debian-12-arm64")
    assert room.down is host.cannot["debian-12-arm64"]
    other = Room("arm-01", memory_free_mb=8192, disk_free_mb=50_000)
    chosen = place([room, other], Need(memory_mb=1024, memory_reserve_mb=512, disk_reserve_mb=2048))
    assert chosen.name == "arm-01" and "it runs no aarch64 guests" in chosen.reason
    assert (await host.room("debian-12")).down is not room.down
