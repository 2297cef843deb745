"""What agents keep in databases: a service's own data, which no diff shows and no playbook makes again.

The command log is all that tells of it, so it is told: an empty residual would be a lie.
"""

from __future__ import annotations

import re

from backend.playbooks.builders.context import Context

DATA = "data of "
_CHANGES = r"\b(?:create|alter|drop|grant|revoke|insert|update|delete|truncate|copy|load|import)\b"
_KEEPERS = {
    "postgresql": rf"\b(?:(?:create|drop)(?:user|db)|pg_restore)\b|\bpsql\b.*(?:{_CHANGES}|<|-f)",
    "mariadb": rf"\b(?:mysql|mariadb)\b.*(?:{_CHANGES}|<)",
}


def data(context: Context) -> None:
    """A note for each database that a command of the agent changed."""
    done = [one for one in context.commands if one.exit_code in (0, None)]
    for keeper, pattern in _KEEPERS.items():
        change = re.compile(pattern, re.IGNORECASE | re.DOTALL)
        if count := sum(change.search(one.command) is not None for one in done):
            context.note(f"{DATA}{keeper}: {count} commands changed it, which no playbook does again")
