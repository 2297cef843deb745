"""The audit over real PostgreSQL: what tampers is found, what is lost is kept, and how fast that is."""

from __future__ import annotations

import asyncio
import json
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from backend.audit import Audit, SignedHead, service
from backend.audit.chain import Head, link, plain, timestamp
from backend.audit.spool import Spool
from backend.errors import AuditBroken, ConfigError, DatabaseDown, NoSpace, PolicyDenied, TimedOut
from backend.models import Identity, Role, now
from backend.store import Database, EmbeddedPostgres, Store, migrate
from backend.store.pool import MAX_CONNECTIONS
from tests.fix_database import RUN_AS

ANN = Identity(uid=1000, name="ann", role=Role.AGENT)


@pytest.fixture
def audit(store: Store, tmp_path: Path) -> Audit:
    return make(store, tmp_path)


@pytest.fixture
async def superuser(
    postgres: EmbeddedPostgres, database: Database
) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    """Somebody with every right in the database, and no trigger in the way."""
    dsn = make_conninfo(database.dsn, user="postgres")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("SET session_replication_role = replica")
        yield connection


def make(store: Store, folder: Path) -> Audit:
    return Audit(store, folder / "spool", folder / "audit.key", folder / "audit.head")


async def fill(audit: Audit, count: int) -> None:
    await asyncio.gather(*(audit.note(ANN, "test.row", "test", str(number)) for number in range(count)))


async def test_a_step_leaves_an_intent_before_and_an_outcome_after(audit: Audit) -> None:
    async with audit.step(ANN, "sandbox.create", "sandbox", source="debian-12") as step:
        (intent,), _ = await audit.list()
        assert (intent.step, intent.data) == ("intent", {"source": "debian-12"})
        step.id = step.sandbox_id = "SBX-1"
        step.data["ready_s"] = 1.5
    rows, total = await audit.list(sandbox_id="SBX-1")
    assert total == 1
    assert (rows[0].step, rows[0].prev) == ("outcome", intent.hash)
    assert rows[0].data == {"ok": True, "ready_s": 1.5, "intent": intent.seq}


async def test_a_step_that_fails_says_so_and_the_error_goes_on(audit: Audit) -> None:
    with pytest.raises(PolicyDenied):
        async with audit.step(ANN, "command.run", "command", "CMD-1"):
            raise PolicyDenied("rule no-fork-bomb")
    (outcome, _), _ = await audit.list()
    assert outcome.data == {
        "ok": False,
        "error": "policy_denied",
        "message": "rule no-fork-bomb",
        "intent": 1,
    }


async def test_a_cancelled_step_has_an_outcome(audit: Audit) -> None:
    begun = asyncio.Event()

    async def effect() -> None:
        async with audit.step(ANN, "command.run", "command", "CMD-1"):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(effect())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (outcome, _), _ = await audit.list()
    assert outcome.data == {"ok": False, "error": "cancelled", "intent": 1}


async def test_many_writers_make_one_gapless_chain(audit: Audit, store: Store, tmp_path: Path) -> None:
    await asyncio.gather(fill(audit, 200), fill(make(store, tmp_path), 3))
    await audit.seal()
    report = await audit.verify()
    assert (report.ok, report.rows, report.reason) == (True, 203, "")


