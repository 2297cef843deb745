"""A real PostgreSQL for the service tests: one cluster a session, one fresh database a test."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from backend.store import Database, EmbeddedPostgres, EventBus, Store, migrate
from tests.fix_database import RUN_AS
from tests.fix_doors import backend
from tests.fix_machines import daemons
from tests.fix_panes import audit, fleet, panes, tmux

__all__ = ["audit", "backend", "daemons", "fleet", "panes", "tmux"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A short folder that other users can pass through; pytest's own are 0700 and long."""
    folder = Path(tempfile.mkdtemp(prefix="fluid-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    folder = Path(tempfile.mkdtemp(prefix="fluid-pg-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "pg", RUN_AS)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
        shutil.rmtree(folder)


@pytest.fixture
async def empty_dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database with nothing in it."""
    name = f"test_{secrets.token_hex(4)}"
    admin = make_conninfo("", host=str(postgres.sockets), user="postgres", dbname="postgres")
    async with await psycopg.AsyncConnection.connect(admin, autocommit=True) as connection:
        await connection.execute(sql.SQL("CREATE DATABASE {} OWNER fluid").format(sql.Identifier(name)))
    yield make_conninfo(postgres.dsn, dbname=name)
    async with await psycopg.AsyncConnection.connect(admin, autocommit=True) as connection:
        await connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
async def database(empty_dsn: str) -> AsyncIterator[Database]:
    """A migrated database."""
    database = Database(empty_dsn)
    await database.open()
    await migrate(database)
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


@pytest.fixture
async def bus(store: Store) -> EventBus:
    bus = EventBus(store.events)
    await bus.open()
    return bus
