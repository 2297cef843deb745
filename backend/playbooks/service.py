"""Playbooks as things with owners: generated from a diff, kept with their files, checked before any use."""

from __future__ import annotations

import asyncio

from backend.audit import Audit
from backend.errors import Conflict, PlaybookNotFound, WrongState
from backend.fleet import Fleet
from backend.models import Changes, Identity, Playbook, Role, new_id, now
from backend.playbooks.builders.context import GuestFacts
from backend.playbooks.generate import Draft, digest, generate
from backend.playbooks.grammar import CheckedPlaybook, check
from backend.playbooks.rollback import WayBack, roll_back
from backend.playbooks.tasks import told
from backend.store import Store

LISTED = 500


class Playbooks:
    """Generate, read, edit. An edit makes a new digest, so evidence made before no longer fits."""

    def __init__(self, store: Store, audit: Audit, fleet: Fleet) -> None:
        self._store = store
        self._audit = audit
        self._fleet = fleet
        self._blobs = fleet.blobs

    async def generate(
        self,
        actor: Identity,
        sandbox_id: str,
        from_snapshot: str | None = None,
        to_snapshot: str | None = None,
    ) -> Playbook:
        """A playbook from what really changed between two points of a sandbox, by id or name; by default
        since the first snapshot."""
        sandbox = await self._fleet.get(actor, sandbox_id)
        since = from_snapshot or await self._fleet.first_snapshot(actor, sandbox.id)
        changes = await self._fleet.diff(actor, sandbox.id, since, to_snapshot or "now")
        commands = await self._fleet.command_log(actor, sandbox.id)
        draft = await asyncio.to_thread(
            generate,
            changes,
            commands,
            self._blobs,
            name=f"Reproduce {sandbox.sandbox_name}",
            facts=GuestFacts(hostname=sandbox.sandbox_name, address=sandbox.ip_address or ""),
        )
        for content in draft.files.values():
            self._blobs.put(content)
        playbook_id = new_id("PBK")
        playbook = Playbook(
            id=playbook_id,
            name=f"{sandbox.sandbox_name}-{playbook_id[4:]}",
            sandbox_id=sandbox.id,
            owner_uid=actor.uid,
            from_snapshot=since,
            to_snapshot=changes.to_snapshot,
            changes_id=changes.id,
            yaml=draft.yaml,
            files={sha256: len(content) for sha256, content in draft.files.items()},
            tasks=draft.tasks,
            variables=draft.variables,
            secrets=draft.secrets,
            notes=draft.notes,
            digest=digest(draft.yaml, draft.files),
            created_at=now(),
        )
        self.check(playbook)
        async with self._audit.step(
            actor, "playbook.generate", "playbook", playbook.id, sandbox_id=sandbox.id, digest=playbook.digest
        ):
            await self._store.playbooks.insert(playbook)
        return playbook

    def draft_back(self, applied: Playbook, way: WayBack) -> Draft:
        """The playbook that goes a way back from the apply of ``applied``, not kept yet.

        Raises:
            PlaybookRefused: nothing of it can be taken back.
        """
        return roll_back(way.changes, self._blobs, name=f"Roll back {applied.name}", swaps=way.swaps)

    async def roll_back(
        self, actor: Identity, applied: Playbook, run_id: str, way: WayBack, draft: Draft
    ) -> Playbook:
        """Keep ``draft``, which takes the apply ``run_id`` of ``applied`` back."""
        for content in draft.files.values():
            self._blobs.put(content)
        back = await self._store.changes.insert(way.changes)
        playbook_id = new_id("PBK")
        playbook = Playbook(
            id=playbook_id,
            name=f"{applied.name[:-9]}-back-{playbook_id[4:]}",
            sandbox_id=applied.sandbox_id,
            owner_uid=actor.uid,
            from_snapshot=back.from_snapshot,
            to_snapshot=back.to_snapshot,
            changes_id=back.id,
            yaml=draft.yaml,
            files={sha256: len(content) for sha256, content in draft.files.items()},
            tasks=draft.tasks,
            secrets=draft.secrets,
            kept=run_id,
            notes=[*way.notes, *draft.notes],
            digest=digest(draft.yaml, draft.files),
            created_at=now(),
        )
        self.check(playbook)
        async with self._audit.step(
            actor, "playbook.roll_back", "playbook", playbook.id, of=applied.id, digest=playbook.digest
        ):
            await self._store.playbooks.insert(playbook)
        return playbook

    async def update(self, actor: Identity, playbook_id: str, yaml: str) -> Playbook:
        """The agent's own wording, within the grammar."""
        playbook = await self.get(actor, playbook_id)
        fresh_id = new_id("PBK")
        edited = playbook.model_copy(
            update={
                "id": fresh_id,
                "name": f"{playbook.name[:-9]}-{fresh_id[4:]}",
                "yaml": yaml,
                "edited": True,
                "created_at": now(),
            }
        )
        checked = self.check(edited)
        edited.tasks, edited.secrets = told(checked, playbook.tasks), checked.secrets
        edited.variables = {name: str(value) for name, value in checked.variables.items()}
        edited.digest = digest(yaml, self.contents(edited))
        async with self._audit.step(
            actor, "playbook.edit", "playbook", edited.id, sandbox_id=edited.sandbox_id, digest=edited.digest
        ):
            await self._store.playbooks.insert(edited)
        return edited

    async def get(self, actor: Identity, playbook_id: str) -> Playbook:
        """One playbook; agents see their own only."""
        playbook = await self.load(playbook_id)
        if actor.role is Role.AGENT and playbook.owner_uid != actor.uid:
            raise PlaybookNotFound(f"no playbook {playbook_id}")
        return playbook

    async def list(self, actor: Identity) -> list[Playbook]:
        """The last ones; agents see their own only."""
        mine = {"owner_uid": actor.uid} if actor.role is Role.AGENT else {}
        rows, _ = await self._store.playbooks.list(mine, limit=LISTED)
        return rows

    async def file(self, actor: Identity, playbook_id: str, sha256: str) -> bytes:
        """The content of one of its files."""
        playbook = await self.get(actor, playbook_id)
        if sha256 not in playbook.files:
            raise PlaybookNotFound(f"{playbook_id} has no file {sha256}")
        return self._blobs.get(sha256)

    async def delete(self, actor: Identity, playbook_id: str) -> None:
        """Forget a playbook that no request was made with; evidence is never taken away."""
        playbook = await self.get(actor, playbook_id)
        if asked := await self._store.approvals.find({"playbook_id": playbook_id}):
            raise Conflict(f"{asked.id} was asked for with {playbook_id}", remedy="it stays with its request")
        async with self._audit.step(actor, "playbook.delete", "playbook", playbook.id):
            await self._store.playbooks.delete(playbook_id)

    async def load(self, playbook_id: str) -> Playbook:
        return await self._store.playbooks.get(playbook_id)

    async def changes_of(self, playbook: Playbook) -> Changes:
        """The diff that the playbook was generated from."""
        return await self._store.changes.get(playbook.changes_id)

    def contents(self, playbook: Playbook) -> dict[str, bytes]:
        """``files/<sha256>`` → bytes."""
        return {sha256: self._blobs.get(sha256) for sha256 in playbook.files}

    def to_run(self, playbook: Playbook) -> dict[str, bytes]:
        """Its files, for a run: text and files are those of its digest, and within the grammar.

        Raises:
            PlaybookRefused: the grammar does not hold.
            WrongState: somebody altered what is stored.
        """
        self.check(playbook)
        files = self.contents(playbook)
        if digest(playbook.yaml, files) != playbook.digest:
            raise WrongState(f"{playbook.id} is not what its digest says", remedy="generate it anew")
        return files

    def check(self, playbook: Playbook) -> CheckedPlaybook:
        """The grammar; raises :class:`PlaybookRefused` naming task and rule."""
        return check(playbook.yaml.encode(), playbook.files, secrets=playbook.secrets)
