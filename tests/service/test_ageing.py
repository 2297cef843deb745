"""What nobody needs any more goes, and nothing else: over a real database and real files."""

from __future__ import annotations

import hashlib
import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backend.changes import BlobStore, forget_unused
from backend.changes.ageing import KEPT_S
from backend.models import (
    Approval,
    ApprovalState,
    Changes,
    ChangeVerb,
    Evidence,
    FileChange,
    FileKind,
    FileState,
    Phase,
    Playbook,
    Run,
    RunKind,
    Sandbox,
    Snapshot,
    now,
)
from backend.store import Store

OLD = now() - timedelta(seconds=KEPT_S + 3600)
DEAD, ALIVE = "SBX-dead", "SBX-alive"


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def sha_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def old_blob(blobs: BlobStore, name: str) -> str:
    sha256 = blobs.put(name.encode())
    os.utime(blobs.path(sha256), (0, 0))
    return sha256


def is_there(blobs: BlobStore, name: str) -> bool:
    return blobs.path(sha_of(name)).exists()


class World:
    """Nouns that name one another, most of them old."""

    def __init__(self, store: Store, blobs: BlobStore) -> None:
        self.store, self.blobs = store, blobs

    async def sandbox(self, id: str, phase: Phase) -> None:
        await self.store.sandboxes.insert(
            Sandbox(
                id=id, sandbox_name=id.lower(), base_image="a", phase=phase, created_at=OLD, updated_at=OLD
            )
        )

    async def changes(self, id: str, sandbox_id: str = DEAD, **more: Any) -> None:
        """A diff with the contents ``ID before`` and ``ID after``."""
        sums = {side: old_blob(self.blobs, f"{id} {side}") for side in ("before", "after")}
        sides = {
            side: FileState(kind=FileKind.FILE, mode=0o644, uid=0, gid=0, blob=True, sha256=sha256)
            for side, sha256 in sums.items()
        }
        file = FileChange(path="/a", verb=ChangeVerb.MODIFIED, commands=["CMD-1"], **sides)
        made = {"created_at": OLD, **more}
        await self.store.changes.insert(
            Changes(id=id, sandbox_id=sandbox_id, from_snapshot="a", to_snapshot="b", files=[file], **made)
        )

    async def playbook(self, id: str, sandbox_id: str = DEAD, **more: Any) -> None:
        """A playbook with the file ``ID file``."""
        files = {old_blob(self.blobs, f"{id} file"): 1}
        made = {"created_at": OLD, **more}
        await self.store.playbooks.insert(
            Playbook(id=id, name=id.lower(), sandbox_id=sandbox_id, yaml="", files=files, **made)
        )

    async def approval(self, playbook_id: str, evidence: Evidence) -> None:
        await self.store.approvals.insert(
            Approval(
                id="APR-1", sandbox_id=DEAD, playbook_id=playbook_id, targets=["web-01"], reason="a",
                requester_uid=1, state=ApprovalState.APPLIED, evidence=evidence, created_at=OLD,
                updated_at=OLD, expires_at=OLD,
            )
        )  # fmt: skip

    async def left(self) -> set[str]:
        changes, _ = await self.store.changes.list()
        playbooks, _ = await self.store.playbooks.list()
        return {row.id for row in (*changes, *playbooks)}


@pytest.fixture
async def world(store: Store, blobs: BlobStore) -> World:
    made = World(store, blobs)
    await made.sandbox(DEAD, Phase.DESTROYED)
    await made.sandbox(ALIVE, Phase.STOPPED)
    return made


