"""How two sandboxes of one source differ: which disks are read, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from backend.errors import InvalidValue, SnapshotNotFound
from backend.fleet.snapshots import Snapshots
from backend.models import Changes, Identity, Role, Sandbox, Snapshot, now

ACTOR = Identity(uid=0, role=Role.OPERATOR, name="root")


class Fleet(Snapshots):
    """Two sandboxes with a snapshot ``a`` each; what the differ was asked for."""

    def __init__(self, *images: str) -> None:
        self.rows = {
            f"SBX-{number}": Sandbox(
                id=f"SBX-{number}", sandbox_name=f"box-{number}", base_image="i", image_sha256=image,
                created_at=now(), updated_at=now(),
            )
            for number, image in enumerate(images)
        }  # fmt: skip
        self.asked: list[tuple[list[Path], list[Path], bool]] = []
        self._parts = cast("Any", SimpleNamespace(differ=SimpleNamespace(diff=self._differ)))
        self._store = cast("Any", SimpleNamespace(changes=AsyncMock()))
        self._audit = AsyncMock()

    async def _differ(
        self, id: str, from_: str, to: str, before: list[Path], after: list[Path], *, quiesced: bool
    ) -> Changes:
        self.asked.append((before, after, quiesced))
        return Changes(
            id="CHG-1",
            sandbox_id=id,
            from_snapshot=from_,
            to_snapshot=to,
            created_at=now(),
            quiesced=quiesced,
        )

    async def get(self, actor: Identity, sandbox_id: str) -> Sandbox:
        return self.rows[sandbox_id]

    async def _points(self, sandbox: Sandbox) -> list[Snapshot]:
        return [
            Snapshot(
                id=f"{sandbox.id}-a", sandbox_id=sandbox.id, name="a", created_at=now(), quiesced=True,
                disk_layers=[f"/layers/{sandbox.id}/a"],
            )
        ]  # fmt: skip

    @asynccontextmanager
    async def frozen(self, sandbox: Sandbox) -> AsyncIterator[tuple[list[Path], bool]]:
        yield [Path(f"/layers/{sandbox.id}/now")], sandbox.id == "SBX-0"

    @asynccontextmanager
    async def reading(self, sandbox_id: str) -> AsyncIterator[None]:
        yield

    def machine(self, sandbox: Sandbox) -> Any:
        return SimpleNamespace(layers_below=AsyncMock(side_effect=lambda layer: [layer]))

    async def _readable(self, sandbox: Sandbox, layers: list[Path]) -> list[Path]:
        return layers


@pytest.mark.parametrize(("before", "after", "quiesced"), [("now", "a", True), ("a", "now", False)])
async def test_each_disk_is_read_at_its_own_point_and_nothing_is_kept(
    before: str, after: str, quiesced: bool
) -> None:
    fleet = Fleet("one", "one")
    changes = await fleet.diff(ACTOR, "SBX-0", before, after, "SBX-1")
    assert fleet.asked == [([Path(f"/layers/SBX-0/{before}")], [Path(f"/layers/SBX-1/{after}")], quiesced)]
    assert (changes.sandbox_id, changes.to_sandbox) == ("SBX-0", "SBX-1")
    assert changes.running is not None and len(changes.running.notes) == 2, "of each a reason, by its name"
    assert changes.running.notes[0].startswith(f"box-0 {before}: ")
    assert changes.running.notes[1].startswith(f"box-1 {after}: ")
    fleet._store.changes.insert.assert_not_awaited()
    assert fleet._audit.note.await_args.kwargs["to_sandbox"] == "SBX-1"


async def test_forks_of_another_build_and_points_that_are_not_there_are_refused() -> None:
    with pytest.raises(InvalidValue, match="box-0 and box-1 are not forks of the same source"):
        await Fleet("one", "other").diff(ACTOR, "SBX-0", "now", "now", "SBX-1")
    with pytest.raises(SnapshotNotFound, match="box-1 has no snapshot 'b'"):
        await Fleet("one", "one").diff(ACTOR, "SBX-0", "a", "b", "SBX-1")
    with pytest.raises(SnapshotNotFound, match="box-0 has no snapshot 'now'"):
        await Fleet("one", "one").diff(ACTOR, "SBX-0", "now", "now", "SBX-0")
