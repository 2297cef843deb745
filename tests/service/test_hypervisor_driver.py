"""Connection, listing, guard and events against libvirt's own test driver."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock
from uuid import uuid4

import libvirt
import pytest

from backend.errors import (
    Conflict,
    HypervisorDown,
    HypervisorFailed,
    InvalidName,
    LimitReached,
    NotFound,
    TimedOut,
)
from backend.hypervisor import DomainEvent, DomainInfo, Hypervisor, snapshots, stock
from backend.hypervisor.connection import CALL_TIMEOUT_S, Connection, looked_up
from backend.hypervisor.domain_xml import Rebase
from backend.hypervisor.domains import Domains, memory_limit_s
from backend.hypervisor.local_files import LocalFiles
from backend.hypervisor.memories import restore_memory
from backend.hypervisor.save_image import SaveHeader, pack_header
from backend.hypervisor.snapshots import MOST_LAYERS, snapshot
from backend.hypervisor.stock import hand_out, is_suspended, recall, suspend

EVENT_LIMIT_S = 10
MARK = (
    '<metadata><fluid:domain xmlns:fluid="urn:fluid:domain:1"><fluid:item key="role">sandbox</fluid:item>'
    "</fluid:domain></metadata>"
)


def xml(name: str, mark: str = MARK) -> str:
    machine = "<memory>65536</memory><os><type>hvm</type></os>"
    return f"<domain type='test'><name>{name}</name>{mark}{machine}</domain>"


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    connection = Connection("test:///default")
    await connection.open()
    yield connection
    await connection.close()


@pytest.fixture
async def domains(connection: Connection, tmp_path: Path) -> Domains:
    files = LocalFiles(tmp_path / "host", "fluid")
    await files.open()
    return Domains(connection, files, "test", "fluid")


async def test_a_disk_of_too_many_layers_gets_no_more_and_says_so_before_anything_is_made(
    domains: Domains, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await define(connection, xml("fluid-a"))
    layers = [Path(f"/disk-{number}.qcow2") for number in range(MOST_LAYERS)]
    monkeypatch.setattr(domains, "disk", AsyncMock(return_value=layers[0]))
    monkeypatch.setattr(domains.files, "backing_chain", AsyncMock(return_value=layers))
    await domains.files.claim("fluid-a")
    with pytest.raises(LimitReached, match=f"has {MOST_LAYERS} layers"):
        await snapshot(domains, "fluid-a", "one", memory=False, quiesce_timeout_s=1)
    assert not await domains.files.is_marked("fluid-a", "one")


async def define(connection: Connection, text: str) -> None:
    await connection.call(lambda conn: conn.defineXML(text).create(), what="define")


REFUSED = "internal error: Failed to apply firewall rules /usr/sbin/ebtables -t nat -A libvirt-I: RULE_APPEND"


@pytest.mark.parametrize(
    ("words", "times", "tries"), [(REFUSED, 1, 2), (REFUSED, 9, 4), ("internal error: no room", 1, 1)]
)
async def test_a_filter_that_the_kernel_refuses_for_anothers_sake_is_put_on_again(
    connection: Connection, words: str, times: int, tries: int
) -> None:
    seen = 0

    def start(conn: libvirt.virConnect) -> str:
        nonlocal seen
        seen += 1
        if seen <= times:
            raise libvirt.libvirtError(words)
        return "started"

    if times < tries:
        assert await connection.call(start, what="recall") == "started"
    else:
        with pytest.raises(HypervisorFailed, match="recall: "):
            await connection.call(start, what="recall")
    assert seen == tries


async def test_only_marked_domains_with_our_prefix_are_listed(
    connection: Connection, domains: Domains
) -> None:
    await define(connection, xml("fluid-a"))
    await define(connection, xml("other-b"))
    await define(connection, xml("fluid-c", mark=""))
    (found,) = await domains.list_ours()
    assert (found.name, found.state, found.metadata) == ("fluid-a", "running", {"role": "sandbox"})


@pytest.mark.parametrize(
    ("name", "refusal"), [("fluid-c", Conflict), ("other-b", InvalidName), ("fluid/../c", InvalidName)]
)
async def test_a_foreign_domain_is_left_alone(
    connection: Connection, domains: Domains, name: str, refusal: type[Exception]
) -> None:
    await define(connection, xml("other-b"))
    await define(connection, xml("fluid-c", mark=""))
    for change in (domains.destroy, domains.power_off, domains.pause):
        with pytest.raises(refusal):
            await change(name)

    def active(conn: libvirt.virConnect) -> list[str]:
        return sorted(domain.name() for domain in conn.listAllDomains(0) if domain.isActive())

    assert {"other-b", "fluid-c"} <= set(await connection.call(active, what="list"))


async def test_destroy_removes_domain_and_files_and_may_be_repeated(
    connection: Connection, domains: Domains
) -> None:
    await domains.files.claim("fluid-a")
    (await domains.files.next_disk("fluid-a")).touch()
    await define(connection, xml("fluid-a"))
    for _ in range(2):
        await domains.destroy("fluid-a")
        assert await domains.list_ours() == [] and await domains.leftovers() == []


async def test_stock_is_handed_out_once_and_its_metadata_says_so(
    connection: Connection, domains: Domains
) -> None:
    """The test driver has no channel: whoever gets it is the one who fails after it was taken."""
    await define(connection, xml("fluid-a", MARK.replace("sandbox", "stock")))
    owner = {"role": "sandbox", "sandbox": "SBX-1"}
    with pytest.raises(Conflict, match="not parked"):
        await hand_out(domains, "fluid-a", "web", owner, "ssh-ed25519 AAAA")
    await domains.pause("fluid-a")
    tries = [hand_out(domains, "fluid-a", "web", owner, "ssh-ed25519 AAAA") for _ in range(5)]
    failed = await asyncio.gather(*tries, return_exceptions=True)
    assert Counter(map(type, failed)) == {Conflict: 4, HypervisorFailed: 1}
    assert (await domains.info("fluid-a")).metadata == owner
    await domains.power_off("fluid-a")
    assert (await domains.info("fluid-a")).metadata == owner  # what the next start reads


@pytest.mark.parametrize("where", ["of another host", "of the same host"])
async def test_a_hand_out_that_hangs_holds_up_no_other(
    connection: Connection, domains: Domains, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    hangs, goes_on = asyncio.Event(), threading.Event()
    loop, look = asyncio.get_running_loop(), stock.info_of

    def hang(domain: libvirt.virDomain) -> DomainInfo:
        if domain.name() == "fluid-a":
            loop.call_soon_threadsafe(hangs.set)
            goes_on.wait()
        return look(domain)

    for name in ("fluid-a", "fluid-b"):
        await define(connection, xml(name, MARK.replace("sandbox", "stock")))
        await domains.pause(name)
    monkeypatch.setattr(stock, "info_of", hang)
    other = domains if where == "of the same host" else Domains(connection, domains.files, "test", "fluid")
    hanging = asyncio.create_task(hand_out(domains, "fluid-a", "web", {"role": "sandbox"}, ""))
    try:
        async with asyncio.timeout(EVENT_LIMIT_S):
            await hangs.wait()
            with pytest.raises(HypervisorFailed):  # not before it was taken: the test driver has no channel
                await hand_out(other, "fluid-b", "web", {"role": "sandbox"}, "")
    finally:
        goes_on.set()
        await asyncio.gather(hanging, return_exceptions=True)
    assert (await domains.info("fluid-b")).metadata == {"role": "sandbox"}


async def test_one_that_ran_since_it_was_suspended_is_another_machine(
    connection: Connection, domains: Domains
) -> None:
    await define(connection, xml("fluid-a", MARK.replace("sandbox", "stock")))
    await domains.files.claim("fluid-a")
    memory = await suspend(domains, "fluid-a")
    assert is_suspended(await domains.info("fluid-a"))
    await domains.call("fluid-a", lambda domain: domain.create(), what="start")
    await domains.power_off("fluid-a")
    with pytest.raises(Conflict, match="ran since it was suspended"):
        await recall(domains, "fluid-a", memory)
    assert memory.exists()


async def test_what_moves_a_guests_memory_has_the_time_that_so_much_takes(
    connection: Connection, domains: Domains, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The test driver refuses some of it: each call has its limit all the same."""
    limits, call = dict[str, float](), connection.call

    async def noted(function: Any, *, what: str, limit_s: float = CALL_TIMEOUT_S) -> Any:
        limits[what] = max(limit_s, limits.get(what, 0))
        return await call(function, what=what, limit_s=limit_s)

    disk = tmp_path / "disk-0.qcow2"
    device = f"<disk type='file'><source file='{disk}'/><target dev='vda'/></disk>"
    text = xml("fluid-a").replace("65536", str(32 << 20))
    await define(connection, text.replace("</domain>", f"<devices>{device}</devices></domain>"))
    for name in ("fluid-a", "fluid-b"):
        await domains.files.claim(name)
    told = await domains.call("fluid-a", lambda domain: domain.XMLDesc().encode(), what="read")
    saved = tmp_path / "saved"
    saved.write_bytes(pack_header(SaveHeader(1 << 15, 1, 0, b"", b""), told))
    monkeypatch.setattr(connection, "call", noted)
    monkeypatch.setattr(domains.files, "backing_chain", AsyncMock(return_value=[disk]))
    monkeypatch.setattr(domains.files, "create_overlay", AsyncMock())
    monkeypatch.setattr(domains, "ask", AsyncMock())
    with suppress(HypervisorFailed):
        await snapshots.snapshot(domains, "fluid-a", "s", memory=True, quiesce_timeout_s=0)
    await snapshots.settle(domains, "fluid-a")
    memory = await suspend(domains, "fluid-a")
    with suppress(HypervisorFailed):
        await recall(domains, "fluid-a", memory)
    await domains.power_off("fluid-a")
    await domains.start("fluid-a")
    with suppress(HypervisorFailed):
        await restore_memory(domains, saved, Rebase("fluid-b", str(uuid4()), disk, tmp_path / "log"))
    asked = {"snapshot": 120, "wait for": 120, "save": 120, "recall": 60, "start": 60}
    expected = {f"{what} fluid-a": memory_limit_s(least_s, 32 << 10) for what, least_s in asked.items()}
    expected["restore fluid-b"] = memory_limit_s(60, 32 << 10)
    assert {what: limits[what] for what in expected} == expected
    with suppress(HypervisorFailed):
        await snapshots.snapshot(domains, "fluid-a", "t", memory=False, quiesce_timeout_s=0)
    assert limits["look at fluid-a"] == CALL_TIMEOUT_S, "what moves no memory has no more time than before"


