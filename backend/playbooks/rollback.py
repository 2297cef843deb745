"""The way back from an apply: what the rehearsal did to a pristine machine, turned round.

It leads to the state of the source, not to what a target had of its own: that was never saved. So it is made
only for targets on which the dry run told the same story as the rehearsal.
"""

from __future__ import annotations

from typing import TypeVar

from backend.models import (
    Changes,
    ChangeVerb,
    FileChange,
    GroupChange,
    PackageChange,
    SettingChange,
    SettingKind,
    UnitChange,
    UserChange,
    new_id,
    now,
)
from backend.playbooks.builders.context import Blobs
from backend.playbooks.generate import Draft, generate

_TURNED = {ChangeVerb.ADDED: ChangeVerb.REMOVED, ChangeVerb.REMOVED: ChangeVerb.ADDED}

Sided = TypeVar("Sided", FileChange, UnitChange, UserChange, GroupChange, SettingChange)


def turned_round(changes: Changes) -> Changes:
    """The same change from its end to its beginning."""
    return changes.model_copy(
        update={
            "id": new_id("CHG"),
            "from_snapshot": changes.to_snapshot,
            "to_snapshot": changes.from_snapshot,
            "created_at": now(),
            "files": [_sides(change) for change in changes.files],
            "packages": [_package(change) for change in changes.packages],
            "units": [_sides(change) for change in changes.units],
            "users": [_sides(change) for change in changes.users],
            "groups": [_sides(change) for change in changes.groups],
            "settings": [_sides(change) for change in changes.settings],
        }
    )


def roll_back(changes: Changes, blobs: Blobs, *, name: str) -> Draft:
    """The playbook that takes back ``changes``, which are already turned round. Its notes say what it cannot.

    Raises:
        PlaybookRefused: there is nothing to take back.
    """
    draft = generate(changes, [], blobs, name=name, undo=True)
    kernel = [change.path for change in changes.shown() if change.path.startswith("/etc/sysctl")]
    if kernel:
        draft.notes.append(f"{', '.join(kernel)}: the kernel keeps the values until it is started again")
    if any(one.kind is SettingKind.HOSTNAME for one in changes.settings):
        draft.notes.append("the host name stays: what the target was called before is not known")
    return draft


def _sides(change: Sided) -> Sided:
    return change.model_copy(
        update={"verb": _turned(change.verb), "before": change.after, "after": change.before}
    )


def _package(change: PackageChange) -> PackageChange:
    return change.model_copy(
        update={
            "verb": _turned(change.verb),
            "before_version": change.after_version,
            "after_version": change.before_version,
        }
    )


def _turned(verb: ChangeVerb) -> ChangeVerb:
    return _TURNED.get(verb, verb)
