"""The budget of stock: a real database, and hosts that only say how much room they have."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.config import Config
from backend.errors import NoSpace
from backend.fleet import Fleet, FleetParts
from backend.models import Phase, Sandbox, now
from backend.store import EventBus, Store

OLD, NEW = "ab" * 32, "cd" * 32
DISK_RESERVE_MB, MEMORY_RESERVE_MB, GUEST_MB = 2048, 3000, 1024
LEAST_MB = GUEST_MB + MEMORY_RESERVE_MB
CONFIG = {
    "limits": {"disk_reserve_mb": DISK_RESERVE_MB},
    "stock": {"per_source": 2, "memory_reserve_mb": MEMORY_RESERVE_MB},
    "guests": {"memory_mb": GUEST_MB},
}


class Machine:
    """A host with a template, which loses the memory of each fork that is parked on it."""

    name, address, up, draining = "local", "", True, False

    def __init__(self) -> None:
        self.warm = {NEW}
        self.memory_free_mb = 2 * GUEST_MB + LEAST_MB
        self.disk_free_mb = DISK_RESERVE_MB
        self.promised: dict[str, int] = {}

    async def look(self, max_age_s: float = 1.0) -> SimpleNamespace:
        return SimpleNamespace(memory_free_mb=self.memory_free_mb, disk_free_mb=self.disk_free_mb)


class Lab:
    def __init__(self, store: Store, bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine = Machine()
        self.images = [image("debian-12", NEW)]
        parts = SimpleNamespace(
            config=Config.model_validate(CONFIG),
            store=store,
            events=bus,
            images=SimpleNamespace(list=lambda: self.images),
            hosts=SimpleNamespace(named=lambda _: self.machine),
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
        self.machine.memory_free_mb += row.memory_mb
        await self.store.sandboxes.save(row.model_copy(update={"phase": Phase.DESTROYED}))

    async def row(self, sha256: str, **other: Any) -> None:
        number = len((await self.store.sandboxes.list())[0])
        known = {"phase": Phase.PAUSED, "cpu": 2, "memory_mb": GUEST_MB, **other}
        await self.store.sandboxes.insert(
            Sandbox(
                id=f"SBX-{number:08x}", sandbox_name=f"stock-{number}", base_image="debian-12",
                image_sha256=sha256, purpose="stock", created_at=now(), updated_at=now(), **known,
            )
        )  # fmt: skip

    async def parked(self) -> list[str]:
        """Of which images there are parked forks, after one look at what is wanted."""
        await self.fleet._replenish(cast("Any", self.machine))
        rows = await self.fleet.all_live()
        return sorted(row.image_sha256 for row in rows)


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


async def test_stock_gives_way_where_memory_is_short_and_comes_back_with_it(lab: Lab) -> None:
    assert await lab.parked() == [NEW, NEW]
    lab.machine.memory_free_mb = MEMORY_RESERVE_MB - GUEST_MB
    assert await lab.parked() == [NEW], "one is enough to have the reserve back"
    lab.machine.memory_free_mb = 0
    assert await lab.parked() == []
    lab.machine.memory_free_mb = MEMORY_RESERVE_MB
    assert await lab.parked() == [], "none is made of what it would have to give back at once"
    lab.machine.memory_free_mb = 2 * GUEST_MB + LEAST_MB
    assert await lab.parked() == [NEW, NEW]


async def test_nothing_is_made_on_a_disk_at_its_reserve(lab: Lab) -> None:
    lab.machine.disk_free_mb = DISK_RESERVE_MB - 1
    with pytest.raises(NoSpace, match="2047 MB are free"):
        await lab.parked()
    assert await lab.fleet.all_live() == []


async def test_stock_waits_while_something_is_made(lab: Lab) -> None:
    lab.fleet._young.add("SBX-1")
    assert await lab.parked() == []
    lab.fleet._young.clear()
    assert await lab.parked() == [NEW, NEW]


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
