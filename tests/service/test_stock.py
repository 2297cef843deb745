"""The budget of stock: a real database, and hosts that only say how much room they have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from backend.background import Background
from backend.config import Config
from backend.errors import HypervisorDown, NoSpace
from backend.fleet import Fleet, FleetParts
from backend.fleet.core import LIVE
from backend.fleet.placement import Room
from backend.models import Phase, Sandbox, now
from backend.store import EventBus, Store

OLD, NEW = "ab" * 32, "cd" * 32
DISK_RESERVE_MB, MEMORY_RESERVE_MB, GUEST_MB = 2048, 3000, 1024
LEAST_MB = GUEST_MB + MEMORY_RESERVE_MB
LIMIT_MB = 1000  # what no sandbox at all takes
CONFIG = {
    "limits": {"disk_reserve_mb": DISK_RESERVE_MB, "memory_reserve_mb": LIMIT_MB},
    "stock": {"per_source": 2, "memory_reserve_mb": MEMORY_RESERVE_MB},
    "guests": {"memory_mb": GUEST_MB},
}


class Machine:
    """A host with a template: each fork in its memory takes of that, and each on its disk of the disk."""

    name, address, up, draining = "local", "", True, False
    busy_percent: int | None = None

    def __init__(self) -> None:
        self.warm = {NEW}
        self.memory_free_mb = 2 * GUEST_MB + LEAST_MB
        self.disk_free_mb = DISK_RESERVE_MB + GUEST_MB
        self.promised: dict[str, int] = {}
        self.promised_disk: dict[str, int] = {}

    async def look(self, max_age_s: float = 1.0) -> SimpleNamespace:
        return SimpleNamespace(memory_free_mb=self.memory_free_mb, disk_free_mb=self.disk_free_mb)

    async def room(self, image: str, max_age_s: float = 1.0) -> Room:
        promised_mb = sum(self.promised.values())
        return Room(
            self.name,
            memory_free_mb=self.memory_free_mb,
            promised_mb=promised_mb,
            disk_free_mb=self.disk_free_mb,
            promised_disk_mb=sum(self.promised_disk.values()),
        )

    def require(self) -> Machine:
        return self

    async def suspend(self, domain: str) -> Path:
        assert [*self.promised_disk.values()] == [GUEST_MB], "meanwhile it is nobody else's"
        self.memory_free_mb += GUEST_MB
        self.disk_free_mb -= GUEST_MB
        return Path("/pool") / domain

    async def recall(self, domain: str, memory: Path) -> None:
        assert self.promised_disk == {}
        assert memory == Path("/pool") / domain
        self.memory_free_mb -= GUEST_MB
        self.disk_free_mb += GUEST_MB


class Lab:
    def __init__(self, store: Store, bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine = Machine()
        self.images = [image("debian-12", NEW)]
        parts = SimpleNamespace(
            config=Config.model_validate(CONFIG),
            store=store,
            events=bus,
            images=SimpleNamespace(list=lambda: self.images),
            hosts=Hosts(self.machine),
            background=Background(),
            **dict.fromkeys(("audit", "policy", "guests", "commands", "files")),
        )
        self.fleet = Fleet(cast("FleetParts", parts))
        self.store = store
        monkeypatch.setattr(self.fleet, "_park", self._park)
        monkeypatch.setattr(self.fleet, "discard", self._discard)

    async def _park(self, _: object, made_of: SimpleNamespace) -> None:
        await self.row(made_of.sha256)
        self.machine.memory_free_mb -= GUEST_MB

    async def _discard(self, row: Sandbox) -> None:
        if row.memory_file:
            self.machine.disk_free_mb += row.memory_mb
        else:
            self.machine.memory_free_mb += row.memory_mb
        self.fleet._young.pop(row.id, None)
        await self.store.sandboxes.save(row.model_copy(update={"phase": Phase.DESTROYED}))

    async def row(self, sha256: str, **other: Any) -> None:
        number = len((await self.store.sandboxes.list())[0])
        known = {"phase": Phase.PAUSED, "cpu": 2, "memory_mb": GUEST_MB, **other}
        await self.store.sandboxes.insert(
            Sandbox(
                id=f"SBX-{number:08x}", sandbox_name=f"stock-{number}", base_image="debian-12",
                image_sha256=sha256, purpose="stock", created_at=now(), updated_at=now(),
                domain=f"domain-{number}", **known,
            )
        )  # fmt: skip

    async def parked(self) -> list[str]:
        """Of which images there are parked forks, after one look at what is wanted."""
        return sorted(row.image_sha256 for row in await self.stock())

    async def where(self) -> list[tuple[str, str]]:
        """The same: in which phase each is, and where its memory lies if it is on the disk."""
        return [(row.phase.value, row.memory_file) for row in await self.stock()]

    async def stock(self) -> list[Sandbox]:
        await self.fleet._replenish(cast("Any", self.machine))
        rows, _ = await self.store.sandboxes.list({"phase": LIVE}, oldest_first=True)
        return rows

    async def claim(self) -> str | None:
        """Which one a create gets."""
        wanted = Sandbox(
            id=f"SBX-{uuid4()}", sandbox_name=f"wanted-{uuid4()}", base_image="debian-12",
            cpu=2, memory_mb=GUEST_MB, created_at=now(), updated_at=now(),
        )  # fmt: skip
        claimed = await self.fleet._claim(wanted, cast("Any", self.images[0]))
        return None if claimed is None else claimed.domain


class Hosts(dict[str, Machine]):
    """The one host, by its name and in a row."""

    def __init__(self, machine: Machine) -> None:
        super().__init__({machine.name: machine})

    def named(self, name: str) -> Machine:
        return self[name]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())


def image(name: str, sha256: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, sha256=sha256, built_at=datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def lab(store: Store, bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(store, bus, monkeypatch)


async def test_as_many_are_made_as_the_config_asks_for(lab: Lab) -> None:
    assert await lab.parked() == [NEW, NEW]
    assert await lab.parked() == [NEW, NEW]


async def test_memory_that_the_host_keeps_back_is_never_taken(lab: Lab) -> None:
    lab.machine.memory_free_mb = LEAST_MB
    assert await lab.parked() == []
    lab.machine.memory_free_mb = LEAST_MB + 1
    assert await lab.parked() == [NEW], "there is room for one, and not for the second"


MEMORY, DISK = ("paused", ""), "stopped"


async def test_stock_is_suspended_where_memory_is_short_and_comes_back_with_it(lab: Lab) -> None:
    lab.machine.disk_free_mb += GUEST_MB
    assert await lab.where() == [MEMORY, MEMORY]
    lab.machine.memory_free_mb = MEMORY_RESERVE_MB - GUEST_MB
    assert await lab.where() == [(DISK, "/pool/domain-0"), MEMORY], "one is enough to have the reserve back"
    lab.machine.memory_free_mb = 0
    assert await lab.where() == [(DISK, "/pool/domain-0"), (DISK, "/pool/domain-1")]
    lab.machine.memory_free_mb = LEAST_MB
    assert DISK in dict(await lab.where()), "none takes what it would have to give back at once"
    lab.machine.memory_free_mb = LEAST_MB + 1
    assert await lab.where() == [MEMORY, (DISK, "/pool/domain-1")]
    lab.machine.memory_free_mb = 2 * GUEST_MB + LEAST_MB
    assert await lab.where() == [MEMORY, MEMORY]


async def test_where_the_disk_is_short_too_stock_goes(lab: Lab) -> None:
    assert await lab.where() == [MEMORY, MEMORY]
    lab.machine.memory_free_mb = 0
    assert await lab.where() == [(DISK, "/pool/domain-0")], "the disk had room for one"
    lab.machine.memory_free_mb = 2 * GUEST_MB + LEAST_MB
    assert await lab.where() == [MEMORY, MEMORY], "the second is made anew"


async def test_what_is_suspended_goes_once_its_disk_is_at_the_reserve(lab: Lab) -> None:
    lab.machine.disk_free_mb += GUEST_MB
    assert await lab.where() == [MEMORY, MEMORY]
    lab.machine.memory_free_mb = -GUEST_MB
    assert [phase for phase, _ in await lab.where()] == [DISK, DISK]
    lab.machine.disk_free_mb = DISK_RESERVE_MB - 1
    lab.machine.memory_free_mb = 0
    assert await lab.where() == [(DISK, "/pool/domain-1")], "one was enough"


async def test_disk_that_is_promised_to_others_is_not_taken_by_stock_and_drives_none_away(lab: Lab) -> None:
    await lab.row(NEW, phase=Phase.STOPPED, memory_file="/pool/domain-0")
    await lab.row(NEW)
    lab.machine.promised_disk["snapshot of SBX-1"] = GUEST_MB
    lab.machine.memory_free_mb, lab.machine.disk_free_mb = 0, DISK_RESERVE_MB + 2 * GUEST_MB - 1
    assert await lab.where() == [(DISK, "/pool/domain-0")], "the other one could not be suspended"
    lab.machine.disk_free_mb = DISK_RESERVE_MB  # what was promised is written
    with pytest.raises(NoSpace, match=f"{DISK_RESERVE_MB - GUEST_MB} MB are free"):
        await lab.parked()
    assert [row.memory_file for row in await lab.fleet.all_live()] == ["/pool/domain-0"]


async def test_of_two_who_want_the_last_one_one_gets_it_and_nothing_is_promised_to_the_other(
    lab: Lab,
) -> None:
    await lab.row(NEW, phase=Phase.STOPPED, memory_file="/pool/domain-0")
    claimed = await asyncio.gather(lab.claim(), lab.claim(), lab.claim())
    assert sorted(map(str, claimed)) == ["None", "None", "domain-0"]
    assert [*lab.machine.promised.values()] == [GUEST_MB]
    assert lab.fleet._young == {"SBX-00000000": "local"}


async def test_a_create_asks_the_database_once_for_the_stock_of_a_host(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.row(NEW, phase=Phase.STOPPED, memory_file="/pool/domain-0")
    asked, stock = 0, lab.fleet._stock

    async def counted(host: Any, *phases: Phase) -> list[Sandbox]:
        nonlocal asked
        asked += 1
        return await stock(host, *phases)

    monkeypatch.setattr(lab.fleet, "_stock", counted)
    assert await lab.claim() == "domain-0"
    assert asked == 1


async def test_a_host_that_hangs_is_asked_once_for_all_its_stock(lab: Lab) -> None:
    asked = 0

    async def look(max_age_s: float = 1.0) -> SimpleNamespace:
        nonlocal asked
        asked += 1
        raise HypervisorDown("it hangs", remedy="wait")

    for _ in range(3):
        await lab.row(NEW)
    lab.machine.look = look  # type: ignore[method-assign]
    assert await lab.claim() is None
    assert asked == 1


async def test_what_lies_in_memory_is_handed_out_first_and_the_rest_where_there_is_room_for_it(
    lab: Lab,
) -> None:
    await lab.row(NEW, phase=Phase.STOPPED, memory_file="/pool/domain-0")
    await lab.row(NEW, phase=Phase.STOPPED, memory_file="/pool/domain-1")
    await lab.row(NEW)
    lab.machine.memory_free_mb = GUEST_MB + LIMIT_MB
    assert [await lab.claim(), await lab.claim()] == ["domain-2", "domain-0"]
    assert await lab.claim() is None, "what was promised to one is not another's"
    lab.machine.promised.clear()
    assert await lab.claim() == "domain-1"


@pytest.mark.parametrize(
    ("phase", "memory_file"),
    [
        (Phase.RUNNING, ""),
        (Phase.RUNNING, "/pool/domain-0"),
        (Phase.STOPPED, ""),
        (Phase.ERROR, ""),
        (Phase.ERROR, "/pool/domain-0"),
    ],
)
async def test_what_somebody_woke_or_switched_off_is_made_anew(
    lab: Lab, phase: Phase, memory_file: str
) -> None:
    await lab.row(NEW, phase=phase, memory_file=memory_file)
    assert await lab.where() == [MEMORY, MEMORY]
    assert "domain-0" not in {row.domain for row in await lab.stock()}


async def test_nothing_is_made_on_a_disk_at_its_reserve(lab: Lab) -> None:
    lab.machine.disk_free_mb = DISK_RESERVE_MB - 1
    with pytest.raises(NoSpace, match="2047 MB are free"):
        await lab.parked()
    assert await lab.fleet.all_live() == []


async def test_stock_waits_while_the_host_is_busy_with_whose_work_ever(lab: Lab) -> None:
    lab.machine.busy_percent = 81
    assert await lab.parked() == []
    lab.machine.busy_percent = 80
    assert await lab.parked() == [NEW, NEW]
    lab.machine.busy_percent = 100
    assert await lab.parked() == [NEW, NEW], "what is there stays"
    assert await lab.claim() == "domain-0", "and is handed out"


async def test_stock_waits_while_something_is_made(lab: Lab) -> None:
    lab.fleet._young["SBX-1"] = "local"
    assert await lab.parked() == []
    lab.fleet._young["SBX-1"] = "kvm-02"  # on another host
    assert await lab.parked() == [NEW, NEW]


async def test_a_host_that_hangs_holds_up_its_own_stock_alone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, tended = Machine(), asyncio.Event()
    hanging.name = "kvm-02"

    async def replenish(host: Machine) -> None:
        if host is hanging:
            await asyncio.Event().wait()
        tended.set()

    monkeypatch.setattr(lab.fleet, "_replenish", replenish)
    monkeypatch.setattr(lab.fleet._hosts, "values", lambda: [hanging, lab.machine])
    keeping = asyncio.create_task(lab.fleet.keep_stock())
    try:
        for _ in range(2):
            async with asyncio.timeout(5):
                await tended.wait()
            tended.clear()
            lab.fleet._stir()
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_what_moves_while_a_host_is_tended_is_seen_to_at_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = []

    async def replenish(host: Machine) -> None:
        turns.append(host.name)
        if len(turns) == 1:
            lab.fleet._stir()

    monkeypatch.setattr(lab.fleet, "_replenish", replenish)
    await lab.fleet._tend(cast("Any", lab.machine))
    assert turns == ["local", "local"]


async def test_forks_of_a_former_image_or_another_size_leave_and_a_host_that_drains_has_none(
    lab: Lab,
) -> None:
    await lab.row(OLD)
    await lab.row(NEW, memory_mb=2 * GUEST_MB)
    assert await lab.parked() == [NEW, NEW]
    lab.machine.draining = True
    assert await lab.parked() == []


async def test_none_is_made_before_the_template_is_there(lab: Lab) -> None:
    lab.machine.warm = {OLD}
    assert await lab.parked() == []
