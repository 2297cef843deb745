"""Repositories over real PostgreSQL."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from datetime import timedelta
from typing import NoReturn

import pytest
from psycopg.rows import TupleRow

from backend.changes import running
from backend.errors import (
    Conflict,
    DatabaseDown,
    DuplicateName,
    InvalidValue,
    SandboxNotFound,
    SnapshotNotFound,
)
from backend.models import Changes, Command, Phase, RunningState, Sandbox, Snapshot, now
from backend.store import Database, KeptAnswer, Keys, Store

DIGEST_KEY = bytes(range(32))


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database, DIGEST_KEY)


def sandbox(id: str, name: str, **fields: object) -> Sandbox:
    base = {"base_image": "debian-12", "created_at": now(), "updated_at": now()}
    return Sandbox.model_validate({"id": id, "sandbox_name": name, **base, **fields})


async def test_a_sandbox_reads_back_as_it_was_written(store: Store) -> None:
    made = sandbox("SBX-1", "web", phase=Phase.RUNNING, status_note="a\x00b \ue000 ü", expires_at=now())
    await store.sandboxes.insert(made)
    assert await store.sandboxes.get("SBX-1") == made


async def test_an_unknown_id_is_the_nouns_own_error(store: Store) -> None:
    with pytest.raises(SandboxNotFound, match="SBX-nope"):
        await store.sandboxes.get("SBX-nope")
    with pytest.raises(SandboxNotFound):
        await store.sandboxes.save(sandbox("SBX-nope", "x"))
    with pytest.raises(InvalidValue, match="NUL"):
        await store.sandboxes.get("SBX-\x00")
    with pytest.raises(SnapshotNotFound, match="before"):
        await store.snapshots.named("SBX-1", "before")


async def test_a_name_is_free_again_once_its_sandbox_is_destroyed(store: Store) -> None:
    first = await store.sandboxes.insert(sandbox("SBX-1", "web"))
    with pytest.raises(DuplicateName, match="web"):
        await store.sandboxes.insert(sandbox("SBX-2", "web"))
    await store.sandboxes.save(first.model_copy(update={"phase": Phase.DESTROYED}))
    await store.sandboxes.insert(sandbox("SBX-2", "web"))
    found = await store.sandboxes.find({"name": "web", "phase": [Phase.CREATING, Phase.RUNNING]})
    assert found is not None
    assert found.id == "SBX-2"


async def test_snapshot_names_are_unique_within_their_sandbox(store: Store) -> None:
    snapshot = Snapshot(id="SNP-1", sandbox_id="SBX-1", name="before", created_at=now())
    await store.snapshots.insert(snapshot)
    await store.snapshots.insert(snapshot.model_copy(update={"id": "SNP-2", "sandbox_id": "SBX-2"}))
    with pytest.raises(DuplicateName, match="before"):
        await store.snapshots.insert(snapshot.model_copy(update={"id": "SNP-3"}))
    assert (await store.snapshots.named("SBX-2", "before")).id == "SNP-2"


async def test_a_point_keeps_what_ran_then_and_one_of_before_says_that_it_was_not_asked(store: Store) -> None:
    ran = RunningState(ports={"tcp 0.0.0.0:443": "nginx, a\x00b"}, notes=["its units are not told"])
    point = Snapshot(id="SNP-1", sandbox_id="SBX-1", name="new", created_at=now(), running=ran)
    await store.snapshots.insert(point)
    await store.snapshots.insert(point.model_copy(update={"id": "SNP-2", "name": "old", "running": None}))
    assert (await store.snapshots.named("SBX-1", "new")).running == ran
    assert (await store.snapshots.named("SBX-1", "old")).running is None
    made = running.compare(None, ran, "old", "new")
    changes = Changes(
        id="CHG-1", sandbox_id="SBX-1", from_snapshot="old", to_snapshot="new", created_at=now(), running=made
    )
    await store.changes.insert(changes)
    assert (await store.changes.get("CHG-1")).running == made


async def test_a_list_filters_pages_and_tells_the_total(store: Store) -> None:
    start = now()
    for number in range(7):
        one = sandbox(f"SBX-{number}", f"n{number}", owner_uid=number % 2)
        await store.sandboxes.insert(one.model_copy(update={"created_at": start + timedelta(seconds=number)}))
    page, total = await store.sandboxes.list({"owner_uid": 0}, limit=2, offset=1)
    assert ([one.id for one in page], total) == (["SBX-4", "SBX-2"], 4)
    page, total = await store.sandboxes.list({"name": ["n1", "n3", "none"]}, oldest_first=True)
    assert ([one.id for one in page], total) == (["SBX-1", "SBX-3"], 2)
    page, total = await store.sandboxes.list({}, limit=3, offset=100)
    assert (page, total) == ([], 7)


async def test_what_is_seen_again_is_what_the_row_says_now(store: Store) -> None:
    for number in range(3):
        await store.sandboxes.insert(sandbox(f"SBX-{number}", f"n{number}"))
    first, total = await store.sandboxes.seen({"purpose": "agent"})
    assert {row.noun.id: row.noun for row in first} == {
        id: await store.sandboxes.get(id) for id in ("SBX-0", "SBX-1", "SBX-2")
    }
    assert total == 3
    kept = {row.noun.id: row for row in first}
    assert {row.noun.id: Sandbox.model_validate_json(row.json) for row in first} == {
        id: row.noun for id, row in kept.items()
    }
    await store.sandboxes.change("SBX-1", lambda one: one.model_copy(update={"commands": 7}))
    await store.sandboxes.delete("SBX-2")
    again, total = await store.sandboxes.seen({"purpose": "agent"})
    assert ({row.noun.id: row.noun.commands for row in again}, total) == ({"SBX-0": 0, "SBX-1": 7}, 2)
    assert {json.loads(row.json)["commands"] for row in again} == {0, 7}
    assert {row.noun.id for row in again if row is kept[row.noun.id]} == {"SBX-0"}  # nobody touched it
    page, total = await store.sandboxes.seen({"name": ["n0", "n1"]}, limit=1, offset=1)
    assert ([row.noun.id for row in page], total) == (["SBX-0"], 2)


async def test_of_two_racing_transitions_exactly_one_wins(store: Store) -> None:
    made = await store.sandboxes.insert(sandbox("SBX-1", "web", phase=Phase.RUNNING))
    stopped = made.model_copy(update={"phase": Phase.STOPPED})
    paused = made.model_copy(update={"phase": Phase.PAUSED})
    won = await asyncio.gather(
        store.sandboxes.transition("SBX-1", [Phase.RUNNING], stopped),
        store.sandboxes.transition("SBX-1", [Phase.RUNNING], paused),
    )
    assert sorted(won) == [False, True]
    kept = await store.sandboxes.get("SBX-1")
    assert kept.phase is (Phase.STOPPED if won[0] else Phase.PAUSED)


async def test_concurrent_changes_of_one_noun_are_all_kept(store: Store) -> None:
    await store.sandboxes.insert(sandbox("SBX-1", "web"))

    def count(noun: Sandbox) -> Sandbox:
        return noun.model_copy(update={"commands": noun.commands + 1})

    await asyncio.gather(*(store.sandboxes.change("SBX-1", count) for _ in range(20)))
    assert (await store.sandboxes.get("SBX-1")).commands == 20


async def test_a_commands_output_is_kept_to_the_byte(store: Store) -> None:
    command = Command(id="CMD-1", sandbox_id="SBX-1", command="printf 'a\\0b'", started_at=now())
    await store.commands.insert(command)
    everything = bytes(range(256)) * 4
    done = await store.commands.finish(command.model_copy(update={"exit_code": 0}), everything, b"e\x00\xff")
    assert await store.commands.output("CMD-1") == (everything, b"e\x00\xff")
    read = await store.commands.get("CMD-1")
    assert read == done
    assert read.stderr == "e\x00\ufffd"
    (header,) = await store.commands.log("SBX-1")
    assert (header.stdout, header.exit_code) == ("", 0)


async def test_the_log_of_a_sandbox_is_its_last_commands_in_the_order_of_time(store: Store) -> None:
    began = now()
    for number in (3, 1, 4, 2):
        at = began + timedelta(seconds=number)
        await store.commands.insert(
            Command(id=f"CMD-{number}", sandbox_id="SBX-1", command="x", started_at=at)
        )
    await store.commands.insert(Command(id="CMD-9", sandbox_id="SBX-2", command="x", started_at=began))
    assert [one.id for one in await store.commands.log("SBX-1")] == ["CMD-1", "CMD-2", "CMD-3", "CMD-4"]
    assert [one.id for one in await store.commands.log("SBX-1", limit=2)] == ["CMD-3", "CMD-4"]


async def test_an_idempotency_key_gives_the_same_answer_again(keys: Keys) -> None:
    scope = "1000 POST /v1/sandboxes"
    assert await keys.claim(scope, "k1", b"{}") is None
    with pytest.raises(Conflict, match="still at work"):
        await keys.claim(scope, "k1", b"{}")
    await keys.keep(scope, "k1", KeptAnswer(201, '{"a": "\x00"}'))
    assert await keys.claim(scope, "k1", b"{}") == KeptAnswer(201, '{"a": "\x00"}')
    with pytest.raises(InvalidValue, match="another request"):
        await keys.claim(scope, "k1", b"{1}")
    assert await keys.claim("1001 POST /v1/sandboxes", "k1", b"{}") is None
    assert await keys.forget_unfinished() == 1


async def test_no_row_of_a_key_tells_a_short_secret_of_its_request(keys: Keys, database: Database) -> None:
    body = b'{"secrets": {"pin": "1234"}}'
    await keys.claim("scope", "k1", body)
    async with database.transaction() as connection:
        (row,) = await (await connection.execute("SELECT k::text FROM fluid.keys k")).fetchall()
    assert hashlib.sha256(body).hexdigest() not in row[0]
    assert hmac.digest(DIGEST_KEY, body, "sha256").hex() in row[0]


async def test_a_row_of_a_former_version_is_of_another_request(keys: Keys, database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            "INSERT INTO fluid.keys (scope, key, request_sha256, status, answer) "
            "VALUES ('scope', 'k1', %s, 201, '{}')",
            (hashlib.sha256(b"{}").hexdigest(),),
        )
    with pytest.raises(InvalidValue, match="another request"):
        await keys.claim("scope", "k1", b"{}")


@pytest.mark.parametrize("answer", [KeptAnswer(201, "{}"), None])
async def test_an_outage_between_claim_and_end_does_not_hold_the_key(
    keys: Keys, database: Database, monkeypatch: pytest.MonkeyPatch, answer: KeptAnswer | None
) -> None:
    assert await keys.claim("scope", "k1", b"{}") is None
    with monkeypatch.context() as outage:
        outage.setattr(database, "transaction", _down)
        if answer is None:
            await keys.release("scope", "k1")
        else:
            await keys.keep("scope", "k1", answer)
        with pytest.raises(DatabaseDown):
            await keys.claim("scope", "k1", b"{}")
    assert await keys.claim("scope", "k1", b"{}") == answer
    if answer is None:
        with pytest.raises(Conflict, match="still at work"):
            await keys.claim("scope", "k1", b"{}")


def _down() -> NoReturn:
    raise DatabaseDown("the database does not answer")


async def test_a_list_is_whole_though_another_caller_forgets_what_was_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store.sandboxes
    for name in ("a", "b"):
        await kept.insert(sandbox(f"SBX-{name}", name))
    await kept.seen()
    await kept.save(sandbox("SBX-a", "a", phase=Phase.RUNNING))
    read = kept._read

    def read_while_another_forgets(row: TupleRow) -> Sandbox:
        kept._kept.clear()
        return read(row)

    monkeypatch.setattr(kept, "_read", read_while_another_forgets)
    rows, total = await kept.seen()
    assert (len(rows), total) == (2, 2)