async def test_files_without_a_domain_are_found(domains: Domains) -> None:
    await domains.files.claim("fluid-half")
    assert await domains.leftovers() == ["fluid-half"]


async def test_libvirts_events_reach_the_loop_in_order(connection: Connection, domains: Domains) -> None:
    async with connection.listening() as events:
        await define(connection, xml("fluid-e"))
        await domains.pause("fluid-e")
        await domains.power_off("fluid-e")
        seen: list[DomainEvent] = []
        async with asyncio.timeout(EVENT_LIMIT_S):
            while len(seen) < 3:
                seen.append(await events.get())
    assert seen == [DomainEvent("fluid-e", kind) for kind in ("started", "paused", "stopped")]


async def test_a_call_that_hangs_is_given_up_and_the_loop_goes_on(connection: Connection) -> None:
    release = threading.Event()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    try:
        with pytest.raises(TimedOut, match=r"within 0\.2 s"):
            await connection.call(lambda _: release.wait(), what="hang", limit_s=0.2)
    finally:
        release.set()
        ticking.cancel()
    assert ticks > 10
    assert await connection.call(lambda conn: conn.getType(), what="ask") == "TEST"


async def test_a_connection_that_dies_before_anybody_looks_at_it_is_made_again(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    dial, dialled = connection._dial, list[libvirt.virConnect]()

    def short_lived() -> libvirt.virConnect:
        dialled.append(dial())
        if len(dialled) == 1:
            connection._closed(dialled[0], 0, None)
        return dialled[-1]

    monkeypatch.setattr(connection, "_dial", short_lived)
    connection._dropped.set()
    async with asyncio.timeout(EVENT_LIMIT_S):
        while len(dialled) < 2 or not connection.alive:
            await asyncio.sleep(0.01)


async def test_errors_say_what_was_wrong(connection: Connection, domains: Domains) -> None:
    with pytest.raises(NotFound, match="fluid-none"):
        await domains.info("fluid-none")
    with pytest.raises(HypervisorFailed, match="define: "):
        await define(connection, "<domain/>")


async def test_nobody_there_is_said_so(tmp_path: Path) -> None:
    host = Hypervisor(
        f"qemu:///system?socket={tmp_path}/none", folder=tmp_path / "host", virt_type="qemu", prefix="fluid"
    )
    with pytest.raises(HypervisorDown, match="none"):
        await host.open()
    with pytest.raises(HypervisorDown):
        await host.list_ours()
    await host.close()


def test_an_error_that_the_garbage_collector_wiped_is_asked_for_again() -> None:
    """A libvirt object in a cycle ends between the call and its exception."""
    conn, kept, codes = libvirt.open("test:///default"), gc.get_threshold(), list[int | None]()

    def look() -> libvirt.virDomain:
        cycle: list[object] = [conn.lookupByName("test")]
        cycle.append(cycle)
        del cycle
        gc.set_threshold(*(kept if codes else (1, 1, 1)))
        try:
            return conn.lookupByName("none")
        except libvirt.libvirtError as error:
            codes.append(error.get_error_code())
            raise

    try:
        assert looked_up(look, libvirt.VIR_ERR_NO_DOMAIN) is None
        assert codes == [None, libvirt.VIR_ERR_NO_DOMAIN]
    finally:
        gc.set_threshold(*kept)
        conn.close()
