"""What agents keep in databases, directories and queues: a service's own data, which no diff shows and no
task is generated for. How much of it was left out is said.

The command log is all that tells of it. An empty residual would be a lie: it is a row there, unless a task of
the playbook makes a change of that kind. A command that failed may have done half of it.
"""

from __future__ import annotations

import posixpath
import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence

from backend.changes.noise import HOST_KEYS, SERVICE_STATE
from backend.changes.residuals import MISSING
from backend.models import Command, ResidualRow
from backend.playbooks._keepers import SQLITE, Kept, Scripts, kept_by
from backend.playbooks._shell import simple_commands
from backend.playbooks.builders.context import Context

DATA = "data of "
_NEVER_BEGAN = (126, 127)  # sh(1): it cannot be run, it is not found


def data(context: Context) -> None:
    """A note for each service, and each kind of its data, that a command of the agent changed; for what
    services keep, and for host keys, of which each machine has its own."""
    found: dict[str, list[Command]] = defaultdict(list)
    scripts = _Scripts(context)
    for one in context.commands:
        if _may_have_run(one):
            for name in {_name(context, kept) for kept in kept_by(one.command, scripts.of(one))}:
                found[name].append(one)
    for name, commands in sorted(found.items()):
        if name:
            context.note(f"{DATA}{name}: {_told(commands)}, which no generated task does again")
    for note in context.changes.notes:
        if note.startswith((f"{SERVICE_STATE} of ", f"{HOST_KEYS}: ")):
            context.note(note)


def _may_have_run(command: Command) -> bool:
    return command.exit_code not in _NEVER_BEGAN or len(simple_commands(command.command)) > 1


def _told(commands: Sequence[Command]) -> str:
    failed = sum(one.exit_code not in (0, None) for one in commands)
    words = f"{len(commands)} command{'s' if len(commands) > 1 else ''} changed it"
    if failed:
        words += f", or may have: {failed} of them failed"
    return words


class _Scripts:
    """What the scripts change whose text stands in the diff; each is read once, also one that runs itself."""

    def __init__(self, context: Context) -> None:
        self._text_of = context.text_of
        self._known: dict[str, set[Kept]] = {}

    def of(self, command: Command) -> Scripts:
        """By names from where ``command`` began."""
        user = command.metadata.get("user") or "root"
        return self._from(
            command.metadata.get("work_dir") or ("/root" if user == "root" else f"/home/{user}")
        )

    def _from(self, start: str) -> Scripts:
        return lambda name, folder: self._changes(posixpath.normpath(posixpath.join(start, folder, name)))

    def _changes(self, path: str) -> set[Kept]:
        if path not in self._known:
            self._known[path] = set()
            if text := self._text_of(path):
                self._known[path] = kept_by(text, self._from(posixpath.dirname(path)))
        return self._known[path]


def _name(context: Context, kept: Kept) -> str:
    """As a note and a row name it. Empty for a file of SQLite that the diff shows, or that is not in it."""
    if kept.keeper != SQLITE:
        return f"{kept.keeper} ({kept.kind})" if kept.kind else kept.keeper
    for one in context.changes.files:
        if one.hidden == SERVICE_STATE and posixpath.basename(one.path) == posixpath.basename(kept.file):
            return f"{SQLITE} ({one.path})"
    return ""


def not_redone(notes: Iterable[str], commands: Sequence[Sequence[str]]) -> list[ResidualRow]:
    """A row for each note of data that none of these commands, those of the opaque tasks, changes in the same
    way."""
    done: dict[str, set[str]] = defaultdict(set)
    for argv in commands:
        for kept in kept_by(shlex.join(argv), alone=True):
            done[kept.keeper].add(kept.file or kept.kind)
    told = (note.removeprefix(DATA).partition(": ") for note in notes if note.startswith(DATA))
    return [
        ResidualRow(
            kind=MISSING,
            noun="database",
            name=name,
            reason=f"{why}; add a guarded command task that does",
        )
        for name, _, why in told
        if not _is_done(name, done)
    ]


def _is_done(name: str, done: dict[str, set[str]]) -> bool:
    """Whether a task does it: of the same kind, or one of the two is of no known kind."""
    keeper, _, kind = name.rstrip(")").partition(" (")
    kinds = done.get(keeper, set())
    return bool(kinds) and (not kind or kind in kinds or "" in kinds)
