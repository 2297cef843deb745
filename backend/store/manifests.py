"""Manifests by their SHA-256, in pieces that any number of them share: written whole or not at all.

What a manifest is made of cannot go while it is there: the database holds the two together. A manifest goes
when no snapshot names it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from psycopg import errors as pg

from backend.errors import NotFound
from backend.store.pool import Database

_LOCK = 0x_F1_01_D0_02  # "fluid", manifests: whoever keeps one shares it, whoever prunes has it alone


class KeptManifest(NamedTuple):
    """How many names a manifest has, and what it is made of, in order: first path and SHA-256 of each
    piece."""

    names: int
    parts: Sequence[tuple[bytes, bytes]]


class Manifests:
    """Pieces are bytes to it; the caller compresses them, and sees that they are what their name says."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(
        self, sha256: str, names: int, parts: Sequence[tuple[bytes, bytes]], fresh: Mapping[bytes, bytes]
    ) -> None:
        """Keep a manifest of these parts; ``fresh``: the pieces that may not be there yet.

        Raises:
            NotFound: a piece that is not among ``fresh`` is not there; nothing was kept.
        """
        try:
            async with self._database.transaction() as connection:
                await connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", (_LOCK,))
                if fresh:
                    await connection.execute(
                        "INSERT INTO fluid.manifest_pieces (sha256, data) "
                        "SELECT * FROM unnest(%b::bytea[], %b::bytea[]) ORDER BY 1 "
                        # One that was damaged is mended so.
                        "ON CONFLICT (sha256) DO UPDATE SET data = EXCLUDED.data "
                        "WHERE manifest_pieces.data <> EXCLUDED.data",
                        (list(fresh), list(fresh.values())),
                    )
                await connection.execute(
                    "INSERT INTO fluid.manifests (sha256, names) VALUES (%s, %s) "
                    "ON CONFLICT (sha256) DO UPDATE SET kept_at = now()",
                    (sha256, names),
                )
                await connection.execute(
                    "INSERT INTO fluid.manifest_parts (manifest, at, first, piece) "
                    "SELECT %s, one.at, one.first, one.piece "
                    "FROM unnest(%b::bytea[], %b::bytea[]) WITH ORDINALITY AS one (first, piece, at) "
                    "ON CONFLICT DO NOTHING",
                    (sha256, [first for first, _ in parts], [piece for _, piece in parts]),
                )
        except pg.ForeignKeyViolation as error:
            raise NotFound(f"a piece of manifest {sha256} is gone", remedy="read the disk again") from error

    async def find(self, sha256: str) -> KeptManifest | None:
        """None where no such manifest is kept."""
        async with self._database.transaction() as connection:
            rows = await (
                await connection.execute(
                    "SELECT names, first, piece FROM fluid.manifests AS one "
                    "JOIN fluid.manifest_parts AS part ON part.manifest = one.sha256 "
                    "WHERE one.sha256 = %s ORDER BY part.at",
                    (sha256,),
                    binary=True,
                )
            ).fetchall()
        return KeptManifest(rows[0][0], [row[1:] for row in rows]) if rows else None

    async def pieces(self, sha256s: Collection[bytes]) -> dict[bytes, bytes]:
        """Those of them that are there, by SHA-256."""
        async with self._database.transaction() as connection:
            rows = await (
                await connection.execute(
                    "SELECT sha256, data FROM fluid.manifest_pieces WHERE sha256 = ANY(%s)",
                    (list(sha256s),),
                    binary=True,
                )
            ).fetchall()
        return dict(rows)

    async def prune(self, older_than_s: int) -> int:
        """Forget manifests of this age that no snapshot names, and the pieces that were theirs alone; how
        many manifests. A younger one may belong to a snapshot whose row is not written yet. Nothing is done
        while one is being kept."""
        async with self._database.transaction() as connection:
            alone = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))
            if await alone.fetchone() != (True,):
                return 0
            gone = await connection.execute(
                "DELETE FROM fluid.manifests AS one WHERE kept_at < now() - make_interval(secs => %s) "
                "AND NOT EXISTS (SELECT FROM fluid.snapshots WHERE doc ->> 'manifest_sha256' = one.sha256)",
                (older_than_s,),
            )
            if gone.rowcount:
                await connection.execute(
                    "DELETE FROM fluid.manifest_pieces AS one WHERE NOT EXISTS "
                    "(SELECT FROM fluid.manifest_parts WHERE piece = one.sha256)"
                )
            return gone.rowcount
