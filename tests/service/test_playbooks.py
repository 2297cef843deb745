"""Playbooks as kept things, over a real database and a real audit: what an edit does to earlier evidence."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from backend.approvals import ApprovalBook, Approvals
from backend.approvals.evidence import for_agent
from backend.audit import Audit
from backend.config import Config
from backend.errors import FluidError, PlaybookRefused, WrongState
from backend.fleet.commands import Commands
from backend.models import (
    Approval,
    ApprovalState,
    Command,
    Identity,
    Playbook,
    PlaybookTask,
    Role,
    Sandbox,
    new_id,
    now,
)
from backend.playbooks import Playbooks, digest
from backend.store import EventBus, Store
from tests.unit.playbooks_sample import web_server

AGENT = Identity(uid=2001, name="agent", role=Role.AGENT)
ANNA = Identity(uid=3001, name="anna", role=Role.OPERATOR)
YAML = """---
- name: A test
  hosts: all
  become: true
  gather_facts: false
  tasks:
    - name: Create /srv/x
      ansible.builtin.file:
        path: /srv/x
        state: directory
        mode: "0755"
"""
COMMAND = """
    - name: Make a key
      ansible.builtin.command:
        argv:
          - openssl
          - genrsa
          - -out
          - /srv/x/a.key
        creates: /srv/x/a.key
