"""What agents keep in databases: a service's own data, which no diff shows and no task is generated for. How
much of it was left out is said.

The command log is all that tells of it. An empty residual would be a lie: it is a row there, unless a task of
the playbook works on that database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from backend.changes.noise import HOST_KEYS, SERVICE_STATE
from backend.changes.residuals import MISSING
from backend.models import ResidualRow
from backend.playbooks.builders.context import Context

DATA = "data of "
_PROGRAMS = {
    "postgresql": re.compile(r"\b(?:psql|createuser|createdb|dropuser|dropdb|pg_restore)\b"),
    "mariadb": re.compile(r"\b(?:mysql|mariadb)\b"),
}
_CHANGES = r"\b(?:create|alter|drop|grant|revoke|insert|update|delete|truncate|copy|load|import)\b"
_KEEPERS = {
    "postgresql": rf"\b(?:(?:create|drop)(?:user|db)|pg_restore)\b|\bpsql\b.*(?:{_CHANGES}|<|-f)",
    "mariadb": rf"\b(?:mysql|mariadb)\b.*(?:{_CHANGES}|<)",
}


def data(context: Context) -> None:
    """A note for each database that a command of the agent changed, for what services keep, and for host
    keys: each machine has its own."""
    done = [one for one in context.commands if one.exit_code in (0, None)]
    for keeper, pattern in _KEEPERS.items():
        change = re.compile(pattern, re.IGNORECASE | re.DOTALL)
        if count := sum(change.search(one.command) is not None for one in done):
            context.note(f"{DATA}{keeper}: {count} commands changed it, which no generated task does again")
    for note in context.changes.notes:
        if note.startswith((f"{SERVICE_STATE} of ", f"{HOST_KEYS}: ")):
            context.note(note)


def not_redone(notes: Iterable[str], commands: Sequence[Sequence[str]]) -> list[ResidualRow]:
    """A row for each database of a note on which none of these commands, those of the opaque tasks, works."""
    told = (note.removeprefix(DATA).partition(": ") for note in notes if note.startswith(DATA))
    return [
        ResidualRow(
            kind=MISSING,
            noun="database",
            name=keeper,
            reason=f"{why}; add a guarded command task that does",
        )
        for keeper, _, why in told
        if not any(_PROGRAMS[keeper].search(word) for words in commands for word in words)
    ]
