"""Sandboxes whose domains somebody ends, pauses, renames or undefines by hand, on libvirt's test driver: the
row, its reason and what is told are right, and one row that fails holds up no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import libvirt
import pytest

from backend import background as background_module
from backend.audit import Audit
from backend.background import Background
from backend.config import Config
from backend.egress import EgressPolicy, EgressProxy
from backend.errors import Conflict, DatabaseDown, HypervisorDown, HypervisorFailed, NoSpace, WrongState
from backend.fleet import Fleet, FleetParts, Hosts, following, object_prefix
from backend.guests import CertificateAuthority
from backend.hypervisor import DomainEvent, ForeignNetwork, Hypervisor
from backend.models import Event, Identity, Phase, Role, Sandbox, now
from backend.paths import Paths
from backend.policy import Policy
from backend.store import EventBus, Store

URI = "test:///default"
OPERATOR = Identity(uid=1000, name="op", role=Role.OPERATOR)
LIMIT_S = 20
BOOTED_S = 3600.0
LOOKED_AT_S = 0.5
DOMAIN = """<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><metadata>
<fluid:domain xmlns:fluid='urn:fluid:domain:1'><fluid:item key='role'>sandbox</fluid:item>
<fluid:item key='sandbox'>{id}</fluid:item></fluid:domain></metadata>
<memory>65536</memory><os><type>hvm</type></os></domain>"""


class Unfiltered(Hypervisor):
    """The test driver knows no filters."""

    async def find_network(self, name: str) -> ForeignNetwork:
        active = self._connection.call(lambda it: it.networkLookupByName(name).isActive(), what="look")
        if not await active:
            raise Conflict(f"network {name!r} is off", remedy="start it")
        return ForeignNetwork(name, "virbr0", "192.168.122.0/24", "192.168.122.1")


class Way:
    """To the test driver. ``up_s``: how long the host runs."""

    link = ssh = None
    uri = URI

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self.up_s = BOOTED_S

    async def hypervisor(self) -> Hypervisor:
        made = Unfiltered(URI, folder=self._folder, virt_type="test", prefix=self._prefix)
        await made.open()
        return made

    async def uptime(self) -> float:
        await asyncio.sleep(0)
        return self.up_s

    async def reserved_mb(self) -> int:
        return 0

    async def revive(self) -> None: ...

    async def leave(self, *, idle: bool) -> None: ...


class Silent:
    """Guests' connections and forwards, of which there are none."""

    def hold(self, name: str) -> None: ...
    def release(self, name: str) -> None: ...
    def keeps(self, name: str) -> bool:
        return True

    async def drop(self, name: str) -> None: ...


