"""The guard over a real database, with hosts that only say how full they are."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from backend.api.routes import sandboxes as stream
from backend.audit import Audit
from backend.background import Background
from backend.client.sse import Parser
from backend.config import Config
from backend.errors import HypervisorFailed, NoSpace, PolicyDenied, WrongState
from backend.fleet import Fleet, FleetParts, Guard
from backend.fleet.placement import Placement
from backend.fleet.turns import USUAL_S, Turns
from backend.guests import CertificateAuthority, Guest
from backend.hypervisor import DiskUse, DomainInfo, GuestImage
from backend.hypervisor import Identity as DomainIdentity
from backend.hypervisor.merging import Mergeable
from backend.hypervisor.nouns import State
from backend.hypervisor.templates import Before
from backend.models import CreateSandbox, Identity, Phase, QueuePlace, Role, Sandbox, SnapshotRequest, now
from backend.policy import Policy
from backend.store import EventBus, Store, Subscription

OPERATOR = Identity(uid=1000, name="op", role=Role.OPERATOR)
AGENT = Identity(uid=1001, name="ann")
RESERVE_MB = 2048
GUEST_MB = 1024  # as the config has it without a word
HOUR_S = 3600
LIMIT_S = 20
MIB = 1 << 20


class Machine:
    """A host whose disk and layers are what a test says."""

    up = True

    def __init__(self, name: str = "local") -> None:
        self.name = name
        self.free_mb = 10_000
        self.memory_free_mb = 10_000
        self.promised: dict[str, int] = {}
        self.promised_disk: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.states: dict[str, str] = {}

    def require(self) -> Machine:
        return self

    async def look(self, max_age_s: float = 1.0) -> SimpleNamespace:
        return SimpleNamespace(disk_free_mb=self.free_mb, memory_free_mb=self.memory_free_mb)

    async def disk_use(self) -> list[DiskUse]:
        return [DiskUse(domain, f"/d/{domain}", size) for domain, size in self.sizes.items()]

    async def to_merge(self, domain: str) -> list[Mergeable]:
        return []

    async def layers_below(self, layer: Path) -> list[Path]:
        return [layer]

    async def pause(self, domain: str) -> None:
        self.states[domain] = "paused"

    async def resume(self, domain: str, *, ca_public: str) -> None:
        self.states[domain] = "running"

    async def stop(self, domain: str) -> None:
        self.states[domain] = "shutoff"

    async def info(self, domain: str) -> DomainInfo:
        return DomainInfo(domain, "", cast("State", self.states.get(domain, "running")), {})


class Machines(list[Machine]):
    def named(self, name: str) -> Machine:
        return next(machine for machine in self if machine.name == name)


class Silent:
    """Guests' connections and forwards, of which there are none."""

    def hold(self, name: str) -> None: ...
    def forget(self, name: str) -> None: ...
    def release(self, name: str) -> None: ...
    async def drop(self, name: str) -> None: ...
    async def ready(self, guest: Guest, *, timeout_s: float) -> None: ...