async def test_an_old_diff_and_playbook_of_a_sandbox_that_is_gone_go_with_their_contents(
    world: World, store: Store, blobs: BlobStore
) -> None:
    await world.playbook("PBK-own", changes_id="DIF-own")
    await world.changes("DIF-own")
    await world.changes("DIF-unknown", "SBX-nobody-knows")
    young = now() - timedelta(seconds=KEPT_S - 3600)
    await world.changes("DIF-young", created_at=young)
    await world.playbook("PBK-young", created_at=young)
    await world.changes("DIF-alive", ALIVE)
    await world.playbook("PBK-alive", ALIVE)
    old_blob(blobs, "of nothing")
    await forget_unused(blobs, store.uses)
    assert await world.left() == {"DIF-young", "PBK-young", "DIF-alive", "PBK-alive"}
    for name in ("DIF-young", "DIF-alive"):
        assert is_there(blobs, f"{name} before") and is_there(blobs, f"{name} after"), name
    assert is_there(blobs, "PBK-young file") and is_there(blobs, "PBK-alive file")
    gone = ("DIF-own before", "DIF-own after", "DIF-unknown after", "PBK-own file", "of nothing")
    assert [name for name in gone if is_there(blobs, name)] == []


async def test_all_that_an_approval_shows_stays(world: World, store: Store, blobs: BlobStore) -> None:
    for name in ("DIF-sandbox", "DIF-rehearsal", "DIF-origin"):
        await world.changes(name)
    await world.playbook("PBK-asked", changes_id="DIF-origin")
    evidence = Evidence(changes_id="DIF-rehearsal", sandbox_changes_id="DIF-sandbox")
    await world.approval("PBK-asked", evidence)
    await forget_unused(blobs, store.uses)
    kept = {"DIF-sandbox", "DIF-rehearsal", "DIF-origin"}
    assert await world.left() == kept | {"PBK-asked"}
    contents = [f"{name} {side}" for name in kept for side in ("before", "after")] + ["PBK-asked file"]
    assert [name for name in contents if not is_there(blobs, name)] == []


async def test_what_a_young_run_or_a_snapshot_names_stays(
    world: World, store: Store, blobs: BlobStore
) -> None:
    await world.playbook("PBK-ran")
    await world.playbook("PBK-ran-long-ago")
    for id, playbook_id, at in (("RUN-1", "PBK-ran", now()), ("RUN-2", "PBK-ran-long-ago", OLD)):
        await store.runs.insert(Run(id=id, kind=RunKind.APPLY, playbook_id=playbook_id, started_at=at))
    told = old_blob(blobs, "told")  # as an older version kept what a guest said
    await store.snapshots.insert(
        Snapshot(id="SNP-1", sandbox_id=ALIVE, name="a", created_at=OLD, manifest_sha256=told)
    )
    await forget_unused(blobs, store.uses)
    assert await world.left() == {"PBK-ran"}
    assert is_there(blobs, "PBK-ran file") and is_there(blobs, "told")


async def test_of_many_diffs_none_is_overlooked(
    world: World, store: Store, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.store.uses.BATCH", 2)
    for number in range(5):
        await world.changes(f"DIF-{number}", ALIVE)
    assert await store.uses.contents() == {
        sha_of(f"DIF-{number} {side}") for number in range(5) for side in ("before", "after")
    }


def test_a_content_that_is_given_again_is_young_again(blobs: BlobStore) -> None:
    """Its diff has no row yet, and it was there before."""
    old_blob(blobs, "given again")
    blobs.put(b"given again")
    assert blobs.forget((), KEPT_S) == 0
    assert blobs.get(sha_of("given again")) == b"given again"


def test_a_content_that_is_given_while_it_is_forgotten_is_there(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_blob(blobs, "contested")
    giver, judged, unlink = threading.Thread(target=blobs.put, args=(b"contested",)), False, Path.unlink

    def unlink_late(path: Path, missing_ok: bool = False) -> None:
        nonlocal judged
        if not judged and path.name == sha_of("contested"):  # it was found old, and is still there
            judged = True
            giver.start()
            giver.join(0.5)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_late)
    assert blobs.forget((), KEPT_S) == 1
    giver.join()
    assert judged and blobs.get(sha_of("contested")) == b"contested"
