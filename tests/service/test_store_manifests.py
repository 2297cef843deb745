"""Manifests in PostgreSQL: shared pieces are there once, and none that is needed ever goes."""

from __future__ import annotations

import asyncio

import pytest

from backend.errors import NotFound
from backend.models import Snapshot, now
from backend.store import Database, KeptManifest, Store


def piece(number: int) -> tuple[bytes, bytes]:
    return b"/\xff%d" % number, b"%032d" % number


def fresh(*numbers: int) -> dict[bytes, bytes]:
    return {piece(number)[1]: b"data %d \x00" % number for number in numbers}


async def keep(store: Store, name: str, *numbers: int, new: tuple[int, ...] | None = None) -> None:
    await store.manifests.keep(
        name, len(numbers) * 7, [piece(one) for one in numbers], fresh(*(numbers if new is None else new))
    )


async def named(store: Store, manifest: str, id: str = "SNP-1") -> None:
    await store.snapshots.insert(
        Snapshot(id=id, sandbox_id="SBX-1", name=id.lower(), created_at=now(), manifest_sha256=manifest)
    )


async def pieces(database: Database) -> int:
    async with database.transaction() as connection:
        row = await (await connection.execute("SELECT count(*) FROM fluid.manifest_pieces")).fetchone()
    assert row is not None
    return int(row[0])


async def age(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("UPDATE fluid.manifests SET kept_at = kept_at - interval '2 hours'")


async def test_a_manifest_reads_back_and_shares_its_pieces(store: Store, database: Database) -> None:
    await keep(store, "one", *range(600))
    await keep(store, "two", *range(599), 600, new=(600,))
    assert await store.manifests.find("one") == KeptManifest(4_200, [piece(number) for number in range(600)])
    assert await store.manifests.pieces([piece(5)[1], b"unknown"]) == fresh(5)
    assert await pieces(database) == 601
    assert await store.manifests.find("three") is None
    await keep(store, "one", *range(600))  # again
    assert await pieces(database) == 601


async def test_a_manifest_of_a_piece_that_is_gone_is_not_kept_at_all(
    store: Store, database: Database
) -> None:
    with pytest.raises(NotFound, match="two is gone"):
        await keep(store, "two", 1, 2, new=(2,))
    assert await store.manifests.find("two") is None and await pieces(database) == 0


async def test_a_piece_that_was_damaged_is_mended_by_the_next_that_brings_it(
    store: Store, database: Database
) -> None:
    await keep(store, "one", 1)
    async with database.transaction() as connection:
        await connection.execute("UPDATE fluid.manifest_pieces SET data = 'rot'")
    await keep(store, "two", 1)
    assert await store.manifests.pieces([piece(1)[1]]) == fresh(1)


async def test_what_no_snapshot_names_goes_with_the_pieces_that_were_its_alone(
    store: Store, database: Database
) -> None:
    await keep(store, "one", 1, 2)
    await keep(store, "two", 2, 3)
    await named(store, "two")
    assert await store.manifests.prune(3_600) == 0  # its snapshot's row may come yet
    await age(database)
    assert await store.manifests.prune(3_600) == 1
    assert await store.manifests.find("one") is None
    assert await store.manifests.pieces([piece(number)[1] for number in (1, 2, 3)]) == fresh(2, 3)
    await store.snapshots.delete("SNP-1")
    assert await store.manifests.prune(3_600) == 1
    assert await pieces(database) == 0 and await store.manifests.prune(3_600) == 0


async def test_one_that_is_kept_again_is_young_again(store: Store, database: Database) -> None:
    await keep(store, "one", 1)
    await age(database)
    await keep(store, "one", 1)
    assert await store.manifests.prune(3_600) == 0


async def test_keeping_and_pruning_at_once_never_loses_what_is_needed(
    store: Store, database: Database
) -> None:
    async def keeps(number: int) -> None:
        await named(store, f"kept-{number}", f"SNP-{number}")
        await keep(store, f"kept-{number}", 1, 2, number + 10)  # shares pieces with those that go

    async def prunes(number: int) -> None:
        await keep(store, f"stray-{number}", 1, 2, 3, number + 1_000)
        await store.manifests.prune(0)

    await asyncio.gather(*(work(number) for number in range(30) for work in (keeps, prunes)))
    await store.manifests.prune(0)
    for number in range(30):
        found = await store.manifests.find(f"kept-{number}")
        assert found is not None
        assert await store.manifests.pieces([sha for _, sha in found.parts]) == fresh(1, 2, number + 10)
        assert await store.manifests.find(f"stray-{number}") is None