class Lab:
    """A fleet and its guard. ``output``: when terminals last showed something."""

    def __init__(self, config: Config, store: Store, bus: EventBus, folder: Path) -> None:
        self.machine = Machine()
        self.machines = Machines([self.machine])
        self.config, self.store, self.bus = config, store, bus
        self.audit = Audit(store, folder / "spool", folder / "audit.key", folder / "audit.head")
        parts = SimpleNamespace(
            config=config,
            store=store,
            events=bus,
            audit=self.audit,
            policy=Policy(config.limits),
            hosts=self.machines,
            guests=Silent(),
            forwards=Silent(),
            proxy=Silent(),
            commands=None,
            files=None,
            authority=CertificateAuthority(folder / "ca"),
        )
        self.fleet = Fleet(cast("FleetParts", parts))
        self.output: dict[str, datetime] = {}
        self.background = Background()
        self.guard = self.another_guard()

    def another_guard(self) -> Guard:
        """As after a restart."""

        async def output() -> Mapping[str, datetime]:
            return self.output

        hosts = cast("Any", self.machines)
        return Guard(self.config, self.store, self.bus, hosts, self.fleet, output, self.background)

    async def runs(self, number: int, **fields: object) -> Sandbox:
        """A sandbox that runs, with nothing on its disk."""
        known: dict[str, Any] = {
            "phase": Phase.RUNNING,
            "owner_uid": AGENT.uid,
            "host_name": "local",
            "created_at": now(),
            "updated_at": now(),
            **fields,
        }
        row = Sandbox(
            id=f"SBX-0000000{number}",
            sandbox_name=f"box-{number}",
            base_image="i",
            domain=f"d-{number}",
            **known,
        )
        await self.store.sandboxes.insert(row)
        self.machine.sizes[row.domain] = 0
        return row

    async def reserve(self) -> None:
        """One look at the host's disk."""
        await self.guard.keep_reserve(cast("Any", self.machine))

    async def settled(self) -> None:
        """What was begun in the background has ended."""
        async with asyncio.timeout(LIMIT_S):
            while tasks := list(self.background._tasks.values()):
                await asyncio.wait(tasks)

    async def row(self, name: str) -> Sandbox:
        row = await self.fleet.named(name)
        assert row is not None
        return row

    async def phases(self) -> dict[str, tuple[Phase, str]]:
        return {row.sandbox_name: (row.phase, row.reason) for row in await self.fleet.all_live()}


@pytest.fixture
def config() -> Config:
    return Config.model_validate({"limits": {"disk_reserve_mb": RESERVE_MB, "ttl_max_s": 2 * HOUR_S}})


@pytest.fixture
def lab(config: Config, store: Store, bus: EventBus, tmp_path: Path) -> Lab:
    return Lab(config, store, bus, tmp_path)


async def told(events: Subscription, kind: str) -> dict[str, Any]:
    """The next event of that kind."""
    async with asyncio.timeout(LIMIT_S):
        async for event in events:
            if event.kind == kind:
                return {"id": event.id, **event.data}
    raise AssertionError(f"no {kind}")


async def test_at_the_reserve_the_one_that_wrote_most_is_paused_and_says_why(lab: Lab) -> None:
    quiet, writer = await lab.runs(1), await lab.runs(2)
    lab.machine.sizes[quiet.domain] = 900 * MIB  # long ago
    await lab.reserve()
    lab.machine.sizes[writer.domain], lab.machine.free_mb = 300 * MIB, RESERVE_MB - 100
    lab.machine.sizes[quiet.domain] += 2 * MIB
    with lab.bus.subscribe() as events:
        await lab.reserve()
        event = await told(events, "sandbox.paused")
    assert event["id"] == writer.id and "1948 MB of disk left" in event["reason"]
    phases = await lab.phases()
    assert phases["box-1"] == (Phase.RUNNING, "")
    assert phases["box-2"] == (Phase.PAUSED, event["reason"])
    assert "wrote 300 MB" in event["reason"] and f"fluid sandboxes resume {writer.id}" in event["reason"]
    assert lab.machine.states == {writer.domain: "paused"}
    rows, _ = await lab.audit.list(sandbox_id=writer.id)
    assert {(row.action, row.step, row.data["reason"], row.role) for row in rows if row.step == "intent"} == {
        ("sandbox.pause", "intent", event["reason"], "system")
    }


async def test_what_libvirt_says_of_the_pause_later_does_not_take_the_reason_away(lab: Lab) -> None:
    row = await lab.runs(1)
    await lab.fleet.pause(OPERATOR, row.id, reason="the disk is full")
    shown = DomainInfo(row.domain, "", "paused", {}, "asked")
    assert not await lab.fleet.see(await lab.fleet.load(row.id), shown)
    assert (await lab.phases())["box-1"] == (Phase.PAUSED, "the disk is full")


