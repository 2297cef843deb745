"""The private cluster, its migrations, and what is seen when it goes away."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from backend.errors import DatabaseDown, DatabaseNewer, MissingProgram, TimedOut, Unavailable
from backend.store import Database, EmbeddedPostgres, _binaries, migrate
from backend.store._binaries import Binaries
from backend.store.embedded import find_account
from backend.store.migrate import Migration, shipped
from tests.fix_database import RUN_AS, standing_still


@pytest.mark.parametrize("binaries", _binaries.installed(), ids=lambda one: f"postgresql-{one.major}")
async def test_a_cluster_is_made_migrated_adopted_and_stopped(
    binaries: Binaries, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_binaries, "installed", lambda: [binaries])
    server = EmbeddedPostgres(open_folder / "pg", RUN_AS)
    assert server.status().status == "down"
    database = Database(await server.start())
    try:
        pid = server.postmaster()
        assert pid is not None
        assert stat.S_IMODE(server.sockets.stat().st_mode) == 0o700
        assert _listening_on_tcp(pid) == set()
        await database.open()
        assert await migrate(database) == [step.name for step in shipped()]
        assert await migrate(database) == []

        other_backend = EmbeddedPostgres(open_folder / "pg", RUN_AS)
        assert await other_backend.start() == database.dsn
        assert other_backend.postmaster() == pid
    finally:
        await database.close()
        await server.stop()
    assert server.postmaster() is None
    assert server.status().status == "down"


async def test_postgresql_killed_comes_back_and_the_pool_with_it(open_folder: Path) -> None:
    server = EmbeddedPostgres(open_folder / "pg", RUN_AS)
    database = Database(await server.start())
    await database.open()
    keeper = asyncio.create_task(server.keep())
    try:
        await migrate(database)
        first = server.postmaster()
        assert first is not None
        os.kill(first, signal.SIGKILL)
        back_after_s = await _answers_again(database)
        async with asyncio.timeout(10):
            while server.postmaster() is None:
                await asyncio.sleep(0.05)
        assert server.postmaster() != first
        assert await migrate(database) == []
        print(f"PostgreSQL killed: answered again after {back_after_s:.2f} s")
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await database.close()
        await server.stop()


async def test_a_stopped_database_is_a_503_that_says_what_to_do_then_fails_fast(open_folder: Path) -> None:
    server = EmbeddedPostgres(open_folder / "pg", RUN_AS)
    database = Database(await server.start())
    await database.open()
    await database.ping()
    await server.stop()
    try:
        with pytest.raises(DatabaseDown, match="fluid at") as caught:
            await database.ping()
        assert caught.value.remedy
        begin = time.monotonic()
        with pytest.raises(DatabaseDown):
            await database.ping()
        assert time.monotonic() - begin < 2
        await server.start()
        await _answers_again(database)
    finally:
        await database.close()
        await server.stop()


async def test_a_database_that_stands_still_is_a_503_within_seconds(
    postgres: EmbeddedPostgres, database: Database
) -> None:
    await database.ping()
    with standing_still(postgres):
        begin = time.monotonic()
        for _ in range(2):
            with pytest.raises(DatabaseDown, match="does not answer"):
                await database.ping()
        assert time.monotonic() - begin < 15
    await _answers_again(database)


async def test_a_pid_file_of_another_program_does_not_stop_the_start(open_folder: Path) -> None:
    server = EmbeddedPostgres(open_folder / "pg", RUN_AS)
    await server.start()
    await server.stop()
    pid_file = server.data / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{server.data}\n")
    try:
        await server.start()
        assert server.postmaster() != os.getpid()
    finally:
        await server.stop()


async def test_a_cluster_starts_as_its_owner_though_a_user_of_a_better_name_was_added(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.store.embedded.DEFAULT_USERS", ("fluid-none", "nobody"))
    server = EmbeddedPostgres(open_folder / "pg")
    await server.start()
    await server.stop()
    monkeypatch.setattr("backend.store.embedded.DEFAULT_USERS", ("daemon", "nobody"))
    try:
        await server.start()
        assert server.postmaster() is not None
    finally:
        await server.stop()


async def test_a_cluster_that_cannot_start_says_why_in_postgresqls_words(open_folder: Path) -> None:
    server = EmbeddedPostgres(open_folder / "pg", RUN_AS)
    await server.start()
    await server.stop()
    (server.data / "global/pg_control").unlink()
    with pytest.raises(DatabaseDown, match="pg_control"):
        await server.start()


async def test_a_folder_that_postgresql_cannot_pass_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    account = find_account(None)
    if account is None:  # not root: our own folder is always ours
        await EmbeddedPostgres(closed / "pg", RUN_AS).start()
        await EmbeddedPostgres(closed / "pg", RUN_AS).stop()
        return
    with pytest.raises(Unavailable, match="cannot pass through") as caught:
        await EmbeddedPostgres(closed / "pg", RUN_AS).start()
    assert caught.value.remedy.startswith("chmod o+x /")
    assert not (closed / "pg/data").exists()


def test_root_without_a_user_for_postgresql_is_told_the_command() -> None:
    if os.geteuid() != 0:
        assert find_account("nobody-such") is None
        return
    with pytest.raises(Unavailable, match="nobody-such") as caught:
        find_account("nobody-such")
    assert "useradd" in caught.value.remedy


def test_a_cluster_whose_programs_are_gone_names_the_package() -> None:
    with pytest.raises(MissingProgram, match="PostgreSQL 15") as caught:
        _binaries.choose([Binaries(18, Path("/x"))], 15)
    assert "postgresql-15" in caught.value.remedy
    with pytest.raises(MissingProgram):
        _binaries.choose([], None)


async def test_a_newer_database_and_a_changed_migration_are_refused(empty_dsn: str) -> None:
    database = Database(empty_dsn)
    await database.open()
    later = Migration(9999, "9999_later.sql", "CREATE TABLE fluid.later (id int)")
    await migrate(database, [*shipped(), later])
    with pytest.raises(DatabaseNewer, match="9999_later"):
        await migrate(database)
    changed = Migration(9999, "9999_later.sql", "SELECT 1")
    with pytest.raises(Unavailable, match="9999_later"):
        await migrate(database, [*shipped(), changed])
    await database.close()


async def test_a_migration_that_fails_leaves_nothing(empty_dsn: str) -> None:
    database = Database(empty_dsn)
    await database.open()
    broken = Migration(9999, "9999_broken.sql", "CREATE TABLE fluid.half (id int); SELECT no_such_thing()")
    with pytest.raises(Exception, match="no_such_thing"):
        await migrate(database, [*shipped(), broken])
    assert len(await migrate(database)) == len(shipped())
    await database.close()


async def test_two_backends_that_migrate_at_once_do_it_once(empty_dsn: str) -> None:
    one, two = Database(empty_dsn), Database(empty_dsn)
    await asyncio.gather(one.open(), two.open())
    done = await asyncio.gather(migrate(one), migrate(two))
    assert sorted(map(len, done)) == [0, len(shipped())]
    await asyncio.gather(one.close(), two.close())


async def test_a_statement_that_hangs_is_ended(database: Database) -> None:
    with pytest.raises(TimedOut):
        async with database.transaction() as connection:
            await connection.execute("SET LOCAL statement_timeout = 50")
            await connection.execute("SELECT pg_sleep(30)")


async def test_a_wrong_address_is_said_in_one_line_without_the_password() -> None:
    database = Database("postgresql://fluid:hunter2@127.0.0.1:1/fluid")
    with pytest.raises(DatabaseDown) as caught:
        await database.open()
    assert "127.0.0.1:1" in caught.value.message
    assert "hunter2" not in caught.value.message + caught.value.remedy
    assert "\n" not in caught.value.message


async def _answers_again(database: Database, limit_s: float = 30) -> float:
    begin = time.monotonic()
    async with asyncio.timeout(limit_s):
        while True:
            try:
                await database.ping()
                return time.monotonic() - begin
            except DatabaseDown:
                await asyncio.sleep(0.05)


def _listening_on_tcp(pid: int) -> set[str]:
    """Inodes of listening TCP sockets (state 0A in proc_net_tcp(5)) that this process holds."""
    listening = set()
    for table in ("tcp", "tcp6"):
        rows = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        listening |= {row.split()[9] for row in rows if row.split()[3] == "0A"}
    held = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return {inode for inode in listening if f"socket:[{inode}]" in held}
