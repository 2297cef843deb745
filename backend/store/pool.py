"""The connections to PostgreSQL. Trouble becomes one of our errors here, and nowhere above.

Every statement has a time limit. While the database is known to be down, callers wait for a moment only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from backend.config import DatabaseConfig
from backend.errors import DatabaseDown, InvalidValue, NoSpace, TimedOut

POOL_TIMEOUT_S = 5.0
DOWN_TIMEOUT_S = 0.25  # while known to be down: what runs goes on, nobody queues for five seconds each
CHECK_TIMEOUT_S = 2.0
STATEMENT_TIMEOUT_MS = 15_000
ANSWER_TIMEOUT_S = 20.0  # the server ends a statement before; a server that stands still ends nothing
LOCK_TIMEOUT_MS = 5_000
CONNECT_TIMEOUT_S = 5
WAIT_INTERVAL_S = 0.1  # psycopg's own
RETRY_EVERY_S = 600.0  # the pool itself backs off between its attempts; it must not give up within an outage
MIN_CONNECTIONS = 2
MAX_CONNECTIONS = 12

OUTAGES = (DatabaseDown, TimedOut, NoSpace)
"""The database did not do it, through no fault of what was asked."""

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class _Connection(Connection):
    """Waits for the server for ``answer_s`` at most, whatever it is asked. One that did not answer in time is
    closed: what would come later belongs to nobody."""

    answer_s = ANSWER_TIMEOUT_S

    async def wait(self, gen: Any, interval: float = WAIT_INTERVAL_S, timeout: float | None = None) -> Any:
        try:
            return await super().wait(gen, interval, timeout or self.answer_s)
        except pg._WaitTimeout as error:
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer within {timeout or self.answer_s:g} s") from error


def dsn_of(config: DatabaseConfig) -> str:
    """The connection string of the ``database`` section. It may hold a password: never log it."""
    if config.url is not None:
        return config.url.get_secret_value()
    values: dict[str, Any] = {
        "host": config.host,
        "port": config.port,
        "dbname": config.name,
        "user": config.user,
    }
    if config.password is not None:
        values["password"] = config.password.get_secret_value()
    return make_conninfo("", **values)


class Database:
    """A pool over one database. ``async with database.transaction() as connection: …``"""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._known_down = False
        self._pool: AsyncConnectionPool[_Connection] = AsyncConnectionPool(
            make_conninfo(dsn, connect_timeout=CONNECT_TIMEOUT_S, application_name="fluid"),
            min_size=MIN_CONNECTIONS,
            max_size=MAX_CONNECTIONS,
            open=False,
            timeout=POOL_TIMEOUT_S,
            reconnect_timeout=RETRY_EVERY_S,
            check=_check,
            connection_class=_Connection,
            configure=_configure,
            name="fluid",
        )

    @property
    def where(self) -> str:
        """Host and database name, without secrets."""
        parts = conninfo_to_dict(self.dsn)
        return f"{parts.get('dbname', '?')} at {parts.get('host', 'localhost')}:{parts.get('port', 5432)}"

    async def open(self) -> None:
        """Connect. Raises :class:`DatabaseDown` with PostgreSQL's own words if that fails."""
        try:
            probe = await psycopg.AsyncConnection.connect(self.dsn, connect_timeout=CONNECT_TIMEOUT_S)
            await probe.close()
        except psycopg.Error as error:
            raise self._down(error) from error
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection; safe to call twice."""
        await self._pool.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One transaction on a connection that was just seen to work: committed whole, or nothing is kept.

        Raises:
            DatabaseDown: no connection, or it broke (whether a commit in flight was kept is then unknown).
            TimedOut: the statement's or the lock's time limit ran out.
            NoSpace: PostgreSQL's disk is full.
            InvalidValue: a value that no column can hold, such as a NUL byte in an id.
        """
        limit = DOWN_TIMEOUT_S if self._known_down else POOL_TIMEOUT_S
        try:
            async with self._pool.connection(timeout=limit) as connection:
                self._known_down = False
                yield connection
        except (PoolTimeout, PoolClosed, TooManyRequests) as error:
            self._known_down = True
            raise self._down(error) from error
        except (pg.QueryCanceled, pg.LockNotAvailable) as error:
            raise TimedOut(
                f"the database did not answer within {STATEMENT_TIMEOUT_MS // 1000} s",
                remedy="see its load with `SELECT * FROM pg_stat_activity`",
            ) from error
        except (pg.DiskFull, pg.OutOfMemory) as error:
            raise NoSpace(f"PostgreSQL ({self.where}): {_words(error)}", remedy="free space there") from error
        except psycopg.DataError as error:
            raise InvalidValue(
                f"the database cannot take a value: {_words(error)}", remedy="send it without NUL characters"
            ) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise self._down(error) from error

    async def ping(self) -> None:
        """Raises :class:`DatabaseDown` unless a statement comes back."""
        async with self.transaction() as connection:
            await connection.execute("SELECT 1")

    def _down(self, error: Exception) -> DatabaseDown:
        return DatabaseDown(
            f"the database {self.where} does not answer: {_words(error)}",
            remedy="start PostgreSQL, then try again; `fluid doctor` tells more",
        )


async def _check(connection: _Connection) -> None:
    connection.answer_s = CHECK_TIMEOUT_S
    await AsyncConnectionPool.check_connection(connection)
    connection.answer_s = ANSWER_TIMEOUT_S


async def _configure(connection: Connection) -> None:
    await connection.execute(
        "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false), "
        "set_config('timezone', 'UTC', false), set_config('search_path', 'fluid', false)",
        (str(STATEMENT_TIMEOUT_MS), str(LOCK_TIMEOUT_MS)),
    )
    await connection.commit()


def _words(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