async def test_the_guard_waits_for_nobody_who_is_at_work_on_the_one_that_writes(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping, others = await lab.runs(1), [await lab.runs(2), await lab.runs(3)]
    asked, ends = asyncio.Event(), asyncio.Event()
    stop = lab.machine.stop

    async def slow(domain: str) -> None:
        asked.set()
        await ends.wait()
        await stop(domain)

    monkeypatch.setattr(lab.machine, "stop", slow)
    await lab.reserve()
    lab.machine.free_mb = RESERVE_MB - 100
    for number, row in enumerate((others[1], others[0], stopping), 1):
        lab.machine.sizes[row.domain] = number * 100 * MIB
    stopped = asyncio.create_task(lab.fleet.stop(AGENT, stopping.id))
    async with asyncio.timeout(LIMIT_S):
        await asked.wait()
        await lab.reserve()
        assert lab.machine.states == {stopping.domain: "paused"}, "it writes no more, whoever holds its lock"
        assert (await lab.phases())["box-1"] == (Phase.RUNNING, "")
        await lab.reserve()
        assert lab.machine.states == dict.fromkeys((stopping.domain, others[0].domain), "paused")
        ends.set()
        await stopped
        await lab.settled()
    assert (await lab.phases())["box-1"] == (Phase.STOPPED, "")


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.STOPPED])
async def test_the_row_of_one_that_was_halted_says_why_when_its_turn_comes(lab: Lab, phase: Phase) -> None:
    """One that is stopped is being started."""
    row = await lab.runs(1, phase=phase)
    await lab.reserve()
    async with asyncio.timeout(LIMIT_S):
        with lab.bus.subscribe() as events:
            async with lab.fleet.exclusive(row.id):
                lab.machine.sizes[row.domain], lab.machine.free_mb = 300 * MIB, RESERVE_MB - 100
                await lab.reserve()
                assert lab.machine.states == {row.domain: "paused"}
                lab.machine.states[row.domain] = "running"  # as libvirt does after a snapshot
                await lab.reserve()
                assert lab.machine.states == {row.domain: "running"}, "what it wrote before counts no more"
                lab.machine.sizes[row.domain] += 2 * MIB
                await lab.reserve()
                assert (await lab.phases())["box-1"] == (phase, "")
            event = await told(events, "sandbox.paused")
        await lab.settled()
    assert "it wrote 300 MB" in event["reason"]
    assert (await lab.phases())["box-1"] == (Phase.PAUSED, event["reason"])
    rows, _ = await lab.audit.list(sandbox_id=row.id)
    assert {(one.action, one.step) for one in rows} == {
        ("sandbox.pause", "intent"), ("sandbox.pause", "outcome"),
    }  # fmt: skip


async def test_one_that_goes_on_again_when_its_turn_comes_is_not_told_to_be_paused(lab: Lab) -> None:
    row, restored = await lab.runs(1), await lab.runs(2, doing="restore a")
    await lab.reserve()
    lab.machine.free_mb = RESERVE_MB - 100
    lab.machine.sizes |= {row.domain: 300 * MIB, restored.domain: 500 * MIB}
    async with asyncio.timeout(LIMIT_S), lab.fleet.exclusive(row.id), lab.fleet.exclusive(restored.id):
        await lab.reserve()
        lab.machine.states[row.domain] = "running"
    await lab.settled()
    assert await lab.phases() == dict.fromkeys(("box-1", "box-2"), (Phase.RUNNING, ""))
    assert restored.domain not in lab.machine.states, "a restore whose guest stands still fails half-way"


async def test_it_goes_on_once_there_is_room_and_not_before(lab: Lab) -> None:
    row = await lab.runs(1)
    await lab.reserve()
    lab.machine.sizes[row.domain], lab.machine.free_mb = MIB, RESERVE_MB - 1  # the least that counts
    await lab.reserve()
    with pytest.raises(NoSpace, match="2047 MB are free"):
        await lab.fleet.resume(AGENT, row.id)
    with pytest.raises(WrongState, match="of disk left"):  # its agent reads why, whatever it tries
        await lab.fleet.running(AGENT, row.id)
    lab.machine.free_mb = RESERVE_MB
    await lab.fleet.resume(AGENT, row.id)
    assert (await lab.phases())["box-1"] == (Phase.RUNNING, "")


async def test_who_wrote_next_to_nothing_or_is_nobodys_is_left_alone(lab: Lab) -> None:
    still, parked = await lab.runs(1), await lab.runs(2, purpose="stock", phase=Phase.PAUSED)
    await lab.reserve()
    lab.machine.sizes[parked.domain], lab.machine.free_mb = 500 * MIB, 1
    lab.machine.sizes[still.domain] = MIB - 1
    await lab.reserve()
    assert (await lab.phases())[still.sandbox_name] == (Phase.RUNNING, "")
    assert lab.machine.states == {}


