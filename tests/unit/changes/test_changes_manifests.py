"""Manifests that are kept: a later one is made of an earlier one, and read whole when anything is amiss."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.changes import Earlier, Manifests
from backend.disks import Manifest
from backend.disks.pieces import Piece, cut
from backend.disks.records import Node, pack
from backend.errors import DiskUnreadable, NotFound
from tests.fix_manifests import Rows

NAMES = [b"/", *(b"/file-%04d" % number for number in range(2_000))]
BEFORE, AFTER = [Path("base")], [Path("base"), Path("top")]


def record(path: bytes, size: int = 0) -> bytes:
    return pack(Node(path, 0o100644, 0, 0, 1, 12, size, 0, 0, None, None, ()))


class Disks:
    """Two disks, of which the later has one file more and one of another size."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.edited: dict[bytes, bytes | None] = {
            b"/file-0500": record(b"/file-0500", 9),
            b"/new": record(b"/new"),
        }
        self.refused: DiskUnreadable | None = None

    async def manifest(self, layers: Sequence[Path]) -> Manifest:
        self.read.append("whole")
        names = {path: record(path) for path in NAMES}
        return Manifest(tuple(cut(sorted((names | (self.edited if layers == AFTER else {})).items()))[0]))

    async def edits(self, before: Sequence[Path], after: Sequence[Path]) -> dict[bytes, bytes | None]:
        self.read.append("edits")
        assert (before, after) == (BEFORE, AFTER)
        if self.refused:
            raise self.refused
        return self.edited


class World:
    def __init__(self) -> None:
        self.disks, self.rows = Disks(), Rows()
        self.manifests = Manifests(cast("Any", self.disks), cast("Any", self.rows))


@pytest.fixture
def world() -> World:
    return World()


async def test_a_later_manifest_costs_what_changed(world: World) -> None:
    first = await world.manifests.take(BEFORE)
    second = await world.manifests.take(AFTER, Earlier(first.sha256, BEFORE))
    assert world.disks.read == ["whole", "edits"]
    assert (first.names, second.names) == (2_001, 2_002)
    assert first.fresh > 4 and second.fresh == sum(world.rows.asked) == 2  # one each of its two changes
    whole = await World().manifests.take(AFTER)
    assert (whole.sha256, whole.names) == (second.sha256, second.names)
    assert len(world.rows.data) == first.fresh + second.fresh


async def test_nothing_changed_is_the_same_manifest(world: World) -> None:
    first = await world.manifests.take(BEFORE)
    world.disks.edited = {b"/file-0007": record(b"/file-0007")}  # touched, and the same
    assert await world.manifests.take(AFTER, Earlier(first.sha256, BEFORE)) == (first.sha256, first.names, 0)


@pytest.mark.parametrize("amiss", ["unknown", "gone", "damaged", "no zlib", "refused", "gone meanwhile"])
async def test_whatever_is_amiss_the_disk_is_read_whole(world: World, amiss: str) -> None:
    first = await world.manifests.take(BEFORE)
    name = first.sha256
    if amiss == "unknown":  # of a version that kept no manifests
        name = "0" * 64
    elif amiss == "gone":
        world.rows.data.clear()
    elif amiss == "damaged":
        world.rows.data = dict.fromkeys(world.rows.data, zlib.compress(b"another"))
    elif amiss == "no zlib":
        world.rows.data = dict.fromkeys(world.rows.data, b"another")
    elif amiss == "refused":
        world.disks.refused = DiskUnreadable("the two file systems differ")
    else:
        wanted = await world.manifests.parts(name)
        gone = wanted[1][-1].sha256  # of a part that nothing changed in
        world.rows.data.pop(gone)
    second = await world.manifests.take(AFTER, Earlier(name, BEFORE))
    assert world.disks.read[-1] == "whole" and world.disks.read.count("whole") == 2
    assert second.sha256 == (await World().manifests.take(AFTER)).sha256


async def test_a_disk_that_is_refused_is_an_error(world: World) -> None:
    async def refuse(layers: Sequence[Path]) -> Manifest:
        raise DiskUnreadable("compression")

    refusing = SimpleNamespace(manifest=refuse)
    with pytest.raises(DiskUnreadable, match="compression"):
        await Manifests(cast("Any", refusing), cast("Any", world.rows)).take(BEFORE)
    assert not world.rows.manifests


async def test_pieces_are_what_their_name_says_and_small(world: World) -> None:
    first = await world.manifests.take(BEFORE)
    _, parts = await world.manifests.parts(first.sha256)
    held = await world.manifests.pieces([part.sha256 for part in parts])
    assert [Piece.of(held[part.sha256]).part for part in parts] == parts
    assert sum(map(len, world.rows.data.values())) * 3 < sum(map(len, held.values()))
    with pytest.raises(NotFound, match="no manifest"):
        await world.manifests.parts("1" * 64)
