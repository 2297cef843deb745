"""A private PostgreSQL cluster of the backend: real PostgreSQL, reachable through one Unix socket only.

It outlives the backend: a start adopts the one that runs. PostgreSQL refuses root, so root needs another user
for it (never made silently). The socket's folder is 0700: only that user and root connect, as anybody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import shlex
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from backend.errors import DatabaseDown, Unavailable
from backend.models import Component
from backend.store import _binaries
from backend.store._binaries import Binaries
from backend.system_users import new_user

log = logging.getLogger(__name__)

INITDB_TIMEOUT_S = 120
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
PROGRAM_TIMEOUT_S = 10
RESTART_PAUSE_S = 1.0
SOCKET_PATH_MAX = 107  # unix(7): sun_path without its NUL
LOG_TAIL_LINES = 8
DEFAULT_USERS = ("fluid-postgres", "postgres")
SUPERUSER = "postgres"
ROLE = "fluid"

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "40",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "jit": "off",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
    "password_encryption": "scram-sha-256",
}


@dataclass(frozen=True)
class Account:
    """The system user that PostgreSQL runs as; None where it is our own."""

    name: str
    uid: int
    gid: int


class EmbeddedPostgres:
    """One cluster under ``folder`` (``data``, ``socket``, ``server.log``).

    Raises from every method: :class:`Unavailable` or :class:`DatabaseDown` with the last lines of the log.
    """

    def __init__(self, folder: Path, run_as: str | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.sockets = folder / "socket"
        self.log = folder / "log" / "server.log"
        self._run_as = run_as

    @property
    def dsn(self) -> str:
        """Of the program's role, which is no superuser."""
        return self._dsn(ROLE, ROLE)

    async def start(self) -> str:
        """Make the cluster if there is none, start it unless it runs; the connection string."""
        account = self._account()
        self._check_socket_path()
        self._make_folders(account)
        binaries = await self._usable_binaries(account)
        await self._forget_stranger(account)
        if not (self.data / "PG_VERSION").exists():
            await self._initialise(binaries, account)
        if self.postmaster() is None:
            await self._launch(binaries, account)
        await self._prepare_role()
        return self.dsn

    async def stop(self) -> None:
        """Fast shutdown: connections are ended, nothing is lost. Nothing happens if none runs."""
        if self.postmaster() is None:
            return
        account = self._account()
        binaries = await self._usable_binaries(account)
        await self._run(
            [
                binaries.program("pg_ctl"),
                "stop",
                "-D",
                str(self.data),
                "-m",
                "fast",
                "-w",
                "-t",
                str(STOP_TIMEOUT_S),
            ],
            account,
            STOP_TIMEOUT_S + PROGRAM_TIMEOUT_S,
        )

    def status(self) -> Component:
        """Whether the server runs, seen from outside."""
        pid = self.postmaster()
        if pid is None:
            return Component(
                name="postgresql",
                status="down",
                message=self._log_tail() or "not started",
                remedy="`fluid serve` starts it",
            )
        return Component(name="postgresql", status="ok", message=f"private cluster, pid {pid}")

    async def keep(self) -> None:
        """Start the server again whenever it ends, until cancelled. Waits on its pidfd, never polls."""
        while True:
            pid = self.postmaster()
            if pid is not None:
                await _process_end(pid)
            try:
                await self.start()
            except Unavailable:
                await asyncio.sleep(RESTART_PAUSE_S)  # back-off: what failed at once fails at once again

    def postmaster(self) -> int | None:
        """The pid of the server of exactly this cluster. A pid that was reused by another program is none."""
        pid = self._pid_in_file()
        if pid is None:
            return None
        try:
            same = Path(f"/proc/{pid}/cwd").resolve(strict=True) == self.data.resolve()
            return pid if same else None
        except OSError:
            return None

    # --- steps of start ---------------------------------------------------------------------------------

    def _account(self) -> Account | None:
        """The user of the config, else the one whose cluster is there already, else :data:`DEFAULT_USERS`."""
        if self._run_as is None and self.data.exists() and (owner := self.data.stat().st_uid) != 0:
            with suppress(KeyError):  # its user is gone: PostgreSQL says whom the files belong to
                return find_account(pwd.getpwuid(owner).pw_name)
        return find_account(self._run_as)

    def _check_socket_path(self) -> None:
        path = str(self.sockets / ".s.PGSQL.5432")
        if len(path.encode()) > SOCKET_PATH_MAX:
            raise Unavailable(
                f"the database socket's path is longer than {SOCKET_PATH_MAX} bytes: {path}",
                remedy="use a shorter state folder (FLUID_HOME)",
            )

    def _make_folders(self, account: Account | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o711)
        for folder in (self.sockets, self.log.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)
            if account:
                os.chown(folder, account.uid, account.gid)

    async def _usable_binaries(self, account: Account | None) -> Binaries:
        """The first that this user can execute: a virtual environment under /root is closed to it."""
        version = self.data / "PG_VERSION"
        major = int(version.read_text()) if version.exists() else None
        problem: Unavailable | None = None
        for binaries in _binaries.choose(_binaries.installed(), major):
            try:
                await self._run([binaries.program("postgres"), "--version"], account, PROGRAM_TIMEOUT_S)
                return binaries
            except Unavailable as error:
                problem = error
        assert problem is not None  # noqa: S101  # choose() returns one at least
        raise problem

    async def _forget_stranger(self, account: Account | None) -> None:
        """Remove a pid file whose pid now is another program: PostgreSQL would refuse to start over it."""
        if self._pid_in_file() is not None and self.postmaster() is None:
            await self._run(["rm", "-f", str(self.data / "postmaster.pid")], account, PROGRAM_TIMEOUT_S)

    async def _initialise(self, binaries: Binaries, account: Account | None) -> None:
        """``initdb`` into a folder beside, then one rename: a cluster is there whole or not at all."""
        fresh = self.folder / "data.new"
        await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if account:
            os.chown(fresh, account.uid, account.gid)
        await self._check_passable(account)
        initdb = [binaries.program("initdb"), "-D", str(fresh), "-U", SUPERUSER, "-E", "UTF8", "--no-locale"]
        await self._run([*initdb, "--auth-local=trust", "--auth-host=reject"], account, INITDB_TIMEOUT_S)
        fresh.rename(self.data)

    async def _check_passable(self, account: Account | None) -> None:
        for folder in [*reversed(self.folder.parents), self.folder]:
            try:
                await self._run(["test", "-x", str(folder)], account, PROGRAM_TIMEOUT_S)
            except Unavailable as error:
                name = account.name if account else "this user"
                raise Unavailable(
                    f"{name} cannot pass through {folder} to its database", remedy=f"chmod o+x {folder}"
                ) from error

    async def _launch(self, binaries: Binaries, account: Account | None) -> None:
        settings = SETTINGS | {"unix_socket_directories": str(self.sockets)}
        lines = [
            f"{key} = '{value}'" for key, value in ((k, v.replace("'", "''")) for k, v in settings.items())
        ]
        config = "\n".join(lines) + "\n"
        await self._run(
            ["tee", str(self.data / "postgresql.conf")], account, PROGRAM_TIMEOUT_S, config.encode()
        )
        if account is not None:
            log.info("PostgreSQL runs as the system user %s: it refuses root", account.name)
        start = [binaries.program("pg_ctl"), "start", "-D", str(self.data), "-l", str(self.log)]
        try:
            await self._run(
                [*start, "-w", "-t", str(START_TIMEOUT_S)], account, START_TIMEOUT_S + PROGRAM_TIMEOUT_S
            )
        except Unavailable as error:
            raise DatabaseDown(
                f"PostgreSQL did not start: {self._log_tail() or error.message}", remedy=f"read {self.log}"
            ) from error

    async def _prepare_role(self) -> None:
        """The program's role and database, made once."""
        try:
            async with await psycopg.AsyncConnection.connect(
                self._dsn(SUPERUSER, "postgres"), autocommit=True, connect_timeout=PROGRAM_TIMEOUT_S
            ) as connection:
                role = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,))
                if await role.fetchone() is None:
                    await connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(ROLE)))
                database = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (ROLE,))
                if await database.fetchone() is None:
                    statement = sql.SQL("CREATE DATABASE {} OWNER {}")
                    await connection.execute(statement.format(sql.Identifier(ROLE), sql.Identifier(ROLE)))
        except psycopg.Error as error:
            raise DatabaseDown(
                f"the private PostgreSQL does not answer: {error}; {self._log_tail()}",
                remedy=f"read {self.log}",
            ) from error

    # --- helpers ----------------------------------------------------------------------------------------

    def _dsn(self, user: str, database: str) -> str:
        return make_conninfo("", host=str(self.sockets), user=user, dbname=database)

    def _pid_in_file(self) -> int | None:
        """postmaster.pid, line 1 (PostgreSQL, src/include/utils/pidfile.h)."""
        try:
            first = (self.data / "postmaster.pid").read_text().splitlines()[0]
            return int(first)
        except (OSError, IndexError, ValueError):
            return None

    def _log_tail(self) -> str:
        try:
            lines = self.log.read_text("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return " | ".join(lines[-LOG_TAIL_LINES:])

    async def _run(
        self, argv: list[str], account: Account | None, limit_s: float, stdin: bytes = b""
    ) -> None:
        """Run a program as ``account`` with an environment of its own; Unavailable with its last words."""
        identity = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C", "HOME": "/"},
                umask=0o077,
                start_new_session=True,
                **identity,  # type: ignore[arg-type]
            )
        except OSError as error:
            raise Unavailable(
                f"cannot run {argv[0]}: {error.strerror}", remedy="see `fluid doctor`"
            ) from error
        try:
            async with asyncio.timeout(limit_s):
                output, _ = await process.communicate(stdin)
        except BaseException as error:
            if process.returncode is None:
                process.kill()
                await process.wait()
            if isinstance(error, TimeoutError):
                raise Unavailable(
                    f"{argv[0]} took longer than {limit_s} s", remedy=f"read {self.log}"
                ) from error
            raise
        if process.returncode:
            words = " | ".join(output.decode("utf-8", "replace").strip().splitlines()[-LOG_TAIL_LINES:])
            raise Unavailable(f"{argv[0]} failed ({process.returncode}): {words}", remedy=f"read {self.log}")


def find_account(run_as: str | None) -> Account | None:
    """The user to run PostgreSQL as; None when we are not root and run it ourselves.

    Raises:
        Unavailable: root, and no fitting user exists.
    """
    if os.geteuid() != 0:
        return None
    for name in [run_as] if run_as else DEFAULT_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    wanted = run_as or DEFAULT_USERS[0]
    raise Unavailable(
        f"PostgreSQL refuses to run as root, and there is no user {wanted!r} for it",
        remedy=shlex.join(new_user(wanted)),
    )


async def _process_end(pid: int) -> None:
    """Return once the process is gone (pidfd_open(2))."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(handle, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
