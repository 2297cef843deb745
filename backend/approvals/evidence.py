"""When evidence suffices, and its figures. Pure functions over the nouns."""

from __future__ import annotations

from collections import Counter

from backend.models import Approval, Changes, ChangeVerb, Evidence, by_whom


def blockers(evidence: Evidence, targets: list[str], *, allow_unrehearsed: bool = False) -> list[str]:
    """What still stands between this evidence and an approval, a sentence each. Empty: it may be approved."""
    found: list[str] = []
    if evidence.failure:
        found.append(evidence.failure)
    if evidence.rehearsal is None or evidence.again_changed is None:
        found.append("the rehearsal is not finished")
    elif evidence.again_changed:
        where = by_whom(evidence.read_from)
        found.append(f"not idempotent: the second run changed {evidence.again_changed} things {where}")
    if rows := evidence.rows("missing") + evidence.rows("extra"):
        found.append(f"the residual is not empty: {len(rows)} differences between sandbox and rehearsal")
    if evidence.unrehearsed and not allow_unrehearsed:
        found.append(f"{len(evidence.unrehearsed)} tasks were skipped in the rehearsal")
    for target in targets:
        seen = evidence.dry_run.get(target)
        if seen is None or seen.at is None:
            found.append(f"the dry run on {target} is not finished")
        elif seen.error:
            found.append(f"the dry run on {target} failed: {seen.error}")
    return found


def counts(changes: Changes) -> dict[str, int]:
    """The figures of the checklist; of what files state, one a kind that there is."""
    files = [change for change in changes.listed() if not change.package]
    renamed = sum(bool(change.renamed_from) for change in files)
    by_verb = Counter(change.verb for change in files)
    return {
        "files": len(files),
        "files_added": by_verb[ChangeVerb.ADDED] - renamed,
        "files_modified": by_verb[ChangeVerb.MODIFIED] + by_verb[ChangeVerb.METADATA],
        "files_renamed": renamed,
        "files_removed": by_verb[ChangeVerb.REMOVED],
        "packages": len(changes.packages),
        "units": len(changes.units),
        "users": len(changes.users),
        "groups": len(changes.groups),
        "hidden": sum(changes.hidden.values()),
        **Counter(one.kind.value for one in changes.settings if not one.hidden and not one.package),
    }


def for_agent(approval: Approval) -> Approval:
    """The approval as its requester may see it: per target only counts, never text, address or fact."""
    shown = approval.model_copy(deep=True)
    for seen in shown.evidence.dry_run.values():
        seen.differs, seen.run_id, seen.fingerprint, seen.not_previewed = [], "", "", []
        seen.login = ""
        seen.error = "failed" if seen.error else ""
    shown.digest = ""
    shown.apply_run = shown.verify_run = ""
    if shown.said_by_targets is None:
        shown.outcome = ""
    shown.said_by_targets = ""
    return shown
