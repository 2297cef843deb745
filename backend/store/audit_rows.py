"""The audit chain's table: appended to, read, never changed. ``backend.audit`` gives lines their meaning."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from psycopg import errors as pg
from psycopg import sql

from backend.errors import Conflict
from backend.store.pool import Database

_FILTERS = {"sandbox_id", "id", "noun", "action", "actor_uid"}
BATCH_ROWS = 5_000
# One value for many rows: the driver makes a row three times slower than Python splits a text. A line is JSON
# without white space, it holds no line break.
_BATCH = """
    SELECT string_agg(line, E'\\n' ORDER BY seq), string_agg(hash, E'\\n' ORDER BY seq), max(seq)
    FROM (SELECT line, hash, seq FROM fluid.audit WHERE seq > %s ORDER BY seq LIMIT %s) AS page
"""

LinkedLine = tuple[str, str]  # (canonical line, its hash)
Page = tuple[list[LinkedLine], int]
Batches = AsyncGenerator[list[LinkedLine], None]


class AuditRows:
    """Rows are ``(line, hash)``. PostgreSQL makes the search columns from the line."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def head(self) -> tuple[int, str]:
        """``(seq, hash)`` of the last row; ``(0, "")`` of an empty chain."""
        async with self._database.transaction() as connection:
            result = await connection.execute("SELECT seq, hash FROM fluid.audit ORDER BY seq DESC LIMIT 1")
            row = await result.fetchone()
        return (row[0], row[1]) if row else (0, "")

    async def hash_at(self, seq: int) -> str | None:
        """The hash of one row; None if it is not there."""
        async with self._database.transaction() as connection:
            result = await connection.execute("SELECT hash FROM fluid.audit WHERE seq = %s", (seq,))
            row = await result.fetchone()
        return row[0] if row else None

    async def append(self, rows: Sequence[LinkedLine]) -> None:
        """All rows or none, in one commit. Raises :class:`Conflict` if they do not follow the last row."""
        try:
            async with self._database.transaction() as connection:
                await connection.execute(
                    "INSERT INTO fluid.audit (line, hash) SELECT * FROM unnest(%s::text[], %s::text[])",
                    ([line for line, _ in rows], [hash_ for _, hash_ in rows]),
                )
        except pg.UniqueViolation as error:
            raise Conflict("another writer appended to the audit first", remedy="try again") from error

    async def spooled(self, spool_ids: Sequence[str]) -> set[str]:
        """Which of these spool ids are in the chain already."""
        async with self._database.transaction() as connection:
            result = await connection.execute(
                "SELECT spool_id FROM fluid.audit WHERE spool_id = ANY(%s)", (list(spool_ids),)
            )
            return {row[0] for row in await result.fetchall()}

    async def list(
        self, filters: dict[str, object], *, after_seq: int = 0, limit: int = 200, newest_first: bool = True
    ) -> Page:
        """Lines beyond ``after_seq`` that match, and how many do in all. Filters: see ``_FILTERS``."""
        if unknown := set(filters) - _FILTERS:
            raise ValueError(f"the audit cannot be searched by {sorted(unknown)}")
        parts = [sql.SQL("seq > %s"), *(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in filters)]
        where = sql.SQL(" AND ").join(parts)
        values = [after_seq, *filters.values()]
        order = sql.SQL("DESC" if newest_first else "ASC")
        page = sql.SQL("SELECT line, hash FROM fluid.audit WHERE {} ORDER BY seq {} LIMIT %s").format(
            where, order
        )
        count = sql.SQL("SELECT count(*) FROM fluid.audit WHERE {}").format(where)
        async with self._database.transaction() as connection:
            rows = await (await connection.execute(page, [*values, limit])).fetchall()
            total = await (await connection.execute(count, values)).fetchone()
        return [(row[0], row[1]) for row in rows], total[0] if total else 0

    async def stream(self, after_seq: int = 0) -> Batches:
        """The chain in order, in batches; memory stays flat. A reader that waits holds no connection:
        rows never change."""
        last: int | None = after_seq
        while last is not None:
            async with self._database.transaction() as connection:
                row = await (await connection.execute(_BATCH, (last, BATCH_ROWS))).fetchone()
            lines, hashes, last = row or (None, None, None)
            if last is not None:
                yield list(zip(lines.split("\n"), hashes.split("\n"), strict=False))