async def test_an_end_is_announced_once_at_each_time_also_by_the_next_backend(lab: Lab) -> None:
    row = await lab.runs(1, ttl_seconds=HOUR_S, expires_at=now() + timedelta(seconds=599))
    with lab.bus.subscribe() as events:
        await lab.guard.warn()
        event = await told(events, "sandbox.expiring")
        assert event["id"] == row.id and 590 < event["seconds"] < 600
        for guard in (lab.guard, lab.another_guard()):
            await guard.warn()
        near = (await lab.fleet.load(row.id)).model_copy(update={"expires_at": now() + timedelta(seconds=59)})
        await lab.store.sandboxes.save(near)
        await lab.another_guard().warn()
        event = await told(events, "sandbox.expiring")  # the very next one
        assert 50 < event["seconds"] < 60


async def test_an_agent_hears_of_the_end_and_of_a_pause_in_the_stream_of_its_sandbox(lab: Lab) -> None:
    row = await lab.runs(1, ttl_seconds=HOUR_S, expires_at=now() + timedelta(seconds=599))
    other = await lab.runs(2, ttl_seconds=HOUR_S, expires_at=now() + timedelta(seconds=599))
    frames = stream._frames(lab.bus.subscribe(), row.id)

    async def heard(words: str) -> dict[str, Any]:
        """The next that says why; nothing of the other sandbox comes."""
        async with asyncio.timeout(LIMIT_S):
            async for text in frames:
                (frame,) = Parser().feed(text)
                told = frame.json()
                reason = told["data"].get("reason", "")
                assert other.id not in reason
                if words in reason:
                    return {"type": told["type"], **told["data"]}
        raise AssertionError(f"nothing says {words!r}")

    connected = await anext(frames)
    assert b"connected" in connected
    await lab.guard.warn()
    end = await heard(f"fluid sandboxes extend {row.id}")
    assert end["type"] == "state" and 590 < end["seconds"] < 600
    await lab.reserve()
    lab.machine.sizes[row.domain], lab.machine.free_mb = 500 * MIB, RESERVE_MB - 1
    await lab.reserve()
    assert (await heard("of disk left"))["type"] == "state"
    await frames.aclose()  # type: ignore[attr-defined]


async def test_an_extension_is_within_the_policy_and_begins_the_warnings_anew(lab: Lab) -> None:
    row = await lab.runs(1, ttl_seconds=HOUR_S, expires_at=now() + timedelta(seconds=59))
    await lab.guard.warn()
    with pytest.raises(PolicyDenied, match=r"7201 s.*ttl-max") as refused:
        await lab.fleet.extend(AGENT, row.id, 2 * HOUR_S + 1)
    assert refused.value.details["rule"] == "ttl-max"
    assert (await lab.fleet.load(row.id)).expiry_told_s == 60
    longer = await lab.fleet.extend(AGENT, row.id, 2 * HOUR_S)
    assert longer.expiry_told_s is None and longer.ttl_seconds == 2 * HOUR_S


@pytest.fixture
def idle(store: Store, bus: EventBus, tmp_path: Path) -> Lab:
    """A fleet that stops what is idle for an hour, and whose backend runs for a day."""
    lab = Lab(Config.model_validate({"guests": {"idle_stop_s": HOUR_S}}), store, bus, tmp_path)
    lab.guard.began = now() - timedelta(days=1)
    return lab


async def test_what_nobody_works_in_is_stopped_with_its_reason(idle: Lab) -> None:
    long_ago = now() - timedelta(hours=2)
    for number in range(1, 6):
        await idle.runs(number, created_at=long_ago, last_activity_at=long_ago)
    _, shown, busy, looked, _ = rows = [await idle.fleet.load(f"SBX-0000000{n}") for n in range(1, 6)]
    idle.output[shown.id] = now() - timedelta(minutes=59)
    await idle.fleet.running(AGENT, looked.id)  # every use of a guest asks this first
    await idle.store.sandboxes.save(rows[4].model_copy(update={"purpose": "rehearsal"}))
    with idle.bus.subscribe() as events, idle.fleet.at_work(busy.id):
        await idle.guard.stop_idle()
        event = await told(events, "sandbox.stopped")
        await idle.settled()
    assert event["id"] == rows[0].id and "nobody worked in it for 3600 s" in event["reason"]
    phases = await idle.phases()
    assert phases["box-1"] == (Phase.STOPPED, event["reason"])
    assert {phases[f"box-{number}"][0] for number in range(2, 6)} == {Phase.RUNNING}