class Lab:
    """A fleet with one host, and somebody else's hands on its libvirt."""

    def __init__(self, store: Store, bus: EventBus, folder: Path) -> None:
        self.store, self.bus = store, bus
        self.paths = Paths.under(folder)
        self.paths.make()
        config = Config.model_validate({"hosts": [{"name": "local", "network": "default"}]})
        self.hosts = Hosts(config, self.paths, store)
        (self.host,) = self.hosts
        self.prefix = object_prefix(self.paths)
        self.way = Way(self.paths.domains, self.prefix)
        self.host.way = cast("Any", self.way)
        self.background = Background()
        self.audit = Audit(store, folder / "spool", folder / "audit.key", folder / "audit.head")
        self.proxy = EgressProxy(EgressPolicy(allow=()), on_request=lambda _: None)
        parts = SimpleNamespace(
            config=config,
            store=store,
            events=bus,
            audit=self.audit,
            policy=Policy(config.limits),
            hosts=self.hosts,
            images=SimpleNamespace(list=list),
            guests=Silent(),
            forwards=Silent(),
            proxy=self.proxy,
            commands=None,
            files=None,
            authority=CertificateAuthority(folder / "ca"),
            background=self.background,
        )
        self.fleet = Fleet(cast("FleetParts", parts))
        self.hands = libvirt.open(URI)

    async def box(self, number: int, *, here: bool = True, **fields: Any) -> Sandbox:
        """A row, and its domain, which runs, if it is here."""
        id = f"SBX-{number:08x}"
        known: dict[str, Any] = {
            "phase": Phase.RUNNING,
            "created_at": now(),
            "updated_at": now(),
            "domain": f"{self.prefix}-{id.lower()}",
            "uuid": f"00000000-0000-0000-0000-{number:012x}",
            "host_name": "local",
            **fields,
        }
        row = Sandbox(id=id, sandbox_name=f"box-{number}", base_image="i", owner_uid=1, **known)
        await self.store.sandboxes.insert(row)
        if here:
            self.define(row).create()
        return row

    def define(self, row: Sandbox, name: str = "", uuid: str = "") -> libvirt.virDomain:
        return self.hands.defineXML(DOMAIN.format(name=name or row.domain, uuid=uuid or row.uuid, id=row.id))

    def domain(self, row: Sandbox) -> libvirt.virDomain:
        return self.hands.lookupByUUIDString(row.uuid)

    def names(self) -> set[str]:
        return {domain.name() for domain in self.hands.listAllDomains()}

    async def row(self, row: Sandbox) -> Sandbox:
        return await self.fleet.load(row.id)

    async def until(self, holds: Callable[[Sandbox], bool], row: Sandbox) -> Sandbox:
        async with asyncio.timeout(LIMIT_S):
            with self.bus.subscribe() as events:
                while not holds(found := await self.row(row)):
                    await anext(events)
        return found

    async def told(self, row: Sandbox, kind: str, act: Callable[[], object]) -> Event:
        """The event of that kind about it that follows ``act``."""
        async with asyncio.timeout(LIMIT_S):
            with self.bus.subscribe() as events:
                act()
                async for event in events:
                    if (event.kind, event.id) == (kind, row.id):
                        return event
        raise AssertionError(f"no {kind}")

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """As the daemon does it."""
        await self.fleet.reconcile_all()
        self.background.keep("follow local", lambda: self.fleet.follow(self.host))
        try:
            yield
        finally:
            await self.background.stop("follow local")


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_module, "PAUSE_FIRST_S", 0.01)


