"""The way back from an apply: to what a target had before, which was kept, from what it has now.

Only what the apply may have touched is taken back; whatever else changed there since is somebody's. What was
not kept, and what no playbook can bring back, stays and is said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

from backend.changes import Asker, Differ, Told
from backend.errors import WrongState
from backend.models import (
    Changes,
    ChangeVerb,
    FileKind,
    PackageChange,
    SettingKind,
    guest_path,
    wire_path,
)
from backend.playbooks._scope import Reference
from backend.playbooks.builders import results
from backend.playbooks.builders.context import Blobs
from backend.playbooks.generate import Draft, generate
from backend.playbooks.grammar import CheckedPlaybook
from backend.playbooks.secrets import MAX_VALUE, masked_paths
from backend.playbooks.touched import Touched
from backend.targets import Kept
from backend.wording import some

SHADOW = b"/etc/shadow"
SWAPS = b"/proc/swaps"
STAYS = "stays: "
_ETC_SYSCTL, _ETC_MODULES = "/etc/sysctl", "/etc/modules"
_LISTED = 5

Named = TypeVar("Named")


@dataclass(frozen=True)
class WayBack:
    """From now to before. ``notes`` say what stays."""

    changes: Changes
    notes: list[str]
    swaps: frozenset[str] = frozenset()  # what the target swaps to now


async def way_back(
    differ: Differ,
    asker: Asker,
    target: str,
    run_id: str,
    done: Changes,
    reach: Touched,
    before: Kept,
    now: Kept,
) -> WayBack:
    """What takes the apply of ``done`` back on a target that had ``before`` and has ``now``.

    Raises:
        WrongState: the target is as it was.
    """
    points = [asker.without_secrets(one.told.packed, one.told.contents) for one in (now, before)]
    whole = await differ.diff(
        "", "now", f"before {run_id}", points[0], points[1],
        quiesced=True, made_before=True, named=reach.written,
    )  # fmt: skip
    back = _Back(whole, done, reach, before, now)
    changes = whole.model_copy(
        update={
            "read_from": done.read_from,  # how its twin is read; what was kept is the target's own word
            "files": [change for change in whole.files if back.goes(change.path)],
            "packages": [one for one in whole.packages if back.package_goes(one)],
            "units": back.named("unit", whole.units),
            "users": back.named("user", whole.users),
            "groups": back.named("group", whole.groups),
            "notes": [],
        }
    )
    shown = {change.path for change in changes.shown()}
    meant = {(one.kind, one.name) for one in done.settings if not one.hidden}
    changes.settings = [
        one for one in whole.settings if (one.kind, one.name) in meant or not shown.isdisjoint(one.paths)
    ]
    stated = any(not one.hidden and shown.isdisjoint(one.paths) for one in changes.settings)
    if not (shown or changes.packages or changes.units or changes.users or changes.groups or stated):
        raise WrongState(
            "; ".join([f"{target} has what it had before {run_id}", *back.notes])[:1000],
            remedy="nothing is to be taken back by a playbook",
        )
    derived = results(changes.shown())  # by the target's own files, which a twin does not have
    changes.files = [change for change in changes.files if change.path not in derived]
    return WayBack(changes, back.notes, _swaps(now.told))


class _Back:
    """Decides what of a difference is taken back, and notes what is not."""

    def __init__(self, whole: Changes, done: Changes, reach: Touched, before: Kept, now: Kept) -> None:
        self._reach, self._before, self._now = reach, before, now
        self._states = {change.path: change for change in whole.files}
        self.notes: list[str] = []
        others = [
            one.name
            for one in whole.packages
            if one.verb is ChangeVerb.REMOVED and one.name not in reach.named["package"]
        ]
        if others:
            self._stays(f"{some(others, _LISTED)}: installed since, and not in the rehearsal")

    def goes(self, wire: str) -> bool:
        """Whether what stands at a path is taken back."""
        path, change = guest_path(wire), self._states[wire]
        if not self._reach.wanted.covers(path):
            return False
        if change.hidden:
            return True
        for kept in (self._before, self._now):
            if kept.is_left_out(path):
                self._stays(f"{wire}: {kept.left_out.get(path, 'in a folder of too many names')}")
                return False
        state = change.after
        if state is None:
            return not self._is_shared(
                path, change.before is not None and change.before.kind is FileKind.DIRECTORY
            )
        if state.secret and not self._fits(path):
            self._stays(f"{wire}: a secret ({state.secret}) that is no short text")
            return False
        return True

    def package_goes(self, one: PackageChange) -> bool:
        if one.name not in self._reach.named["package"]:
            return False
        if one.verb in (ChangeVerb.ADDED, ChangeVerb.REMOVED):
            return True
        if one.verb is ChangeVerb.MODIFIED:
            self._stays(f"package {one.name}: {one.before_version}, and was {one.after_version}")
        else:
            self._stays(f"package {one.name}: asked for by name or not, as it is now")
        return False

    def named(self, noun: str, changes: Iterable[Named]) -> list[Named]:
        """Those of a noun that the apply touched."""
        return [one for one in changes if getattr(one, "name", "") in self._reach.named[noun]]

    def _is_shared(self, path: bytes, is_folder: bool) -> bool:
        """Whether others have put something into a folder since: it is theirs too."""
        if not is_folder:
            return False
        inside = [one for one in self._now.told.order if one.startswith(path + b"/")]
        foreign = [one for one in inside if not self._reach.wanted.covers(one) and not self._is_made(one)]
        if not foreign and not any(path == one or path.startswith(one + b"/") for one in self._now.cut):
            return False
        what = (
            f"{wire_path(foreign[0])} and {len(foreign) - 1} more are"
            if len(foreign) > 1
            else (f"{wire_path(foreign[0])} is" if foreign else "too much is")
        )
        self._stays(f"{wire_path(path)}: {what} in it, which the apply did not make")
        return True

    def _is_made(self, path: bytes) -> bool:
        return any(path.startswith(folder + b"/") for folder in self._reach.made)

    def _fits(self, path: bytes) -> bool:
        return _text(self._before.told, path) is not None

    def _stays(self, words: str) -> None:
        if (note := STAYS + words) not in self.notes:
            self.notes.append(note)


def roll_back(changes: Changes, blobs: Blobs, *, name: str, swaps: Collection[str] = ()) -> Draft:
    """The playbook that takes back: ``changes`` lead from now to before. Its notes say what it cannot.
    ``swaps``: the paths that the target swaps to now.

    Raises:
        PlaybookRefused: there is nothing to take back.
    """
    draft = generate(changes, [], blobs, name=name, undo=True, swaps=swaps)
    for folder, words in ((_ETC_SYSCTL, "values"), (_ETC_MODULES, "modules")):
        paths = [change.path for change in changes.shown() if change.path.startswith(folder)]
        if paths:
            draft.notes.append(f"{', '.join(paths)}: the kernel keeps the {words} until it is started again")
    gone = [one for one in changes.settings if one.kind is SettingKind.HOSTNAME and not one.after]
    if gone:
        draft.notes.append(STAYS + "the host name: the target had none of its own")
    return draft


def kept_values(playbook: CheckedPlaybook, kept: Kept) -> dict[str, str]:
    """The values of the secrets of a roll-back, which are the target's own."""
    found: dict[str, str] = {}
    for wire, name in masked_paths(playbook).items():
        if (text := _text(kept.told, guest_path(wire))) is not None:
            found[name] = text
    rows = reversed((_text(kept.told, SHADOW) or "").split("\n"))  # the first of a name counts
    shadow = dict(line.split(":")[:2] for line in rows if ":" in line)
    for task in playbook.tasks:
        password = task.args.get("password")
        if isinstance(password, Reference) and (value := shadow.get(str(task.args["name"]))):
            found[str(password)] = value
    return found


def _swaps(told: Told) -> frozenset[str]:
    """proc_swaps(5): the first word of each line, after a line of titles."""
    lines = (_text(told, SWAPS) or "").split("\n")[1:]
    return frozenset(words[0] for line in lines if (words := line.split()))


def _text(told: Told, path: bytes) -> str | None:
    """A content that a variable can carry."""
    content = told.contents.get(path)
    if content is None or not content.data or len(content.data) > MAX_VALUE or b"\0" in content.data:
        return None
    try:
        return content.data.decode("utf-8")
    except UnicodeDecodeError:
        return None
