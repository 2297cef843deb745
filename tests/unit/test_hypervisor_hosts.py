"""What a host says it can run; the way that its forks go; what the head of a disk says."""

from __future__ import annotations

import asyncio
import contextlib
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock, MagicMock

import pytest

from backend.errors import ArchitectureUnsupported, HypervisorFailed, InvalidValue, NoSpace
from backend.hypervisor.domain_xml import Rebase, tree
from backend.hypervisor.domains import START_TIMEOUT_S, memory_limit_s
from backend.hypervisor.fork_ways import SNAPSHOT_TIMEOUT_S, ForkWays, WayClosed, rebased_snapshot
from backend.hypervisor.host_probe import KERNEL, SECTOR, probe_xml
from backend.hypervisor.machines import machine_for, parse_capabilities
from backend.hypervisor.nouns import Machine, Template, WayName
from backend.hypervisor.overlays import parse_head

CAPABILITIES = """
<capabilities>
  <host><uuid>x</uuid><cpu><arch>x86_64</arch></cpu></host>
  <guest><os_type>hvm</os_type><arch name='x86_64'><wordsize>64</wordsize>
    <domain type='qemu'/><domain type='kvm'/></arch></guest>
  <guest><os_type>hvm</os_type><arch name='aarch64'><domain type='qemu'/></arch></guest>
  <guest><os_type>xen</os_type><arch name='x86_64'><domain type='xen'/></arch></guest>
</capabilities>
"""
TO = Rebase("fluid-b", "11111111-2222-4333-8444-555555555555", Path("/p/b.disk-0.qcow2"), Path("/p/b.log"))
TEMPLATE = Template("k", Path("/t/disk.qcow2"), Path("/t/memory.save"), 2, 512, 1.0, "ab" * 32)
DOMAIN = (
    "<{0}><name>fluid-template-k</name><uuid>99999999-2222-4333-8444-555555555555</uuid>"
    "<devices><disk type='file'><source file='/t/ram.qcow2'/><backingStore/></disk></devices></{0}>"
)


def test_a_hosts_own_architecture_has_kvm_and_another_is_emulated() -> None:
    host = parse_capabilities(CAPABILITIES)
    assert host.arch == "x86_64"
    assert host.virt_types == {"x86_64": frozenset({"qemu", "kvm"}), "aarch64": frozenset({"qemu"})}


class Libvirt:
    """One that offers no machine but those of ``CAPABILITIES``, and firmware for one of them."""

    def getCapabilities(self) -> str:  # noqa: N802
        return CAPABILITIES

    def getDomainCapabilities(self, _emulator: None, arch: str, *_: object) -> str:  # noqa: N802
        value = "<value>/f/code.fd</value>" if arch == "aarch64" else ""
        return f"<domainCapabilities><os><loader>{value}</loader></os></domainCapabilities>"

    async def call(self, function: Any, **_: object) -> Any:
        return function(self)


async def test_a_guest_has_the_machine_that_the_host_has_for_its_architecture() -> None:
    here = cast("Any", Libvirt())
    assert await machine_for(here, "amd64", "kvm") == Machine("kvm")
    assert await machine_for(here, "arm64", "kvm") == Machine("qemu", Path("/f/code.fd"))
    with pytest.raises(InvalidValue, match="riscv64"):
        await machine_for(here, "riscv64", "kvm")
    here.getCapabilities = lambda: CAPABILITIES.replace("aarch64", "sparc")
    with pytest.raises(
        ArchitectureUnsupported, match=r"the host \(x86_64\) runs no aarch64 guests"
    ) as refused:
        await machine_for(here, "arm64", "kvm")
    assert "install QEMU for aarch64" in refused.value.remedy


@pytest.mark.parametrize(
    ("arch", "machine", "boots"), [("x86_64", "pc", "disk"), ("aarch64", "virt", "kernel")]
)
def test_the_probe_has_the_processor_of_our_guests_and_ends_with_its_first_program(
    arch: str, machine: str, boots: str
) -> None:
    root = tree(probe_xml("fluid-probe", arch, "kvm", Path("/p/probe")))
    assert root.find("os/type").attrib == {"arch": arch, "machine": machine}
    assert root.find("cpu").get("mode") == "host-passthrough"
    assert {root.findtext(f"on_{event}") for event in ("poweroff", "reboot", "crash")} == {"destroy"}
    assert root.find("devices/interface") is None
    booted = {"disk": root.find("devices/disk/source"), "kernel": root.find("os/kernel")}
    assert [kind for kind, element in booted.items() if element is not None] == [boots]
    assert len(SECTOR) == 512 and len(KERNEL) == 16


# --- the way that forks go ----------------------------------------------------------------------------


class Files:
    """No disk is made."""

    async def create_overlay(self, *_: Path) -> None: ...


class Host:
    """One that refuses some ways."""

    def __init__(self, refused: set[str]) -> None:
        self.files = Files()
        self.refused, self.went = refused, list[str]()

    async def go(self, way: str) -> None:
        self.went.append(way)
        await asyncio.sleep(0)
        if way in self.refused:
            raise HypervisorFailed(f"no {way} here", remedy="none")


class Ways(ForkWays):
    def __init__(self, refused: set[str], forced: WayName | None = None) -> None:
        self.host = Host(refused)
        super().__init__(self.host, forced)  # type: ignore[arg-type]

    async def _revert(self, *_: Any) -> None:
        await self.host.go("snapshot copy")

    async def _boot(self, *_: Any) -> None:
        await self.host.go("cold boot")


