"""What a roll back needs: what each target had, kept before an apply, and the playbook that leads there."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from backend.audit import Audit
from backend.changes import dpkg
from backend.errors import WrongState
from backend.fleet import Fleet
from backend.models import Approval, Changes, Identity, Playbook, Run, wire_path
from backend.playbooks import (
    SWAPS,
    Draft,
    Playbooks,
    WayBack,
    added_folders,
    check,
    digest,
    kept_values,
    other_packages,
    overwritten,
    touched,
    way_back,
)
from backend.store import Store
from backend.targets import Keeper, Kept, Wanted
from backend.together import together
from backend.wording import some

TOLD = 20  # paths that an audit row names
NAMED = 5  # paths that a sentence names


@dataclass(frozen=True)
class _Drafted:
    """Of one target. ``values`` are of the secrets that its draft names."""

    way: WayBack
    draft: Draft
    values: dict[str, str] = field(repr=False)


class WaysBack:
    """Keeps before an apply, and turns what was kept into a playbook."""

    def __init__(
        self, store: Store, audit: Audit, fleet: Fleet, playbooks: Playbooks, keeper: Keeper
    ) -> None:
        self._store, self._audit, self._fleet = store, audit, fleet
        self._playbooks, self._keeper = playbooks, keeper

    async def keep(self, approval: Approval, playbook: Playbook, run_id: str) -> None:
        """Keep what the targets have where the apply ``run_id`` touches them.

        Raises:
            TargetDown: one does not answer, or cannot be read.
        """
        done = await self._store.changes.get(approval.evidence.changes_id)
        wanted = touched(done, self._playbooks.check(playbook)).wanted
        async with self._audit.step(
            Identity.system(), "approval.keep", "approval", approval.id, run=run_id, targets=approval.targets
        ) as step:
            found: list[Kept] = await together(
                *(self._keeper.keep(run_id, name, wanted) for name in approval.targets)
            )
            step.data["left_out"] = {
                name: sorted(map(wire_path, kept.left_out))[:TOLD]
                for name, kept in zip(approval.targets, found, strict=True)
                if kept.left_out
            }

    async def fingerprints(
        self, approval: Approval, playbook: Playbook, targets: Sequence[str]
    ) -> dict[str, str]:
        """By target, of what it has where the apply would write; of none where that is nothing. Raises
        :class:`TargetDown`."""
        done = await self._store.changes.get(approval.evidence.changes_id)
        at = overwritten(done, self._playbooks.check(playbook))
        if not at.paths and not at.accounts:
            return {}
        found: list[str] = await together(
            *(self._keeper.fingerprint(name, at.paths, at.accounts) for name in targets)
        )
        return dict(zip(targets, found, strict=True))

    async def not_kept(
        self, approval: Approval, playbook: Playbook, targets: Sequence[str]
    ) -> dict[str, list[str]]:
        """By target, what a roll back could not bring back, since it would not be kept before the apply: a
        sentence a reason. Raises :class:`TargetDown`."""
        if approval.rolls_back:  # is not taken back itself
            return {}
        done = await self._store.changes.get(approval.evidence.changes_id)
        wanted = touched(done, self._playbooks.check(playbook)).wanted
        found: list[dict[bytes, str]] = await together(
            *(self._keeper.not_kept(name, wanted) for name in targets)
        )
        return {name: _without_way_back(left) for name, left in zip(targets, found, strict=True)}

    async def other_packages(self, approval: Approval, runs: Mapping[str, Run]) -> dict[str, list[str]]:
        """By target, where its packages would be others than the rehearsal's: a sentence each. ``runs``: the
        dry run of each. Raises :class:`TargetDown`."""
        done = await self._store.changes.get(approval.evidence.changes_id)
        if not (done.packages or any(event.packages for run in runs.values() for event in run.events)):
            return {}

        async def compared(name: str, run: Run) -> list[str]:
            told = (await self._keeper.look(name, Wanted(frozenset({dpkg.STATUS})))).told
            status = told.contents.get(dpkg.STATUS)
            return await asyncio.to_thread(other_packages, done, run, name, status.data if status else None)

        found: list[list[str]] = await together(*(compared(name, run) for name, run in runs.items()))
        return dict(zip(runs, found, strict=True))

    async def playbook(
        self, actor: Identity, run: Run, approval: Approval, targets: Sequence[str]
    ) -> Playbook:
        """The playbook that takes ``run`` back on ``targets``.

        Raises:
            NotFound: what a target had is not kept.
            TargetDown: a target does not tell what it has now.
            WrongState: there is nothing to take back, or the targets need different playbooks.
        """
        applied = await self._playbooks.load(run.playbook_id)
        done = await self._store.changes.get(approval.evidence.changes_id)
        ways: list[_Drafted] = await together(
            *(self._drafted(run.id, name, applied, done) for name in targets)
        )
        _refuse_different(
            run.id, targets, [(digest(one.draft.yaml, one.draft.files), one.values) for one in ways]
        )
        return await self._playbooks.roll_back(actor, applied, run.id, ways[0].way, ways[0].draft)

    async def _drafted(self, run_id: str, name: str, applied: Playbook, done: Changes) -> _Drafted:
        checked = self._playbooks.check(applied)
        reach = touched(done, checked)
        before = await self._keeper.kept(run_id, name)
        looked = replace(
            before.wanted,
            names=before.wanted.names | {SWAPS},
            folders=before.wanted.folders | added_folders(done),
        )
        now = await self._keeper.look(name, looked)
        way = await way_back(self._fleet.differ, self._fleet.asker, name, run_id, done, reach, before, now)
        draft = self._playbooks.draft_back(applied, way)
        drafted = check(draft.yaml.encode(), draft.files, secrets=draft.secrets)
        return _Drafted(way, draft, kept_values(drafted, before))

    async def values(self, approval: Approval, playbook: Playbook) -> dict[str, str]:
        """The values of the secrets of a roll-back: nobody has to know what a target had.

        Raises:
            NotFound: what a target had is not kept.
            WrongState: the targets had different ones.
        """
        if not playbook.secrets:
            return {}
        run_id, targets = approval.rolls_back, approval.targets
        kept: list[Kept] = await together(*(self._keeper.kept(run_id, name) for name in targets))
        checked = self._playbooks.check(playbook)
        values = [kept_values(checked, one) for one in kept]
        _refuse_different(run_id, targets, values)
        return values[0]


def _refuse_different(run_id: str, targets: Sequence[str], had: Sequence[object]) -> None:
    """One playbook goes to all targets, and so do the values of its secrets, which it does not show."""
    for name, one in zip(targets, had, strict=True):
        if one != had[0]:
            raise WrongState(
                f"{targets[0]} and {name} did not have the same before {run_id}",
                remedy=f"one request a target: `fluid runs rollback {run_id} --target {name}`",
            )


def _without_way_back(left_out: Mapping[bytes, str]) -> list[str]:
    by_reason = defaultdict[str, list[str]](list)
    for path, why in sorted(left_out.items()):
        by_reason[why].append(wire_path(path))
    return [
        f"a roll back cannot bring back {some(paths, NAMED)}: not kept before the apply ({why})"
        for why, paths in by_reason.items()
    ]
