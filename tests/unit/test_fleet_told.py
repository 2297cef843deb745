"""Which way a difference is read: the disk first; the guest's word where both points are its word."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from backend.changes import Earlier, Point, Taken, Told
from backend.disks.records import Node, pack
from backend.errors import CommandLost, DiskUnreadable, GuestDown, HypervisorFailed
from backend.fleet.snapshots import NOW, Snapshots
from backend.hypervisor import SnapshotFiles
from backend.models import AuditRow, Changes, Identity, Phase, Role, RunningState, Sandbox, Snapshot, now
from backend.models.sandbox import STANDING_ON

ROOT = pack(Node(b"/", 0o040755, 0, 0, 2, 2, 4096, 0, 0, None, None, ()))
TOLD = Told(ROOT, {})
ACTOR = Identity(uid=0, role=Role.OPERATOR, name="root")
REFUSED = DiskUnreadable("the file system uses compression", remedy="the usual")


def point(name: str, read_from: str) -> Snapshot:
    return Snapshot(
        id=f"SNP-{name}", sandbox_id="SBX-1", name=name, created_at=now(), read_from=read_from,
        disk_layers=[f"/layers/{name}"], manifest_sha256=f"sum of {name}", quiesced=True,
    )  # fmt: skip


class Fleet(Snapshots):
    """One sandbox whose disk is refused; its points; and who is asked."""

    def __init__(self, *points: Snapshot, phase: Phase = Phase.RUNNING) -> None:
        self.points, self.disk, self.layers, self.gone = list(points), REFUSED, None, None
        self.sandbox = Sandbox(
            id="SBX-1", sandbox_name="box", base_image="i", phase=phase, created_at=now(), updated_at=now()
        )
        self.asked = AsyncMock(return_value=TOLD)
        asker = SimpleNamespace(
            ask=self.asked,
            running=AsyncMock(side_effect=self._running),
            keep=AsyncMock(return_value="told"),
            kept=AsyncMock(return_value=TOLD),
            kept_both=AsyncMock(return_value=(TOLD, TOLD)),
        )
        self.taken = AsyncMock(side_effect=lambda *_: self._refuse())
        parts = SimpleNamespace(
            asker=asker,
            manifests=SimpleNamespace(take=self.taken),
            differ=SimpleNamespace(diff=self._differ),
        )
        self._parts = cast("Any", parts)
        self._store = cast("Any", SimpleNamespace(changes=AsyncMock(), commands=AsyncMock()))
        self._store.changes.find.return_value = None
        self._store.commands.log.return_value = []
        self._audit = AsyncMock()
        self._audit.list.return_value = ([], 0)

    async def _running(self, guest: str) -> RunningState:
        await asyncio.sleep(0)
        return RunningState(ports={"tcp *:80": "nginx"})

    def _refuse(self) -> None:
        raise self.disk

    async def _differ(
        self, id: str, from_: str, to: str, before: Point, after: Point, *, typed: Any, **_: Any
    ) -> Changes:
        self.typed = typed
        if not isinstance(before, Told):
            self._refuse()
        assert isinstance(before, Told) and isinstance(after, Told)
        return Changes(
            id="CHG-1",
            sandbox_id=id,
            from_snapshot=from_,
            to_snapshot=to,
            created_at=now(),
            read_from="guest",
        )

    async def get(self, actor: Identity, sandbox_id: str) -> Sandbox:
        return self.sandbox

    async def _points(self, sandbox: Sandbox) -> list[Snapshot]:
        return self.points

    @asynccontextmanager
    async def frozen(self, sandbox: Sandbox) -> AsyncIterator[tuple[list[Path], bool]]:
        yield [Path("/layers/now")], True

    @asynccontextmanager
    async def reading(self, sandbox_id: str) -> AsyncIterator[None]:
        yield

    async def merge_layers(self, sandbox: Sandbox) -> None:
        """Its chain is short."""

    def machine(self, sandbox: Sandbox) -> Any:
        return SimpleNamespace(layers_below=AsyncMock(side_effect=lambda layer: [layer]))

    async def _readable(self, sandbox: Sandbox, layers: list[Path]) -> list[Path]:
        if self.layers is not None:
            raise self.layers
        if self.gone in layers:
            raise HypervisorFailed("volume gone")
        return layers

    def guest(self, sandbox: Sandbox) -> Any:
        return sandbox.id

    async def manifest(self) -> tuple[str, str, int]:
        return await self._manifest(self.sandbox, [Path("/layers/now")], self.points)


async def test_the_guest_tells_the_manifest_where_its_disk_is_refused_or_does_not_come() -> None:
    fleet = Fleet()
    assert await fleet.manifest() == ("guest", "told", 1)
    fleet.layers = HypervisorFailed("volume gone")
    assert await fleet.manifest() == ("guest", "told", 1)
    assert [call.args for call in fleet.asked.await_args_list] == [("SBX-1", None)] * 2


async def test_a_point_that_stands_on_a_told_one_asks_for_what_is_another_since() -> None:
    fleet = Fleet(point("a", "guest"))
    fleet.sandbox.labels[STANDING_ON] = "a"
    await fleet.manifest()
    assert fleet.asked.await_args_list[0].args == ("SBX-1", TOLD)


async def test_a_point_of_a_disk_is_made_of_the_one_it_stands_on_if_that_can_be_read() -> None:
    fleet = Fleet(point("a", "disk"), point("b", "disk"))
    fleet.taken.side_effect = None
    fleet.taken.return_value = Taken("sum of it", 7, 1)
    fleet.sandbox.labels[STANDING_ON] = "b"
    assert await fleet.manifest() == ("disk", "sum of it", 7)
    assert fleet.taken.await_args.args == ([Path("/layers/now")], Earlier("sum of b", [Path("/layers/b")]))
    fleet.gone = Path("/layers/b")
    assert await fleet.manifest() == ("disk", "sum of it", 7)
    assert fleet.taken.await_args.args == ([Path("/layers/now")], None)
    fleet.sandbox.labels[STANDING_ON] = "nothing of that name"
    await fleet.manifest()
    assert fleet.taken.await_args.args == ([Path("/layers/now")], None)


@pytest.mark.parametrize("lost", [GuestDown("no answer"), CommandLost("gone"), DiskUnreadable("cut off")])
async def test_without_disk_and_guest_both_reasons_are_told(lost: Exception) -> None:
    fleet = Fleet()
    fleet.asked.side_effect = lost
    with pytest.raises(DiskUnreadable, match=f"uses compression; {lost}") as refused:
        await fleet.manifest()
    assert refused.value.remedy == "the usual"


async def test_the_diff_of_a_point_that_is_gone_is_none_of_a_new_one_of_its_name() -> None:
    fleet = Fleet(point("a", "guest"), point("b", "guest"))
    kept = await fleet.diff(ACTOR, "SBX-1", "a", "b")
    fleet._store.changes.find.return_value = kept
    assert await fleet.diff(ACTOR, "SBX-1", "a", "b") is kept
    fleet.points[1] = point("b", "guest")
    assert await fleet.diff(ACTOR, "SBX-1", "a", "b") is not kept


async def test_a_diff_knows_when_somebody_typed_into_a_terminal() -> None:
    fleet = Fleet(point("a", "guest"), point("b", "guest"))
    at = now()
    actions = ["pane.type", "pane.take_over", "pane.take_over", "pane.hand_back", "pane.take_over"]
    rows = [
        AuditRow(seq=number, at=at + timedelta(seconds=number), actor_uid=0, action=action, id="%1")
        for number, action in enumerate(actions)
    ]

    async def listed(*, action: str, **_: object) -> tuple[list[AuditRow], int]:
        return [row for row in reversed(rows) if row.action == action], len(rows)

    fleet._audit.list = listed  # type: ignore[assignment]
    await fleet.diff(ACTOR, "SBX-1", "a", NOW)
    begin = at.timestamp()
    assert fleet.typed == [(begin, begin), (begin + 1, begin + 3), (begin + 4, math.inf)]


async def test_now_is_asked_for_when_the_first_point_was_told() -> None:
    fleet = Fleet(point("a", "guest"), point("b", "guest"))
    assert (await fleet.diff(ACTOR, "SBX-1", "a", NOW)).read_from == "guest"
    assert fleet.asked.await_count == 1
    assert fleet._audit.note.await_args.kwargs["read_from"] == "guest"
    assert (await fleet.diff(ACTOR, "SBX-1", "a", "b")).read_from == "guest"
    assert fleet.asked.await_count == 1  # both are kept


@pytest.mark.parametrize(
    ("points", "to", "words"),
    [
        ((point("a", "disk"),), NOW, "a was read from the disk"),
        ((point("a", "disk"), point("b", "guest")), "b", "a was read from the disk"),
        ((point("a", "guest"), point("b", "disk")), "b", "b was read from the disk"),
    ],
)
async def test_a_disk_and_a_guests_word_are_not_compared(
    points: tuple[Snapshot, ...], to: str, words: str
) -> None:
    fleet = Fleet(*points)
    with pytest.raises(DiskUnreadable, match=words) as refused:
        await fleet.diff(ACTOR, "SBX-1", "a", to)
    assert "compression" in refused.value.message and "make a new snapshot" in refused.value.remedy
    assert fleet.asked.await_count == 0


async def test_one_that_does_not_run_is_not_asked() -> None:
    fleet = Fleet(point("a", "guest"), phase=Phase.STOPPED)
    with pytest.raises(DiskUnreadable) as refused:
        await fleet.diff(ACTOR, "SBX-1", "a", NOW)
    assert refused.value is REFUSED and fleet.asked.await_count == 0


async def test_what_ran_at_a_point_is_kept_with_it_and_now_is_asked_only_of_one_that_runs() -> None:
    old, new = point("old", "guest"), point("new", "guest")
    new.running = RunningState(ports={"tcp *:22": "sshd"})
    fleet = Fleet(old, new)
    ran = (await fleet.diff(ACTOR, "SBX-1", "new", NOW)).running
    assert ran is not None and ran.read_from == "guest"
    assert [(one.verb.value, one.name) for one in ran.changes] == [
        ("removed", "tcp *:22"),
        ("added", "tcp *:80"),
    ]
    kept = (await fleet.diff(ACTOR, "SBX-1", "old", "new")).running
    assert kept is not None and kept.changes == []
    assert kept.notes == ["old: what listens and runs was not asked then"]
    assert fleet._parts.asker.running.await_count == 1
    fleet.sandbox.phase = Phase.PAUSED
    assert (await fleet.what_runs(fleet.sandbox)).notes == [
        "what listens and runs was not asked: it is paused"
    ]
    assert fleet._parts.asker.running.await_count == 1


async def test_a_guest_is_asked_what_runs_once_it_goes_on_and_beside_the_reading_of_its_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet, order = Fleet(), []

    @asynccontextmanager
    async def step(*_: object, **__: object) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(data={})

    async def taken(*_: object, **__: object) -> SnapshotFiles:
        order.append("taken")
        return SnapshotFiles((Path("/layers/now"),), None, quiesced=True, stood_still_s=0.1, took_s=0.2)

    async def read(*_: object) -> Taken:
        order.append("disk")
        await asked.wait()  # the guest is asked meanwhile
        return Taken("sum of it", 7, 1)

    async def running(_: object) -> RunningState:
        order.append("guest")
        asked.set()
        return RunningState(notes=["it took too long"])

    asked = asyncio.Event()
    fleet.taken.side_effect = read
    fleet._parts.asker.running = AsyncMock(side_effect=running)
    fleet._store.snapshots = AsyncMock()
    for name, found in {
        "audited": step,
        "ahead": step,
        "machine": lambda _: SimpleNamespace(snapshot=taken),
        "_standing_on": AsyncMock(),
    }.items():
        monkeypatch.setattr(fleet, name, found)
    async with asyncio.timeout(5):
        made = await fleet._make_point(ACTOR, fleet.sandbox, "a", [], note="", auto=False)
    assert order[0] == "taken" and sorted(order[1:]) == ["disk", "guest"]
    assert made.running == RunningState(notes=["it took too long"]) and made.read_from == "disk"
    fleet._store.snapshots.insert.assert_awaited_once_with(made)
