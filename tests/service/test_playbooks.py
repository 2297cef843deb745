"""Playbooks as kept things, over a real database and a real audit: what an edit does to earlier evidence."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.approvals import ApprovalBook, Approvals
from backend.audit import Audit
from backend.config import Config
from backend.errors import PlaybookRefused, RoleDenied, WrongState
from backend.models import (
    Approval,
    ApprovalState,
    Identity,
    Playbook,
    PlaybookTask,
    Role,
    Run,
    RunKind,
    RunState,
    TargetEvidence,
    new_id,
    now,
)
from backend.playbooks import Playbooks, digest
from backend.store import EventBus, Store
from tests.unit.playbooks_sample import Sample

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


def asked(playbook: Playbook, state: ApprovalState, requester: Identity = AGENT) -> Approval:
    at = now()
    return Approval(
        id=new_id("APR"),
        sandbox_id=playbook.sandbox_id,
        playbook_id=playbook.id,
        targets=["web-01"],
        reason="tls",
        requester_uid=requester.uid,
        state=state,
        digest="d" * 64,
        created_at=at,
        updated_at=at,
        expires_at=at + timedelta(hours=1),
    )


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
    parts: list[Any] = [Config(), store, book, None, audit, None, playbooks, None, None, lambda: None]
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
        after = await book.load(approval.id)
        assert after.state is ApprovalState.VOIDED and edited.id in after.outcome
    assert (await book.load(applying.id)).state is ApprovalState.APPLYING
    rows, _ = await audit.list(action="approval.void")
    assert {row.id for row in rows} == {pending.id, rehearsing.id}


# --- the way back ------------------------------------------------------------------------------------------


class Pipeline:
    """Where the machines would be."""

    def __init__(self) -> None:
        self.rehearsed: list[Approval] = []

    def rehearse(self, approval: Approval) -> None:
        self.rehearsed.append(approval)


class Targets:
    """One group that everybody may ask for."""

    def allowed(self, actor: Identity, names: Any) -> Any:
        return names

    def resolve(self, names: Any) -> list[Any]:
        return [SimpleNamespace(name=name, group="web", approvals=1) for name in names]


@pytest.fixture
async def applied(store: Store, book: ApprovalBook, playbook: Playbook) -> Run:
    """The run of an apply that made /srv/x on web-01."""
    sample = Sample()
    sample.add("/srv/x", b"x\n")
    changes = await store.changes.insert(sample.changes())
    approval = asked(playbook, ApprovalState.APPLIED)
    approval.evidence.changes_id = changes.id
    approval.evidence.dry_run = {"web-01": TargetEvidence(target="web-01")}
    await book.add(approval)
    run = Run(
        id="RUN-00000001", kind=RunKind.APPLY, state=RunState.SUCCESSFUL, approval_id=approval.id,
        playbook_id=playbook.id, started_at=now(),
    )  # fmt: skip
    return await store.runs.insert(run)


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.fixture
def approvals(
    store: Store, book: ApprovalBook, audit: Audit, playbooks: Playbooks, pipeline: Pipeline
) -> Approvals:
    async def load(sandbox_id: str) -> Any:
        return SimpleNamespace(id=sandbox_id, sandbox_name="web", agent_id="")

    fleet = SimpleNamespace(load=load, source_digest=lambda _: "debian-12 sha256:0")
    runs = SimpleNamespace(load=store.runs.get)
    parts: list[Any] = [Config(), store, book, pipeline, audit, fleet, playbooks, runs, Targets()]
    parts.append(lambda: None)  # no panic
    return Approvals(*parts)


async def test_an_apply_is_taken_back_by_a_request_of_its_own(
    approvals: Approvals, playbooks: Playbooks, pipeline: Pipeline, applied: Run
) -> None:
    back = await approvals.request_rollback(ANNA, applied.id)
    assert (back.state, back.rolls_back, back.targets) == (ApprovalState.REHEARSING, applied.id, ["web-01"])
    assert [row.id for row in pipeline.rehearsed] == [back.id]
    playbook = await playbooks.load(back.playbook_id)
    assert [task.name for task in playbook.tasks] == ["Remove /srv/x"]
    assert back.requester_uid == ANNA.uid  # so she is not the one who approves it


async def test_an_agent_takes_nothing_back(approvals: Approvals, applied: Run) -> None:
    with pytest.raises(RoleDenied):
        await approvals.request_rollback(AGENT, applied.id)


@pytest.mark.parametrize(
    "change", [{"kind": RunKind.REHEARSAL}, {"state": RunState.RUNNING}, {"kind": RunKind.ROLLBACK}]
)
async def test_only_an_apply_that_is_over_is_taken_back(
    approvals: Approvals, store: Store, applied: Run, change: dict[str, Any]
) -> None:
    await store.runs.save(applied.model_copy(update=change))
    with pytest.raises(WrongState, match="RUN-00000001"):
        await approvals.request_rollback(ANNA, applied.id)


async def test_what_a_target_had_of_its_own_is_not_overwritten_by_a_way_back(
    approvals: Approvals, book: ApprovalBook, applied: Run, pipeline: Pipeline
) -> None:
    def drifted(row: Approval) -> None:
        row.evidence.dry_run["web-01"].differs = ["Write /srv/x: web-01 has 'mine'"]

    await book.change(applied.approval_id, [ApprovalState.APPLIED], drifted)
    with pytest.raises(WrongState, match="mine"):
        await approvals.request_rollback(ANNA, applied.id)
    assert pipeline.rehearsed == []
