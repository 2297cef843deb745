"""Idempotency keys: the answer that was given once is given again, also after a restart."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import LiteralString

from backend.errors import Conflict, InvalidValue
from backend.store.encoding import escape, unescape
from backend.store.pool import OUTAGES, Database


@dataclass(frozen=True)
class KeptAnswer:
    """What was answered: an HTTP status and the body's text."""

    status: int
    body: str


class Keys:
    """``scope`` is who and what (``"1000 POST /v1/sandboxes"``), ``key`` is the header's value.

    A request can hold secrets: what is kept of it is an HMAC under ``digest_key``, which is not in the
    database.
    """

    def __init__(self, database: Database, digest_key: bytes) -> None:
        self._database = database
        self._digest_key = digest_key
        self._owed: dict[tuple[str, str], KeptAnswer | None] = {}  # None: a release

    async def claim(self, scope: str, key: str, request: bytes) -> KeptAnswer | None:
        """The kept answer. None: the caller does the work and then calls :meth:`keep` or :meth:`release`.

        Raises:
            InvalidValue: the key was used with another request body.
            Conflict: the first request with this key is still at work.
        """
        if (scope, key) in self._owed:
            await self._settle(scope, key, self._owed.pop((scope, key)))
        digest = hmac.digest(self._digest_key, request, "sha256").hex()
        async with self._database.transaction() as connection:
            claimed = await connection.execute(
                "INSERT INTO fluid.keys (scope, key, request_sha256) VALUES (%s, %s, %s) "
                "ON CONFLICT DO NOTHING",
                (scope, key, digest),
            )
            if claimed.rowcount:
                return None
            row = await (
                await connection.execute(
                    "SELECT request_sha256, status, answer FROM fluid.keys WHERE scope = %s AND key = %s",
                    (scope, key),
                )
            ).fetchone()
        if row is not None and row[0] != digest:
            raise InvalidValue(
                f"Idempotency-Key {key!r} was used with another request",
                remedy="use a new key for a new request",
            )
        if row is None or row[1] is None:
            raise Conflict(
                f"the request with Idempotency-Key {key!r} is still at work", remedy="ask again in a moment"
            )
        return KeptAnswer(row[1], unescape(row[2]))

    async def keep(self, scope: str, key: str, answer: KeptAnswer) -> None:
        """Remember the answer for the next caller with this key."""
        await self._settle(scope, key, answer)

    async def release(self, scope: str, key: str) -> None:
        """The work failed and left nothing: the key may be used again."""
        await self._settle(scope, key, None)

    async def forget_unfinished(self) -> int:
        """At start: nobody works on these any more. How many there were."""
        return await self._execute("DELETE FROM fluid.keys WHERE status IS NULL", ())

    async def prune(self, older_than_s: int) -> int:
        """Forget answers of this age; how many."""
        return await self._execute(
            "DELETE FROM fluid.keys WHERE created_at < now() - make_interval(secs => %s)", (older_than_s,)
        )

    async def _settle(self, scope: str, key: str, answer: KeptAnswer | None) -> None:
        """Keep, or release. What the database cannot take now is done when the key comes again."""
        try:
            if answer is None:
                await self._execute("DELETE FROM fluid.keys WHERE scope = %s AND key = %s", (scope, key))
            else:
                await self._execute(
                    "UPDATE fluid.keys SET status = %s, answer = %s WHERE scope = %s AND key = %s",
                    (answer.status, escape(answer.body), scope, key),
                )
        except OUTAGES:
            self._owed[scope, key] = answer

    async def _execute(self, statement: LiteralString, values: tuple[object, ...]) -> int:
        async with self._database.transaction() as connection:
            return (await connection.execute(statement, values)).rowcount