@pytest.fixture
async def lab(store: Store, bus: EventBus, tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(store, bus, tmp_path)
    async with lab.background:
        assert await lab.host.open(), lab.host._down.message
        yield lab
    for domain in lab.hands.listAllDomains():
        if domain.name() == "test":  # the driver's own
            continue
        if domain.isActive():
            domain.destroy()
        domain.undefine()
    lab.hands.close()
    await lab.hosts.close()


@pytest.mark.parametrize(
    ("act", "phase", "words"),
    [
        (lambda domain: domain.destroy(), Phase.STOPPED, "somebody switched it off on local, not by Fluid"),
        (lambda domain: domain.shutdown(), Phase.STOPPED, "it shut down"),
        (lambda domain: domain.suspend(), Phase.PAUSED, "somebody paused it on local, not by Fluid"),
        (lambda domain: domain.coreDump("/dev/null", libvirt.VIR_DUMP_CRASH), Phase.ERROR, "machine died"),
        (lambda domain: (domain.undefine(), domain.destroy()), Phase.ERROR, "machine is gone"),
    ],
    ids=["destroyed", "shut down", "paused", "died", "undefined and destroyed"],
)
async def test_what_is_done_to_it_by_hand_is_in_its_row_and_told_with_its_reason(
    lab: Lab, act: Callable[[libvirt.virDomain], object], phase: Phase, words: str
) -> None:
    row, other = await lab.box(1), await lab.box(2)
    async with lab.followed():
        # With a definition or without one: what it is at last is what is told last.
        event = await lab.told(row, f"sandbox.{phase}", lambda: act(lab.domain(row)))
        found = await lab.until(lambda one: words in one.reason, row)
    assert found.phase is phase and words in event.data["reason"]
    assert (await lab.row(other)).phase is Phase.RUNNING
    shown, _ = await lab.fleet.list(OPERATOR)
    assert {one.id: one.reason for one in shown}[row.id] == found.reason


async def test_who_is_cut_off_from_one_that_died_finds_the_reason_in_its_row(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await lab.box(1)
    cut: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()

    async def hang_up(sandbox: Sandbox) -> None:
        cut.set_result(await lab.row(sandbox))

    monkeypatch.setattr(lab.fleet, "hang_up", hang_up)
    async with lab.followed():
        lab.domain(row).destroy()
        found = await asyncio.wait_for(cut, LIMIT_S)
    assert found.phase is Phase.STOPPED and "somebody switched it off" in found.reason


async def test_what_the_proxy_knew_of_a_sandbox_goes_with_it(lab: Lab) -> None:
    row, other = await lab.box(1), await lab.box(2)
    for one in (row, other):
        lab.proxy.restore(one.id, 5)
    await lab.fleet.discard(row)
    assert (lab.proxy.used(row.id), lab.proxy.used(other.id)) == (0, 5)


async def test_a_twin_that_goes_is_not_told_as_somebody_else_s_doing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = asyncio.Event()

    async def forgotten(_: str) -> None:
        """Between the domain's end and the row's: there libvirt's event is looked at."""
        gone.set()
        await asyncio.sleep(LOOKED_AT_S)

    async with lab.followed():
        # Before it is there: libvirt's first word of it may come late.
        lab.fleet._young["SBX-00000001"] = "local"
        twin, other = await lab.box(1, purpose="rehearsal"), await lab.box(2)
        monkeypatch.setattr(lab.store.snapshots, "forget", forgotten)
        with lab.bus.subscribe() as events:
            await lab.fleet.discard(twin)
            assert gone.is_set() and (await lab.row(twin)).phase is Phase.DESTROYED
            lab.domain(other).destroy()
            told = []
            async with asyncio.timeout(LIMIT_S):
                async for event in events:
                    told.append((event.kind, event.id))
                    if told[-1] == ("sandbox.stopped", other.id):
                        break
    assert ("sandbox.error", twin.id) not in told and twin.id not in lab.fleet._young


async def test_one_that_is_undefined_while_it_runs_is_defined_again(lab: Lab) -> None:
    row = await lab.box(1)
    async with lab.followed():
        lab.domain(row).undefine()
        async with asyncio.timeout(LIMIT_S):
            while not lab.domain(row).isPersistent():
                await asyncio.sleep(0.01)
        await lab.told(row, "sandbox.stopped", lambda: lab.domain(row).destroy())
    assert row.domain in lab.names()


@pytest.mark.parametrize("inside", [True, False], ids=["within our prefix", "outside of it"])
async def test_one_that_is_renamed_gets_its_name_again_and_is_never_destroyed(lab: Lab, inside: bool) -> None:
    row = await lab.box(1, phase=Phase.STOPPED, reason="nobody worked in it")
    name = f"{lab.prefix}-sbx-web" if inside else "web"
    lab.domain(row).destroy()
    lab.domain(row).rename(name)
    async with lab.followed():  # renamed while nobody looked
        assert lab.domain(row).name() == row.domain
        assert (await lab.row(row)).reason == "nobody worked in it"
        lab.domain(row).rename(name)
        async with asyncio.timeout(LIMIT_S):
            while lab.domain(row).name() != row.domain:
                await asyncio.sleep(0.01)
        await lab.told(row, "sandbox.changed", lambda: lab.domain(row).create())
        assert (await lab.row(row)).phase is Phase.RUNNING


@pytest.mark.parametrize("inside", [True, False], ids=["within our prefix", "outside of it"])
async def test_one_that_runs_under_another_name_says_so_until_it_is_off(lab: Lab, inside: bool) -> None:
    row = await lab.box(1)
    name = f"{lab.prefix}-sbx-web" if inside else "web"
    lab.domain(row).destroy()
    lab.domain(row).rename(name)
    lab.domain(row).create()
    async with lab.followed():
        found = await lab.row(row)
        assert found.phase is Phase.ERROR and f"the name {name}" in found.reason
        assert lab.domain(row).isActive()
        lab.domain(row).destroy()
        await lab.fleet._look_again(row.id)
    assert (await lab.row(row)).phase is Phase.STOPPED and lab.domain(row).name() == row.domain


async def test_one_that_was_renamed_is_destroyed_under_its_new_name(lab: Lab) -> None:
    row = await lab.box(1)
    lab.domain(row).destroy()
    lab.domain(row).rename("web")
    lab.domain(row).create()
    await lab.fleet.destroy(OPERATOR, row.id)
    assert lab.names() == {"test"}


async def test_what_no_row_names_goes_and_a_copy_of_a_living_one_stays(lab: Lab) -> None:
    row, gone = await lab.box(1), await lab.box(2, phase=Phase.DESTROYED)
    copy = f"{lab.prefix}-sbx-copy"
    lab.define(row, copy, "00000000-0000-0000-0000-000000000099").create()
    async with lab.followed():
        assert lab.names() == {"test", row.domain, copy}
        assert gone.domain not in lab.names()
    assert (await lab.row(row)).phase is Phase.RUNNING


async def test_what_an_installation_at_the_same_path_on_another_machine_made_stays(
    lab: Lab, tmp_path: Path
) -> None:
    ours = lab.paths.state.rename(tmp_path / "ours")
    lab.paths.make()
    theirs = f"{object_prefix(lab.paths)}-sbx-00000002"
    lab.paths.state.rename(tmp_path / "theirs")
    ours.rename(lab.paths.state)
    gone = await lab.box(1, phase=Phase.DESTROYED)
    lab.define(gone, theirs, "00000000-0000-0000-0000-000000000002").create()
    async with lab.followed():
        assert lab.names() == {"test", theirs}


async def test_what_happens_between_the_start_and_the_following_is_not_missed(lab: Lab) -> None:
    row = await lab.box(1)
    await lab.fleet.reconcile_all()
    lab.domain(row).destroy()
    lab.background.keep("follow local", lambda: lab.fleet.follow(lab.host))
    found = await lab.until(lambda one: one.phase is Phase.STOPPED, row)
    assert "switched it off" in found.reason


async def test_a_host_that_was_restarted_is_the_reason_of_what_it_held(lab: Lab) -> None:
    row = await lab.box(
        1, created_at=now() - timedelta(hours=2), last_activity_at=now() - timedelta(hours=1.5)
    )
    lab.domain(row).coreDump("/dev/null", libvirt.VIR_DUMP_CRASH)
    async with lab.followed():
        found = await lab.row(row)
    assert found.phase is Phase.STOPPED and "local was restarted at" in found.reason


async def test_a_host_that_comes_back_without_its_network_takes_nothing_until_that_stands(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = SimpleNamespace(virt_type="kvm", memory_free_mb=9000, disk_free_mb=9000)
    monkeypatch.setattr(lab.host, "look", AsyncMock(return_value=facts))  # the test driver has none
    network = lab.hands.networkLookupByName("default")
    async with lab.followed(), asyncio.timeout(LIMIT_S):
        network.destroy()
        await lab.fleet._follow(lab.host, DomainEvent("", "connected"))
        while (await lab.host.room("")).down is None:
            await asyncio.sleep(0.01)
        why = (await lab.host.room("")).down
        assert isinstance(why, Conflict) and why.message == "network 'default' is off"
        health = await lab.background.component()
        assert "make the network of local ready failed" in health.message
        network.create()
        while (await lab.host.room("")).down is not None:
            await asyncio.sleep(0.01)


async def test_a_template_whose_build_was_cut_off_goes_at_the_start_and_is_told(lab: Lab) -> None:
    name = f"{lab.prefix}-template-k-work"
    xml = DOMAIN.format(name=name, uuid="00000000-0000-0000-0000-00000000aaaa", id="")
    lab.hands.defineXML(xml.replace(">sandbox<", ">template<")).create()
    row = await lab.box(1)
    await lab.fleet.reconcile_all()
    assert name not in lab.names() and row.domain in lab.names()


async def test_of_two_who_ask_since_when_a_host_runs_both_hear_it(lab: Lab) -> None:
    told = await asyncio.gather(lab.host.booted_at(), lab.host.booted_at())
    assert told[0] is not None and told[0] == told[1]


async def test_following_goes_on_after_an_error_that_nobody_foresaw(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await lab.box(1)
    real, failures = lab.fleet.reconcile, [KeyError("a"), KeyError("a")]

    async def reconcile(host: Any) -> None:
        if failures:
            raise failures.pop()
        await real(host)

    async with lab.followed():
        await lab.background.stop("follow local")
        monkeypatch.setattr(lab.fleet, "reconcile", reconcile)
        lab.background.keep("follow local", lambda: lab.fleet.follow(lab.host))
        lab.domain(row).destroy()
        await lab.until(lambda one: one.phase is Phase.STOPPED, row)
        health = await lab.background.component()
    assert health.status == "degraded" and "follow local failed 2 times" in health.message


async def test_a_row_that_cannot_be_settled_holds_up_no_other_and_is_tried_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = await lab.box(1, doing="snapshot p")
    good = await lab.box(2)
    lab.domain(good).destroy()
    failures = [HypervisorFailed("the job is stuck", remedy="wait"), KeyError("x")]

    async def settle(domain: str) -> None:
        if failures:
            raise failures.pop()

    async def done(*_: object) -> int:
        return 0

    hypervisor = lab.host.require()
    monkeypatch.setattr(hypervisor, "settle", settle)
    monkeypatch.setattr(hypervisor, "delete_snapshot", done)
    monkeypatch.setattr(hypervisor, "tidy", done)
    async with lab.followed():
        assert (await lab.row(good)).phase is Phase.STOPPED
        await lab.until(lambda one: not one.doing, bad)
    assert not failures


async def test_one_that_cannot_be_destroyed_does_not_keep_others_alive(lab: Lab) -> None:
    late = now() - timedelta(seconds=1)
    stuck = await lab.box(1, expires_at=late)
    unlisted = await lab.box(2, expires_at=late, host_name="sold")
    over = await lab.box(3, expires_at=late)
    lab.domain(stuck).destroy()
    lab.domain(stuck).undefine()
    xml = DOMAIN.format(name=stuck.domain, uuid="00000000-0000-0000-0000-000000000077", id="x")
    start, end = xml.index("<metadata>"), xml.index("</metadata>") + len("</metadata>")
    lab.hands.defineXML(xml[:start] + xml[end:])  # somebody else's, under its name
    lock = lab.fleet.exclusive(stuck.id)
    await lock.acquire()  # and somebody is at work on it
    await lab.fleet.expire()
    await lab.until(lambda one: one.phase is Phase.DESTROYED, over)
    lock.release()
    await lab.until(lambda one: not one.doing, stuck)
    for _ in range(3):
        await lab.fleet.expire()
    assert (await lab.row(stuck)).phase is not Phase.DESTROYED
    assert (await lab.row(unlisted)).phase is Phase.RUNNING
    assert stuck.domain in lab.names() and over.domain not in lab.names()


async def test_one_that_is_extended_while_its_end_waits_lives_on(lab: Lab) -> None:
    row = await lab.box(1, expires_at=now() - timedelta(seconds=1))
    lock = lab.fleet.exclusive(row.id)
    async with lock, asyncio.timeout(LIMIT_S):
        await lab.fleet.expire()
        while not lock._waiters:
            await asyncio.sleep(0.01)
        longer = row.model_copy(update={"expires_at": now() + timedelta(hours=1)})
        await lab.store.sandboxes.save(longer)  # by who was before it
        (ending,) = lab.background._tasks.values()
    await ending
    assert (await lab.row(row)).phase is Phase.RUNNING and row.domain in lab.names()


async def test_rows_of_a_host_that_is_not_listed_any_more_are_lost_found_again_or_given_up(lab: Lab) -> None:
    there: dict[str, Any] = {"host_name": "sold", "here": False}
    row = await lab.box(1, phase=Phase.PAUSED, reason="the disk was full", **there)
    half = await lab.box(2, phase=Phase.CREATING, **there)
    other = await lab.box(3, **there)
    for _ in range(2):  # also the next start
        await lab.fleet.reconcile_all()
    found = await lab.row(row)
    assert found.phase is Phase.LOST
    assert "sold is not among the hosts any more; it was paused (the disk was full)" in found.reason
    assert "config.yaml" in found.reason and f"fluid sandboxes destroy {row.id}" in found.reason
    with pytest.raises(WrongState, match="not among the hosts"):
        await lab.fleet.running(OPERATOR, row.id)
    await lab.fleet.destroy(OPERATOR, other.id)
    assert (await lab.row(other)).phase is Phase.DESTROYED
    for one in (row, half, other):  # it is listed again, by another name
        lab.define(one).create()
    lab.domain(row).suspend()
    await lab.fleet.reconcile_all()
    back = await lab.row(row)
    assert (back.phase, back.reason, back.host_name) == (Phase.PAUSED, "the disk was full", "local")
    assert (await lab.row(half)).phase is Phase.DESTROYED
    assert lab.names() == {"test", row.domain}


async def test_a_pause_for_the_disk_outlives_its_host_s_absence_and_still_needs_room(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await lab.box(1)
    await lab.fleet.pause(OPERATOR, row.id, reason="local has 3 MB of disk left")
    monkeypatch.setattr(following, "LOST_AFTER_S", 0.0)
    hypervisor = lab.host.require()
    monkeypatch.setattr(hypervisor._connection, "alive", False)
    await lab.fleet._lose(lab.host)
    found = await lab.row(row)
    assert found.phase is Phase.LOST and "it was paused (local has 3 MB of disk left)" in found.reason
    monkeypatch.setattr(hypervisor._connection, "alive", True)
    await lab.fleet.reconcile(lab.host)
    found = await lab.row(row)
    assert (found.phase, found.reason) == (Phase.PAUSED, "local has 3 MB of disk left")

    async def look(max_age_s: float = 0) -> SimpleNamespace:
        return SimpleNamespace(disk_free_mb=3)

    monkeypatch.setattr(lab.host, "look", look)
    with pytest.raises(NoSpace):
        await lab.fleet.resume(OPERATOR, row.id)


@pytest.mark.parametrize(
    ("row_was", "domain_was"),
    [
        ({"phase": Phase.CREATING}, {}),
        ({"doing": "restore before"}, {}),
        ({"purpose": "stock"}, {}),
        ({}, {"state": "shutoff", "why": "switched off"}),
    ],
    ids=["made since", "restored since", "handed out since", "started since"],
)
async def test_what_a_reconcile_read_a_while_ago_is_read_again_before_it_does_anything(
    lab: Lab, row_was: dict[str, Any], domain_was: dict[str, Any]
) -> None:
    row = await lab.box(1)
    info = replace(await lab.host.require().info(row.domain), **domain_was)
    assert await lab.fleet._agree_on(lab.host, row.model_copy(update=row_was), info) == []
    assert await lab.row(row) == row and lab.domain(row).isActive()


async def test_files_that_are_claimed_while_a_reconcile_looks_for_leftovers_stay(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypervisor = lab.host.require()
    leftovers, folders = hypervisor.leftovers, lab.paths.domains / "domains"

    async def looked() -> list[str]:
        row = await lab.box(1, here=False, phase=Phase.CREATING)
        (folders / row.domain).mkdir()
        (folders / f"{lab.prefix}-sbx-nobodys").mkdir()
        return await leftovers()

    monkeypatch.setattr(hypervisor, "leftovers", looked)
    await lab.fleet.reconcile(lab.host)
    assert [path.name for path in folders.iterdir()] == [f"{lab.prefix}-sbx-00000001"]


async def test_what_runs_stands_still_without_the_database_and_the_rows_follow(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, stock = await lab.box(1), await lab.box(2)
    text = lab.domain(stock).XMLDesc().replace(">sandbox</fluid:item>", ">stock</fluid:item>")
    lab.domain(stock).destroy()
    lab.hands.defineXML(text).create()

    async def gone(*_: object, **__: object) -> None:
        raise DatabaseDown("gone")

    async def down(*_: object) -> list[str]:
        raise HypervisorDown("it is not there")

    async with lab.followed():
        with monkeypatch.context() as patch:
            for table in (lab.store.sandboxes, lab.store.audit):
                for work in ("list", "find", "change", "get", "append", "head"):
                    patch.setattr(table, work, gone, raising=False)
            assert await lab.fleet.stand_still() == ([box.id], {})
        assert lab.domain(box).state()[0] == libvirt.VIR_DOMAIN_PAUSED
        assert lab.domain(stock).state()[0] == libvirt.VIR_DOMAIN_RUNNING
        await lab.until(lambda row: row.phase is Phase.PAUSED, box)
    lab.domain(box).resume()
    monkeypatch.setattr(lab.host.require(), "pause", down)
    assert await lab.fleet.stand_still() == ([], {box.domain: "it is not there"})
    monkeypatch.setattr(lab.host.require(), "list_ours", down)
    assert await lab.fleet.stand_still() == ([], {"local": "it is not there"})
