"""Bring a database to this program's schema: numbered SQL files, each run once, in one locked transaction.

A file that was run must never change, and a database that a newer program migrated is left alone.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

from psycopg import sql

from backend.errors import DatabaseNewer, Unavailable
from backend.store.pool import Connection, Database

MIN_SERVER = 140_000  # PostgreSQL's server_version_num of 14.0
_LOCK = 0x_F1_01_D0_01  # "fluid", migrations: any constant of ours
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


@dataclass(frozen=True)
class Migration:
    """One file of ``migrations/``."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def shipped() -> list[Migration]:
    """The migrations of this program, in order."""
    folder = resources.files("backend.store") / "migrations"
    found = [(match, file) for file in folder.iterdir() if (match := _NAME.fullmatch(file.name))]
    steps = [Migration(int(match[1]), file.name, file.read_text("utf-8")) for match, file in found]
    return sorted(steps, key=lambda step: step.number)


async def migrate(database: Database, steps: list[Migration] | None = None) -> list[str]:
    """Run what is missing; the names of what was run.

    Raises:
        DatabaseNewer: the database holds a migration that this program does not know.
        Unavailable: PostgreSQL is too old, or a migration that was run has another checksum now.
    """
    steps = shipped() if steps is None else steps
    async with database.transaction() as connection:
        _check_server(connection)
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        done = await _done(connection)
        _check_done(done, steps)
        fresh = [step for step in steps if step.number not in done]
        for step in fresh:
            await connection.execute(sql.SQL(step.text))
            await connection.execute(
                "INSERT INTO fluid.migrations (number, name, checksum) VALUES (%s, %s, %s)",
                (step.number, step.name, step.checksum),
            )
    return [step.name for step in fresh]


def _check_server(connection: Connection) -> None:
    version = connection.info.server_version
    if version < MIN_SERVER:
        raise Unavailable(
            f"PostgreSQL {version // 10_000} is too old",
            remedy="use PostgreSQL 14 or newer, or leave out `database:`",
        )


async def _done(connection: Connection) -> dict[int, tuple[str, str]]:
    await connection.execute("CREATE SCHEMA IF NOT EXISTS fluid")
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS fluid.migrations (number int PRIMARY KEY, name text NOT NULL, "
        "checksum text NOT NULL, at timestamptz NOT NULL DEFAULT now())"
    )
    rows = await (await connection.execute("SELECT number, name, checksum FROM fluid.migrations")).fetchall()
    return {number: (name, checksum) for number, name, checksum in rows}


def _check_done(done: dict[int, tuple[str, str]], steps: list[Migration]) -> None:
    known = {step.number: step for step in steps}
    for number, (name, checksum) in sorted(done.items()):
        if number not in known:
            raise DatabaseNewer(
                f"the database was migrated by a newer Fluid (it holds {name})",
                remedy="upgrade this Fluid, or point `database:` at another database",
            )
        if known[number].checksum != checksum:
            raise Unavailable(
                f"migration {name} is not the file that this database was made with",
                remedy="install the release that made the database, or restore the file",
            )