"""


@pytest.fixture
def audit(store: Store, tmp_path: Path) -> Audit:
    return Audit(store, tmp_path / "spool", tmp_path / "key", tmp_path / "head")


@pytest.fixture
def playbooks(store: Store, audit: Audit) -> Playbooks:
    return Playbooks(store, audit, cast("Any", SimpleNamespace(blobs={})))


@pytest.fixture
def book(store: Store, bus: EventBus) -> ApprovalBook:
    return ApprovalBook(store, bus)


@pytest.fixture
async def playbook(store: Store) -> Playbook:
    task = PlaybookTask(
        name="Create /srv/x", module="ansible.builtin.file", commands=["CMD-1"], paths=["/srv/x"]
    )
    return await store.playbooks.insert(
        Playbook(
            id="PBK-00000001",
            name="web-00000001",
            sandbox_id="SBX-00000001",
            owner_uid=AGENT.uid,
            yaml=YAML,
            tasks=[task],
            digest=digest(YAML, []),
            created_at=now(),
        )
    )


def asked(playbook: Playbook, state: ApprovalState) -> Approval:
    at = now()
    return Approval(
        id=new_id("APR"),
        sandbox_id=playbook.sandbox_id,
        playbook_id=playbook.id,
        targets=["web-01"],
        reason="tls",
        requester_uid=AGENT.uid,
        state=state,
        digest="d" * 64,
        created_at=at,
        updated_at=at,
        expires_at=at + timedelta(hours=1),
    )


async def test_a_playbook_that_was_asked_for_by_a_sandboxs_name_is_that_sandboxs(
    store: Store, audit: Audit
) -> None:
    """A request compares ids."""
    sample = web_server()
    sandbox = Sandbox(
        id="SBX-1", sandbox_name="web", base_image="debian-12", created_at=now(), updated_at=now()
    )

    class Machines:
        blobs = sample.blobs
        first_snapshot = AsyncMock(return_value="clean")
        diff = AsyncMock(return_value=sample.changes())
        command_log = AsyncMock(return_value=sample.commands)

        async def get(self, actor: Identity, name: str) -> Sandbox:
            assert name in (sandbox.id, sandbox.sandbox_name)
            return sandbox

    sample.blobs.put = lambda content: None  # type: ignore[attr-defined]
    made = await Playbooks(store, audit, cast("Any", Machines())).generate(AGENT, "web")
    assert (made.sandbox_id, made.name[:4]) == ("SBX-1", "web-")
    rows, _ = await audit.list(action="playbook.generate")
    assert {row.sandbox_id for row in rows} == {"SBX-1"}


async def test_what_a_late_command_did_to_a_database_is_noted_however_many_ran_before(
    store: Store, audit: Audit
) -> None:
    began = now()
    texts = ["true"] * 1001 + ["sudo -u postgres psql -c 'CREATE ROLE shop'"]
    for number, text in enumerate(texts):
        await store.commands.insert(
            Command(
                id=f"CMD-{number}",
                sandbox_id="SBX-1",
                command=text,
                exit_code=0,
                started_at=began + timedelta(milliseconds=number),
            )
        )

    class Machines(Commands):
        blobs = web_server().blobs
        first_snapshot = AsyncMock(return_value="clean")
        diff = AsyncMock(return_value=web_server().changes())
        _store = store

        def __init__(self) -> None: ...

        async def get(self, actor: Identity, name: str) -> Sandbox:
            return Sandbox(
                id=name, sandbox_name="web", base_image="debian-12", created_at=began, updated_at=began
            )

    Machines.blobs.put = lambda content: None  # type: ignore[attr-defined]
    made = await Playbooks(store, audit, cast("Any", Machines())).generate(AGENT, "SBX-1")
    assert [
        note for note in made.notes if note.startswith("data of postgresql (roles): 1 command changed it")
    ]


async def test_an_edit_is_another_playbook_and_tells_its_own_tasks(
    playbooks: Playbooks, playbook: Playbook
) -> None:
    edited = await playbooks.update(AGENT, playbook.id, YAML + COMMAND)
    assert edited.edited and edited.id != playbook.id and edited.digest != playbook.digest
    kept, added = edited.tasks
    assert kept == playbook.tasks[0]
    assert (added.name, added.opaque, added.paths) == ("Make a key", True, ["/srv/x/a.key"])
    assert (await playbooks.get(AGENT, playbook.id)).yaml == YAML


async def test_an_edit_outside_the_grammar_is_refused_and_nothing_is_kept(
    playbooks: Playbooks, playbook: Playbook
) -> None:
    with pytest.raises(PlaybookRefused):
        await playbooks.update(AGENT, playbook.id, YAML.replace("hosts: all", "hosts: web"))
    assert [row.id for row in await playbooks.list(AGENT)] == [playbook.id]


async def test_an_edit_voids_what_was_asked_with_the_text_before(
    playbooks: Playbooks, playbook: Playbook, book: ApprovalBook, store: Store, audit: Audit
) -> None:
    parts: list[Any] = [Config(), store, book, None, audit, None, playbooks, None, None, None, lambda: None]
    approvals = Approvals(*parts)
    pending, rehearsing = (
        asked(playbook, state) for state in (ApprovalState.PENDING, ApprovalState.REHEARSING)
    )
    applying = asked(playbook, ApprovalState.APPLYING)
    for approval in (pending, rehearsing, applying):
        await book.add(approval)
    edited = await playbooks.update(AGENT, playbook.id, YAML + COMMAND)
    await approvals.void_edited(AGENT, playbook.id, edited)
    for approval in (pending, rehearsing):
        after = for_agent(await book.load(approval.id))
        assert after.state is ApprovalState.VOIDED and edited.id in after.outcome
    assert (await book.load(applying.id)).state is ApprovalState.APPLYING
    rows, _ = await audit.list(action="approval.void")
    assert {row.id for row in rows} == {pending.id, rehearsing.id}


async def test_an_agent_sees_its_own_however_many_others_made_since(
    playbooks: Playbooks, playbook: Playbook, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.playbooks.service.LISTED", 2)
    for number in range(3):
        more = {"id": f"PBK-{number}", "name": f"db-{number}", "owner_uid": 9, "created_at": now()}
        await store.playbooks.insert(playbook.model_copy(update=more))
    assert [row.id for row in await playbooks.list(AGENT)] == [playbook.id]
    assert [row.id for row in await playbooks.list(ANNA)] == ["PBK-2", "PBK-1"]


@pytest.mark.parametrize(
    ("altered", "error"),
    [
        ({}, None),
        ({"yaml": YAML.replace("/srv/x", "/srv/y")}, WrongState),
        ({"yaml": YAML.replace("ansible.builtin.file", "ansible.builtin.shell")}, PlaybookRefused),
        ({"files": {}}, WrongState),
    ],
)
async def test_what_was_altered_since_it_was_kept_does_not_run(
    store: Store, audit: Audit, playbook: Playbook, altered: dict[str, Any], error: type[FluidError] | None
) -> None:
    sha256 = "a" * 64
    playbooks = Playbooks(store, audit, cast("Any", SimpleNamespace(blobs={sha256: b"x"})))
    kept = playbook.model_copy(update={"files": {sha256: 1}, "digest": digest(YAML, [sha256])})
    if error is None:
        assert playbooks.to_run(kept) == {sha256: b"x"}
    else:
        with pytest.raises(error):
            playbooks.to_run(kept.model_copy(update=altered))
