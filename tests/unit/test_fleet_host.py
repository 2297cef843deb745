"""How an installation marks what is its own on a libvirtd that others use too, and what it counts as free."""

from __future__ import annotations

import asyncio
import os
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.config import Config, HostConfig
from backend.errors import ArchitectureUnsupported, HypervisorFailed
from backend.fleet import Host, object_prefix
from backend.fleet.placement import Need, Room, place
from backend.hypervisor import ForeignNetwork, HostFacts
from backend.paths import Paths


def test_a_domains_name_leads_back_to_its_sandbox(tmp_path: Path) -> None:
    host = Host(Config(), HostConfig(), Paths.under(tmp_path))
    name = host.domain_name("SBX-1f0c9a2b")
    assert name.startswith(object_prefix(Paths.under(tmp_path))) and name == name.lower()
    assert host.sandbox_id(name) == "SBX-1f0c9a2b"


def test_two_installations_never_share_a_prefix(tmp_path: Path) -> None:
    assert object_prefix(Paths.under(tmp_path / "a")) != object_prefix(Paths.under(tmp_path / "b"))


@pytest.mark.parametrize(("reserved_mb", "free_mb"), [(0, 9000), (2500, 6500), (9500, 0)])
async def test_what_only_root_may_fill_is_not_free(tmp_path: Path, reserved_mb: int, free_mb: int) -> None:
    async def find_network(name: str) -> ForeignNetwork:
        return ForeignNetwork(name, "br0", "192.0.2.0/24", "192.0.2.1")

    async def facts() -> HostFacts:
        return HostFacts("far", "9.0.0", "7.2.0", 2, 1024, 512, 9000, "qemu")

    async def hypervisor() -> Any:
        return SimpleNamespace(alive=True, virt_type="qemu", find_network=find_network, facts=facts)

    async def reserved() -> int:
        return reserved_mb

    host = Host(Config(), HostConfig(network="lan"), Paths.under(tmp_path))
    host.way = cast("Any", SimpleNamespace(hypervisor=hypervisor, reserved_mb=reserved))
    assert await host.open()
    assert (await host.look()).disk_free_mb == (await host.room("debian-12")).disk_free_mb == free_mb


def host_with_network(name: str, paths: Paths) -> Host:
    async def routes() -> list[IPv4Network]:
        await asyncio.sleep(0)
        return [IPv4Network("10.231.0.0/24")]

    host = Host(Config(), HostConfig(name=name), paths)
    host.way = cast("Any", SimpleNamespace(routes=routes))
    return host


async def test_hosts_that_open_at_once_have_networks_of_their_own(tmp_path: Path) -> None:
    paths = Paths.under(tmp_path)
    paths.make()
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

    paths = Paths.under(tmp_path)
    paths.make()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no power"):
        patch.setattr(os, "fsync", fail)
        await host_with_network("a", paths)._network()
    assert list((paths.state / "networks").iterdir()) == []


async def test_a_file_that_holds_no_network_is_told(tmp_path: Path) -> None:
    paths = Paths.under(tmp_path)
    paths.make()
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

    host = Host(Config(), HostConfig(), Paths.under(tmp_path))
    host.way = cast("Any", SimpleNamespace(hypervisor=hypervisor))
    assert not any([await host.open() for _ in range(3)])
    assert [one.message.rpartition(": ")[2] for one in caplog.records] == ["no route", "refused"]


async def test_a_host_that_runs_no_guests_of_an_image_has_no_room_for_it(tmp_path: Path) -> None:
    host = Host(Config(), HostConfig(), Paths.under(tmp_path))
    host.cannot["debian-12-arm64"] = ArchitectureUnsupported("it runs no aarch64 guests", remedy="none")
    room = await host.room("debian-12-arm64")
    assert room.down is host.cannot["debian-12-arm64"]
    other = Room("arm-01", memory_free_mb=8192, disk_free_mb=50_000)
    chosen = place([room, other], Need(memory_mb=1024, memory_reserve_mb=512, disk_reserve_mb=2048))
    assert chosen.name == "arm-01" and "it runs no aarch64 guests" in chosen.reason
    assert (await host.room("debian-12")).down is not room.down