async def test_idle_machines_run_on_where_the_config_does_not_say_and_after_a_restart(
    lab: Lab, idle: Lab
) -> None:
    row = await lab.runs(1, last_activity_at=now() - timedelta(days=9), created_at=now() - timedelta(days=9))
    lab.guard.began = now() - timedelta(days=9)
    await lab.guard.stop_idle()
    await idle.another_guard().stop_idle()  # it cannot know yet who read files or typed
    await lab.settled()
    await idle.settled()
    assert (await lab.fleet.load(row.id)).phase is Phase.RUNNING


async def test_a_host_that_is_added_later_is_watched_too(lab: Lab) -> None:
    row = await lab.runs(1, host_name="later")
    running = asyncio.create_task(lab.guard.run())
    try:
        later = Machine("later")
        lab.machines.append(later)
        async with asyncio.timeout(LIMIT_S):
            while (await lab.phases())[row.sandbox_name][0] is Phase.RUNNING:
                later.sizes[row.domain] = later.sizes.get(row.domain, 0) + MIB
                later.free_mb = 100
                await asyncio.sleep(0.2)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    phase, reason = (await lab.phases())[row.sandbox_name]
    assert phase is Phase.PAUSED and reason.startswith("later has 100 MB of disk left")


async def test_creates_at_once_pass_no_limit(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each counts from the moment it is asked for, long before it has a row."""
    image = SimpleNamespace(name="i", sha256="ab" * 32)
    going_on = asyncio.Event()

    async def obtain(wanted: Sandbox, _: object) -> Sandbox:
        await going_on.wait()
        return wanted

    async def size(*_: object) -> int:
        return 1

    monkeypatch.setattr(lab.fleet, "_source", lambda _: image)
    monkeypatch.setattr(lab.fleet, "disk_gb", size)
    monkeypatch.setattr(lab.fleet, "obtain", obtain)
    limit = lab.config.limits.sandboxes_per_owner
    asked = [
        asyncio.create_task(
            lab.fleet.create(
                AGENT, CreateSandbox(source_vm_name="i", agent_id="a", vm_name=f"box-{number // 2}")
            )
        )
        for number in range(2 * limit + 4)
    ]
    async with asyncio.timeout(LIMIT_S):
        while sum(one.done() for one in asked) < limit + 4:
            await asyncio.sleep(0.01)
    going_on.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(answer, Sandbox) for answer in answers) == limit
    refused = Counter(type(answer).__name__ for answer in answers if not isinstance(answer, Sandbox))
    assert refused == {"DuplicateName": limit, "LimitReached": 4}


async def test_a_create_that_waits_shows_its_place_and_an_estimate(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = SimpleNamespace(name="i", sha256="ab" * 32)
    going_on = asyncio.Event()
    network = SimpleNamespace(name="n", host_address="10.0.0.1")
    host = SimpleNamespace(
        name="local",
        turns=Turns(),
        promised={},
        promised_disk={},
        network=network,
        prefix=24,
        domain_name=str.lower,
        take_address=AsyncMock(return_value="10.0.0.2"),
    )

    async def boot(row: Sandbox) -> tuple[SimpleNamespace, str]:
        await going_on.wait()
        await lab.fleet._identify(row)
        return SimpleNamespace(name=f"d-{row.sandbox_name}", uuid=row.id), "fork"

    async def obtain(wanted: Sandbox, _: object) -> Sandbox:
        wanted.host_name = "local"
        return await lab.fleet._begin(wanted, cast("Any", boot))

    async def nothing(*_: object) -> int:
        return 1

    monkeypatch.setattr(lab.fleet, "_source", lambda _: image)
    monkeypatch.setattr(lab.fleet, "disk_gb", nothing)
    monkeypatch.setattr(lab.fleet, "open_egress", nothing)
    monkeypatch.setattr(lab.fleet, "host_of", lambda _: host)
    monkeypatch.setattr(lab.fleet, "obtain", obtain)
    making = []
    async with asyncio.timeout(LIMIT_S):
        for number in range(3):
            wanted = CreateSandbox(source_vm_name="i", agent_id="a", vm_name=f"box-{number}")
            making.append(asyncio.create_task(lab.fleet.create(AGENT, wanted)))
            while host.turns.under_way + host.turns.waiting <= number or (
                number and (await lab.row(f"box-{number}")).queue is None
            ):
                await asyncio.sleep(0.01)
    rows = [await lab.row(f"box-{number}") for number in range(3)]
    assert [row.phase for row in rows] == [Phase.CREATING] * 3
    assert [row.queue for row in rows] == [
        None, QueuePlace(before=0, about_s=USUAL_S), QueuePlace(before=1, about_s=2 * USUAL_S),
    ]  # fmt: skip
    assert [row.reason for row in rows] == [
        "",
        "waits for its turn on local: 0 before it, about 3 s",
        "waits for its turn on local: 1 before it, about 6 s",
    ]
    going_on.set()
    for made in await asyncio.gather(*making):
        row = await lab.row(made.sandbox_name)
        assert (row.phase, row.reason, row.queue) == (Phase.RUNNING, "", None)
        assert row.mac and row.uuid and row.ip_address


class Refusing:
    """A hypervisor whose forks fail half-way. What was done on it, in order."""

    is_local = True

    def __init__(self) -> None:
        self.boots, self.is_warm, self.done = True, True, list[str]()

    async def ensure_template(self, source: GuestImage, *, before: Before, **size: int) -> str:
        if not self.is_warm:
            await before()
        self.done.append(f"template {source.name} {size['cpu']}")
        return "template"

    async def fork(self, template: str, identity: DomainIdentity, network: str, **_: object) -> DomainInfo:
        self.done.append(f"fork {identity.name}")
        raise HypervisorFailed("the memory is strange", remedy="none")

    async def destroy(self, name: str, **_: object) -> None:
        self.done.append(f"destroy {name}")

    async def cold_boot(
        self, source: GuestImage, identity: DomainIdentity, network: str, **more: Any
    ) -> DomainInfo:
        self.done.append(f"boot {source.name} {more['cpu']} as {identity.name} on {network}")
        if not self.boots:
            raise HypervisorFailed("nothing runs here", remedy="none")
        return DomainInfo(identity.name, "uuid-of-the-second", "running", more["metadata"])


@pytest.fixture
def forking(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Refusing:
    """The host ``local`` is one that refuses to fork."""
    image = SimpleNamespace(
        name="i", sha256="ab" * 32, disk=Path("i"), kernel=None, initrd=None, cmdline="", arch="amd64"
    )
    hypervisor = Refusing()
    host = SimpleNamespace(
        name="local",
        turns=Turns(),
        promised={},
        promised_disk={},
        network=SimpleNamespace(name="n", host_address="10.0.0.1"),
        prefix=24,
        domain_name=str.lower,
        take_address=AsyncMock(return_value="10.0.0.2"),
        way=SimpleNamespace(link=None),
        give_back=lambda _: None,
        require=lambda: hypervisor,
        address="",
        look=AsyncMock(return_value=SimpleNamespace(disk_free_mb=RESERVE_MB + GUEST_MB - 1)),
    )
    monkeypatch.setattr(lab.fleet, "_source", lambda _: image)
    monkeypatch.setattr(lab.fleet, "disk_gb", AsyncMock(return_value=1))
    monkeypatch.setattr(lab.fleet, "grow", AsyncMock())
    monkeypatch.setattr(lab.fleet, "open_egress", AsyncMock())
    monkeypatch.setattr(lab.fleet, "host_of", lambda _: host)
    monkeypatch.setattr(lab.machines, "find", lambda _: host, raising=False)

    async def obtain(wanted: Sandbox, made_of: Any) -> Sandbox:
        wanted.host_name = "local"
        return await lab.fleet.make(wanted, made_of)

    monkeypatch.setattr(lab.fleet, "obtain", obtain)
    return hypervisor


async def test_where_no_fork_works_it_is_booted_cold_and_says_so(lab: Lab, forking: Refusing) -> None:
    wanted = CreateSandbox(source_vm_name="i", agent_id="a", vm_name="box", cpu=3)
    made = await lab.fleet.create(AGENT, wanted)
    domain = made.id.lower()
    assert forking.done == [
        "template i 3", f"fork {domain}", f"destroy {domain}", f"boot i 3 as {domain} on n",
    ]  # fmt: skip
    row = await lab.row("box")
    assert (row.phase, row.created_by, row.reason) == (Phase.RUNNING, "cold", "")
    assert (row.domain, row.uuid) == (domain, "uuid-of-the-second")
    rows, _ = await lab.audit.list(sandbox_id=made.id)
    (outcome,) = [row for row in rows if (row.action, row.step) == ("sandbox.create", "outcome")]
    assert outcome.data["created_by"] == "cold"


async def test_no_template_is_made_of_the_disk_that_its_host_keeps_back(lab: Lab, forking: Refusing) -> None:
    forking.is_warm = False
    made = await lab.fleet.create(AGENT, CreateSandbox(source_vm_name="i", agent_id="a", vm_name="box"))
    assert made.created_by == "cold", "which needs no memory on the disk"
    assert forking.done == [f"destroy {made.domain}", f"boot i 2 as {made.domain} on n"]


async def test_what_a_create_and_its_template_write_is_promised_on_the_disk_until_they_are_done(
    lab: Lab, forking: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = lab.machines.find("local")  # type: ignore[attr-defined]
    host.look.return_value.disk_free_mb = RESERVE_MB + 3 * GUEST_MB
    forking.is_warm, ensure, seen = False, forking.ensure_template, dict[str, list[int]]()

    async def build(source: GuestImage, *, before: Before, **size: int) -> str:
        await ensure(source, before=before, **size)
        seen["template"] = [*host.promised_disk.values()]
        with pytest.raises(NoSpace, match=f"{RESERVE_MB + GUEST_MB} MB are free"):
            await lab.fleet.need_space(host, GUEST_MB + 1)
        return "template"

    async def fork(*_: object, **__: object) -> None:
        seen["fork"] = [*host.promised_disk.values()]
        raise HypervisorFailed("the memory is strange", remedy="none")

    async def obtain(wanted: Sandbox, made_of: Any) -> Sandbox:
        lab.fleet.settle(wanted, Placement("local", "the only one"))
        return await lab.fleet.make(wanted, made_of)

    for name, stand_in in (("ensure_template", build), ("fork", fork)):
        monkeypatch.setattr(forking, name, stand_in)
    monkeypatch.setattr(lab.fleet, "obtain", obtain)
    monkeypatch.setattr(lab.machines, "named", lambda _: host)
    await lab.fleet.create(AGENT, CreateSandbox(source_vm_name="i", agent_id="a", vm_name="box"))
    assert seen == {"template": [GUEST_MB, GUEST_MB], "fork": [GUEST_MB]} and host.promised_disk == {}


async def test_where_nothing_boots_either_nothing_is_left(lab: Lab, forking: Refusing) -> None:
    forking.boots = False
    wanted = CreateSandbox(source_vm_name="i", agent_id="a", vm_name="box")
    with pytest.raises(HypervisorFailed, match="nothing runs here"):
        await lab.fleet.create(AGENT, wanted)
    assert forking.done[-1].startswith("destroy sbx-") and len(forking.done) == 5
    assert await lab.fleet.all_live() == []


@pytest.mark.parametrize("config", [Config.model_validate({"snapshots": {"at_task": True}})])
async def test_a_task_has_a_point_before_and_after_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    row = await lab.runs(1)
    made: list[tuple[str, str]] = []

    async def snapshot(_: Identity, sandbox_id: str, request: SnapshotRequest, *, auto: bool) -> None:
        assert (sandbox_id, auto) == (row.id, True)
        made.append((request.name.partition("-")[0], request.note))

    monkeypatch.setattr(lab.fleet, "snapshot", snapshot)
    for status in ("planning", "working", "testing", "done", "done"):
        await lab.fleet.status(AGENT, SimpleNamespace(status=status, note=f"{status} tls"))
    assert made == [("pre", "a task begins: working tls"), ("post", "the task is done: done tls")]