async def test_the_program_itself_cannot_edit_or_delete(audit: Audit, database: Database) -> None:
    await fill(audit, 2)
    for statement in (
        "UPDATE fluid.audit SET hash = 'x'",
        "DELETE FROM fluid.audit",
        "TRUNCATE fluid.audit",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with database.transaction() as connection:
                await connection.execute(statement)
    superuser = make_conninfo(database.dsn, user="postgres")
    async with await psycopg.AsyncConnection.connect(superuser, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            await connection.execute("DELETE FROM fluid.audit")


@pytest.mark.parametrize(
    ("tamper", "first_bad", "reason"),
    [
        ("UPDATE fluid.audit SET line = replace(line, 'ann', 'bob') WHERE seq = 4", 4, "edited"),
        ("DELETE FROM fluid.audit WHERE seq = 6", 6, "missing"),
        ("DELETE FROM fluid.audit WHERE seq > 7", 8, "cut"),
        ("DELETE FROM fluid.audit", 1, "cut"),
    ],
)
async def test_what_a_superuser_does_behind_our_back_is_found(
    audit: Audit,
    superuser: psycopg.AsyncConnection[tuple[object, ...]],
    tamper: str,
    first_bad: int,
    reason: str,
) -> None:
    await fill(audit, 10)
    await audit.seal()
    assert (await audit.verify()).ok
    await superuser.execute(tamper)  # type: ignore[arg-type]
    report = await audit.verify()
    assert (report.ok, report.first_bad) == (False, first_bad)
    assert reason in report.reason


async def test_a_check_of_what_is_new_goes_on_from_the_last_one(
    audit: Audit, superuser: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    await fill(audit, 5)
    await audit.seal()
    assert (await audit.verify(whole=False)).rows == 5
    await fill(audit, 5)
    await superuser.execute("UPDATE fluid.audit SET line = replace(line, 'ann', 'bob') WHERE seq = 2")
    assert (await audit.verify(whole=False)).rows == 10, "the old rows are the whole check's"
    assert [(await audit.verify(whole=whole)).first_bad for whole in (True, False)] == [2, 2], "and stay bad"


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        ("UPDATE fluid.audit SET line = replace(line, 'ann', 'bob') WHERE seq = 8", "edited"),
        ("DELETE FROM fluid.audit WHERE seq > 3", "cut"),
        ("UPDATE fluid.audit SET hash = 'x' WHERE seq = 3", "edited"),
        ("DELETE FROM fluid.audit WHERE seq = 5", "missing"),
    ],
)
async def test_a_check_of_what_is_new_sees_the_end_of_the_last_one_and_the_signed_head(
    audit: Audit, superuser: psycopg.AsyncConnection[tuple[object, ...]], tamper: str, reason: str
) -> None:
    await fill(audit, 3)
    await audit.seal()
    await fill(audit, 2)
    assert (await audit.verify(whole=False)).rows == 5
    await fill(audit, 5)
    await superuser.execute(tamper)  # type: ignore[arg-type]
    report = await audit.verify(whole=False)
    assert not report.ok
    assert reason in report.reason


async def test_a_cut_tail_is_never_signed_over(
    audit: Audit, superuser: psycopg.AsyncConnection[tuple[object, ...]], tmp_path: Path
) -> None:
    await fill(audit, 10)
    before = await audit.seal()
    await superuser.execute("DELETE FROM fluid.audit WHERE seq > 7")
    await fill(audit, 5)
    with pytest.raises(AuditBroken, match="row 10"):
        await audit.seal()
    assert SignedHead.load(tmp_path / "audit.head") == before
    assert "rewritten" in (await audit.verify()).reason


async def test_a_head_that_somebody_else_signed_does_not_count(
    audit: Audit, store: Store, tmp_path: Path
) -> None:
    await fill(audit, 3)
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    await make(store, elsewhere).seal()
    (elsewhere / "audit.head").rename(tmp_path / "audit.head")
    report = await audit.verify()
    assert not report.ok
    assert "not signed by this installation" in report.reason


async def test_without_a_head_a_verification_says_what_it_cannot_see(audit: Audit) -> None:
    await fill(audit, 3)
    report = await audit.verify()
    assert (report.ok, report.rows) == (True, 3)
    assert report.reason == "no signed head: a cut tail would not be seen"


async def test_a_head_that_was_kept_elsewhere_shows_what_a_new_one_hides(
    store: Store, superuser: psycopg.AsyncConnection[tuple[object, ...]], tmp_path: Path
) -> None:
    """Somebody cuts the tail, and takes the signed head away: the next one is signed over what is left."""
    audit = make(store, tmp_path)
    await fill(audit, 10)
    kept = await audit.seal()
    assert (await audit.verify(kept=kept)).ok
    await superuser.execute("DELETE FROM fluid.audit WHERE seq > 7")
    (tmp_path / "audit.head").unlink()
    audit = make(store, tmp_path)  # it starts anew
    await audit.seal()
    assert (await audit.verify()).ok
    ((told, *_), _) = await audit.list()
    assert (told.seq, told.action, told.step) == (8, "audit.head", "note")
    report = await audit.verify(kept=kept)
    assert (report.ok, report.first_bad) == (False, 9) and "row 10 was there" in report.reason
    await fill(audit, 5)
    report = await audit.verify(kept=kept)
    assert (report.ok, report.first_bad) == (False, 10) and "rewritten" in report.reason
    strange = replace(kept, seq=3)
    assert "not signed" in (await audit.verify(kept=strange)).reason


@pytest.mark.parametrize("garbage", ["", "{", '{"at":1,"hash":1,"seq":1,"signature":1}'])
async def test_a_head_that_cannot_be_read_is_a_broken_audit(
    audit: Audit, tmp_path: Path, garbage: str
) -> None:
    await fill(audit, 3)
    await audit.seal()
    (tmp_path / "audit.head").write_text(garbage)
    report = await audit.verify()
    assert not report.ok
    assert str(tmp_path / "audit.head") in report.reason


async def test_a_decision_is_sealed_at_once(audit: Audit, tmp_path: Path) -> None:
    row = await audit.outcome(ANN, "approval.approve", "approval", "APR-1")
    head = SignedHead.load(tmp_path / "audit.head")
    assert (head.seq, head.hash) == (row.seq, row.hash)
    assert stat.S_IMODE((tmp_path / "audit.key").stat().st_mode) == 0o600


async def test_a_slow_disk_does_not_hold_a_decision_and_its_head_comes_all_the_same(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An fsync waits for what others write: a minute, beside a guest's memory on its way to the disk."""
    quick, slow = SignedHead.save, threading.Event()

    def save(head: SignedHead, file: Path) -> None:
        slow.wait(20.0)
        quick(head, file)

    monkeypatch.setattr(SignedHead, "save", save)
    monkeypatch.setattr("backend.audit.service.DECISION_SEAL_S", 0.05)
    first = await audit.outcome(ANN, "approval.approve", "approval", "APR-1")
    second = await audit.outcome(ANN, "approval.reject", "approval", "APR-2")
    assert (first.seq, second.seq) == (1, 2)
    assert not (tmp_path / "audit.head").exists()
    slow.set()
    await asyncio.gather(*audit._owed)
    assert SignedHead.load(tmp_path / "audit.head").seq == 2
    assert (await audit.verify()).ok


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    store = Store(Database("host=/nowhere"))
    make(store, tmp_path)
    (tmp_path / "audit.key").chmod(0o640)
    with pytest.raises(ConfigError, match="others can read"):
        make(store, tmp_path)


async def test_the_stand_alone_verifier_agrees(
    audit: Audit, superuser: psycopg.AsyncConnection[tuple[object, ...]], tmp_path: Path
) -> None:
    await audit.note(
        ANN, "test.row", "test", "1", text='ü\x00 "quoted" \udc80', number=1.5, nested={"b": [1]}
    )
    await fill(audit, 30)
    await audit.seal()
    head, key, verifier, export = (tmp_path / name for name in ("head", "key.pub", "verifier.py", "export"))
    proof = await audit.proof()  # as an evidence pack carries it
    head.write_text(json.dumps(proof["head"]))
    key.write_text(proof["key"])
    verifier.write_text(proof["verifier"])
    signed = str(head), str(key)

    async def verify_elsewhere(*more: str) -> tuple[int, str]:
        export.write_text("".join([line async for line in audit.export()]))
        command = [sys.executable, "-I", str(verifier), str(export), *more]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr.strip()

    assert await verify_elsewhere() == (0, "")
    assert await verify_elsewhere(*signed) == (0, "")
    head.write_text(json.dumps({**proof["head"], "seq": 30}))
    assert await verify_elsewhere(*signed) == (1, "the head's signature is not of this key")
    head.write_text(json.dumps(proof["head"]))
    await superuser.execute("DELETE FROM fluid.audit WHERE seq > 20")
    assert await verify_elsewhere(*signed) == (1, "rows 21 to 31 are missing")
    await superuser.execute("UPDATE fluid.audit SET line = replace(line, 'ann', 'bob') WHERE seq = 2")
    assert await verify_elsewhere(*signed) == (1, "row 2 was edited")


async def test_with_the_database_gone_nothing_starts_and_outcomes_are_chained_in_first(
    open_folder: Path, tmp_path: Path
) -> None:
    server = EmbeddedPostgres(open_folder / "pg", RUN_AS)
    database = Database(await server.start())
    await database.open()
    await migrate(database)
    audit = make(Store(database), tmp_path)
    spool = tmp_path / "spool/audit.spool"
    effects: list[str] = []
    try:
        async with audit.step(ANN, "command.run", "command", "CMD-1") as running:
            await server.stop()
            running.data["exit_code"] = 0
        with pytest.raises(DatabaseDown):
            async with audit.step(ANN, "command.run", "command", "CMD-2"):
                effects.append("started without a record")
        assert effects == []
        assert stat.S_IMODE(spool.stat().st_mode) == 0o600
        spooled = [line for line in spool.read_text().splitlines() if line]
        assert [json.loads(line)["id"] for line in spooled] == ["CMD-1"]

        spool.write_text(f"{spool.read_text()}\n{spooled[0][:20]}")  # a crash in the midst of a write
        await server.start()
        restarted = make(Store(database), tmp_path)  # a new process finds the file
        await _until_up(database)
        await restarted.intent(ANN, "command.run", "command", "CMD-3")
        rows, _ = await restarted.list()
        assert [(row.id, row.step) for row in rows] == [
            ("CMD-3", "intent"),
            ("CMD-1", "outcome"),
            ("CMD-1", "intent"),
        ]
        assert rows[1].data["exit_code"] == 0
        assert not spool.exists()

        spool.write_text(spooled[0] + "\n")  # killed after chaining in, before forgetting
        await make(Store(database), tmp_path).absorb()
        assert (await restarted.verify()).rows == 3
        assert not spool.exists()
    finally:
        await database.close()
        await server.stop()


async def test_a_spool_of_any_size_is_chained_in_by_parts(
    audit: Audit, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SPOOL_PART", 10)
    append = store.audit.append
    parts: list[int] = []

    async def counted(rows: Sequence[tuple[str, str]]) -> None:
        parts.append(len(rows))
        await append(rows)

    spool = Spool(tmp_path / "spool")
    row = await audit.note(ANN, "test.row", "test", "0")
    draft = {key: plain(value) for key, value in row if key not in ("seq", "prev", "hash")}
    for number in range(25):
        spool.add({**draft, "id": str(number)})
    monkeypatch.setattr(store.audit, "append", counted)
    await make(store, tmp_path).absorb()
    assert parts == [10, 10, 5]
    rows, _ = await audit.list()
    assert [row.id for row in rows] == [*(str(number) for number in reversed(range(25))), "0"]
    assert (await audit.verify()).ok


def test_a_row_that_the_disk_takes_half_of_is_not_taken_for_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    kept = spool.add({"id": "1", "data": {}})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (spool.file.stat().st_size + 20, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            spool.add({"id": "2", "data": {}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    last = spool.add({"id": "3", "data": {}})
    assert spool.read() == [kept, last]


@pytest.mark.parametrize("error", [TimedOut("it did not answer"), NoSpace("its disk is full")])
async def test_an_outcome_that_the_database_does_not_take_is_spooled_and_chained_in_later(
    audit: Audit, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def refuses(_: object) -> None:
        raise error

    async with audit.step(ANN, "command.run", "command", "CMD-1"):
        with monkeypatch.context() as patch:
            patch.setattr(audit._rows, "append", refuses)
            assert (await audit.note(ANN, "login")).seq == 0
    rows, _ = await audit.list()
    assert [(row.action, row.step) for row in rows] == [
        ("command.run", "outcome"),
        ("login", "note"),
        ("command.run", "intent"),
    ]


async def _until_up(database: Database) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                return await database.ping()
            except DatabaseDown:
                await asyncio.sleep(0.05)


async def test_a_reader_that_takes_its_time_holds_no_connection(audit: Audit, database: Database) -> None:
    await fill(audit, 2)
    async with AsyncExitStack() as readers:
        for _ in range(MAX_CONNECTIONS):
            export = await readers.enter_async_context(aclosing(audit.export()))
            await anext(export)
        await database.ping()


async def test_a_chain_longer_than_a_page_verifies(audit: Audit, store: Store) -> None:
    """More rows than are read at once; `./fluid bench api` has the speed."""
    await audit.note(ANN, "command.run", "command", "CMD-0", "SBX-1")
    head = Head(*await store.audit.head())
    draft = {
        "at": timestamp(now()),
        "actor_uid": 1000,
        "actor_name": "ann",
        "role": "agent",
        "action": "command.run",
        "step": "outcome",
        "noun": "command",
        "id": "CMD-1f0c9a2b",
        "sandbox_id": "SBX-1f0c9a2b",
        "data": {"ok": True, "exit_code": 0, "stdout_bytes": 1234, "intent": 12},
    }
    for _ in range(5):
        links, head = link([draft] * 5000, head)
        await store.audit.append([(one.line, one.hash) for one in links])
    await audit.seal()
    report = await audit.verify()
    assert (report.ok, report.rows) == (True, 25_001)
