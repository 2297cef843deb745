"""Secrets of a playbook: names without a value, until an operator gives the values with the approval.

The rehearsal and every dry run use random placeholders, so no value exists before somebody said yes. A path
whose whole content is a secret is compared with the content masked, and told: never hidden.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable, Mapping

from backend.changes.residuals import REGENERATED, residual
from backend.errors import InvalidValue
from backend.models import Changes, FileChange, FileKind, ResidualRow, wire_path
from backend.playbooks._scope import Reference
from backend.playbooks.grammar import CheckedPlaybook
from backend.playbooks.tasks import paths_of

MAX_VALUE = 256 * 1024
_MASK = "masked"
MASK = "‹secret›"  # as the disk reader leaves it in a text
_CRYPT = re.compile(r"\$[0-9a-z]+\$[A-Za-z0-9./$=,+-]{8,500}")  # crypt(5)


def placeholders(names: Iterable[str]) -> dict[str, str]:
    """Random text for each name."""
    return {name: secrets.token_hex(16) for name in names}


def stand_ins(playbook: CheckedPlaybook, changes: Changes) -> dict[str, str]:
    """Random text for each secret; for a file's content with what is known to stand around its passwords, so
    that the service which reads it can start."""
    found = placeholders(playbook.secrets)
    named = masked_paths(playbook)
    for change in changes.files:
        for state in (change.before, change.after):
            if state is not None and state.secret and state.text and change.path in named:
                found[named[change.path]] = state.text.replace(MASK, secrets.token_hex(16))
    return found


def check_values(playbook: CheckedPlaybook, given: Mapping[str, str]) -> None:
    """Every secret of ``playbook``, no other, each fit for its place.

    Raises:
        InvalidValue: names the secret, never its value.
    """
    if missing := sorted(set(playbook.secrets) - set(given)):
        raise InvalidValue(
            f"the playbook needs {len(missing)} secrets: {', '.join(missing)}",
            remedy="`fluid approvals approve` asks for them; --secrets-file FILE (mode 0600) gives them",
        )
    if foreign := sorted(set(given) - set(playbook.secrets)):
        raise InvalidValue(f"the playbook has no secret {foreign[0]!a}", remedy="leave it out")
    for name in sorted(given):
        if not given[name] or len(given[name].encode()) > MAX_VALUE or "\0" in given[name]:
            raise InvalidValue(
                f"the secret {name} must be text of 1 to {MAX_VALUE} bytes without NUL", remedy="mend it"
            )
    for name in _password_hashes(playbook):
        if not _CRYPT.fullmatch(given[name]):
            raise InvalidValue(
                f"the secret {name} must be a password's hash as in shadow(5), not the password",
                remedy="`openssl passwd -6` makes one",
            )


def compare(sandbox: Changes, rehearsal: Changes, playbook: CheckedPlaybook) -> list[ResidualRow]:
    """The residual, with the contents that are secrets masked; each of them is a row of its own."""
    named = masked_paths(playbook)
    both = _files(sandbox, named) & _files(rehearsal, named)
    rows = residual(_masked(sandbox, both), _masked(rehearsal, both))
    rows += [
        ResidualRow(
            kind=REGENERATED,
            noun="file",
            name=path,
            reason=f"its content is the secret {named[path]}, which the approval gives",
        )
        for path in sorted(both)
    ]
    return rows


def masked_paths(playbook: CheckedPlaybook) -> dict[str, str]:
    """Wire path → the name of the secret that is its whole content."""
    found: dict[str, str] = {}
    for task in playbook.tasks:
        content = task.args.get("content")
        if isinstance(content, Reference) and content in task.secrets:
            found |= {wire_path(path.encode()): str(content) for path in paths_of(task, playbook)}
    return found


def _password_hashes(playbook: CheckedPlaybook) -> list[str]:
    values = [task.args.get("password") for task in (*playbook.tasks, *playbook.handlers)]
    return sorted({str(value) for value in values if isinstance(value, Reference)})


def _files(changes: Changes, paths: Collection[str]) -> set[str]:
    """Those of ``paths`` where a regular file stands now."""
    return {
        change.path
        for change in changes.files
        if change.path in paths and change.after is not None and change.after.kind is FileKind.FILE
    }


def _masked(changes: Changes, paths: Collection[str]) -> Changes:
    def mask(change: FileChange) -> FileChange:
        if change.path not in paths or change.after is None:
            return change
        blank = {"sha256": _MASK, "size": 0, "secret": "", "certificate": None, "text": None, "blob": False}
        return change.model_copy(update={"after": change.after.model_copy(update=blank)})

    return changes.model_copy(update={"files": [mask(change) for change in changes.files]})
