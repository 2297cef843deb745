"""When the layers of a disk are merged: never under somebody who reads them, nor into the reserve."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock
from weakref import WeakValueDictionary

import pytest

from backend.errors import HypervisorFailed, NoSpace
from backend.fleet.core import FleetCore
from backend.hypervisor.merging import Mergeable
from backend.models import Sandbox, now

FOUND = [Mergeable((Path("b"), Path("a")), 3 << 20), Mergeable((Path("e"), Path("d")), 2 << 20)]


class Fleet(FleetCore):
    """One host; what it was asked for."""

    def __init__(self, room_mb: int = 100) -> None:
        self._readers, self._merging = Counter(), WeakValueDictionary()
        self.room_mb, self.promised = room_mb, list[int]()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.merged = AsyncMock(side_effect=self._merge)
        self.found = AsyncMock(return_value=FOUND)

    async def _merge(self, *_: Any) -> None:
        await self.go_on.wait()

    def machine(self, sandbox: Sandbox) -> Any:
        return SimpleNamespace(to_merge=self.found, merge=self.merged)

    def host_of(self, sandbox: Sandbox) -> Any:
        return "here"

    @asynccontextmanager
    async def space_for(self, what: str, host: Any, extra_mb: int) -> AsyncIterator[None]:
        if extra_mb > self.room_mb:
            raise NoSpace("the reserve", remedy="free some")
        self.promised.append(extra_mb)
        yield


BOX = Sandbox(
    id="SBX-1", sandbox_name="box", base_image="i", domain="fluid-a", created_at=now(), updated_at=now()
)


async def test_they_are_merged_with_room_for_them_and_not_without() -> None:
    fleet = Fleet()
    await fleet.merge_layers(BOX)
    assert fleet.promised == [5]
    fleet.merged.assert_awaited_once_with("fluid-a", FOUND)
    small = Fleet(room_mb=4)
    await small.merge_layers(BOX)
    small.merged.assert_not_awaited()


async def test_whoever_reads_them_keeps_them_and_who_comes_meanwhile_waits() -> None:
    fleet = Fleet()
    async with fleet.reading("SBX-1"), fleet.reading("SBX-1"):
        await fleet.merge_layers(BOX)
    async with fleet.reading("SBX-2"):
        fleet.found.assert_not_awaited()
        fleet.go_on.clear()
        merging = asyncio.create_task(fleet.merge_layers(BOX))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), fleet.reading("SBX-1"):
                pass
        fleet.go_on.set()
        await merging
    fleet.merged.assert_awaited_once()
    async with asyncio.timeout(1), fleet.reading("SBX-1"):
        pass
    assert not fleet._readers, "nobody is remembered"


async def test_what_cannot_be_merged_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet()
    fleet.merged.side_effect = HypervisorFailed("a job is active", remedy="wait")
    await fleet.merge_layers(BOX)
    assert caplog.messages == ["the layers of SBX-1 were not merged: a job is active"]