@pytest.fixture(autouse=True)
def memories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.hypervisor.fork_ways.restore_memory", lambda host, *_: host.go("save image"))


async def fork(made: Ways) -> str:
    while True:
        try:
            return await made.run(TEMPLATE, TO)
        except WayClosed:
            continue


@pytest.mark.parametrize(
    ("refused", "way"),
    [
        (set(), "save image"),
        ({"save image"}, "snapshot copy"),
        ({"save image", "snapshot copy"}, "cold boot"),
    ],
)
async def test_a_host_goes_the_fastest_way_that_works(refused: set[str], way: str) -> None:
    made = Ways(refused)
    assert [await fork(made) for _ in range(2)] == [way, way]
    assert made.way.name == way and made.host.went.count("save image") == (1 if refused else 2)
    assert made.way.reason == (
        "a guest was forked so" if not refused else f"no {sorted(refused)[-1]}: no {sorted(refused)[-1]} here"
    )


async def test_what_fails_on_a_way_that_worked_is_told() -> None:
    made = Ways(set())
    await fork(made)
    made.host.refused = {"save image"}
    with pytest.raises(HypervisorFailed):
        await fork(made)
    assert made.way.name == "save image"


async def test_forks_at_once_leave_a_way_once() -> None:
    made = Ways({"save image"})
    assert set(await asyncio.gather(*(fork(made) for _ in range(4)))) == {"snapshot copy"}


async def test_a_forced_way_and_the_last_one_are_not_left() -> None:
    for made in (Ways({"save image"}, "save image"), Ways({"save image", "snapshot copy", "cold boot"})):
        with pytest.raises(HypervisorFailed):
            await fork(made)


async def test_a_full_disk_says_nothing_about_a_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any) -> None:
        raise NoSpace("full", remedy="none")

    made = Ways(set())
    monkeypatch.setattr(Files, "create_overlay", full)
    with pytest.raises(NoSpace):
        await fork(made)
    assert made.way.name == "save image"


def test_a_snapshots_descriptions_of_its_domain_become_anothers() -> None:
    both = DOMAIN.format("domain") + DOMAIN.format("inactiveDomain")
    xml = f"<domainsnapshot><name>fork</name>{both}<cookie/></domainsnapshot>"
    root = rebased_snapshot(xml.encode(), TO)
    assert [element.tag for element in root] == ["name", "domain", "inactiveDomain", "cookie"]
    for tag in ("domain", "inactiveDomain"):
        assert (root.findtext(f"{tag}/name"), root.findtext(f"{tag}/uuid")) == (TO.name, TO.uuid)
        assert root.find(f"{tag}/devices/disk/source").get("file") == str(TO.disk)
    assert b"template-k" not in ET.tostring(root)


async def test_a_snapshot_copy_has_the_time_that_its_memory_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The template's memory is read and written once for all forks, and read for each."""
    limits = list[float]()

    async def call(_: object, *, what: str, limit_s: float) -> bytes:
        limits.append(limit_s)
        return b""

    files = MagicMock(template_lock=lambda _: contextlib.nullcontext(), exists=AsyncMock(return_value=False))
    for name in ("drop", "claim", "remove", "create_overlay", "put", "copy", "read"):
        setattr(files, name, AsyncMock(return_value=b""))
    domains = MagicMock(files=files, prefix="fluid", connection=SimpleNamespace(call=call))
    monkeypatch.setattr("backend.hypervisor.fork_ways.rebased_snapshot", MagicMock())
    large = replace(TEMPLATE, memory_mb=32 << 10)
    assert await ForkWays(domains, "snapshot copy").run(large, TO) == "snapshot copy"
    assert limits == [
        memory_limit_s(SNAPSHOT_TIMEOUT_S, 64 << 10), memory_limit_s(SNAPSHOT_TIMEOUT_S, 32 << 10),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("least_s", "memory_mb", "limit_s"), [(120, 0, 120), (60, 1024, 124), (60, 1, 60.0625)]
)
def test_a_call_that_moves_memory_may_take_what_a_slow_disk_needs(
    least_s: float, memory_mb: int, limit_s: float
) -> None:
    assert memory_limit_s(least_s, memory_mb) == limit_s


def test_so_much_memory_as_fails_by_fixed_limits_has_time_enough_also_on_a_disk_that_three_share() -> None:
    large_mb, disk_bytes_s = 32 << 10, 200e6
    took_s = (large_mb << 20) / disk_bytes_s
    assert took_s > SNAPSHOT_TIMEOUT_S and memory_limit_s(START_TIMEOUT_S, large_mb) > 3 * took_s


# --- heads of disks -----------------------------------------------------------------------------------


def head(backing: bytes, size: int, *, at: int = 112, length: int | None = None) -> bytes:
    told = len(backing) if length is None else length
    fixed = b"QFI\xfb\0\0\0\x03" + at.to_bytes(8, "big") + told.to_bytes(4, "big") + b"\0\0\0\x10"
    return (fixed + size.to_bytes(8, "big")).ljust(112, b"\0") + backing


def test_a_disks_head_says_its_size_and_what_it_stands_on() -> None:
    assert parse_head(head(b"/p/below", 1 << 32), "x") == (1 << 32, "/p/below")
    assert parse_head(head(b"", 5, at=0), "x") == (5, None)


@pytest.mark.parametrize(
    "data", [b"", b"no", head(b"x", 1)[:30], head(b"x", 1, length=900), head(b"x" * 2000, 1)]
)
def test_a_strange_head_is_refused(data: bytes) -> None:
    with pytest.raises(HypervisorFailed):
        parse_head(data, "x")
