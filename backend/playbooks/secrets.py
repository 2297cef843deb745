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
from backend.playbooks.builders import formatted
from backend.playbooks.grammar import CheckedPlaybook, CheckedTask
from backend.playbooks.tasks import paths_of

MAX_VALUE = 256 * 1024
_MASK = "masked"
MASK = "‹secret›"  # as the disk reader leaves it in a text
_DRAWN = re.compile(
    r"[0-9A-F]{2,64}\n"
    r"|-----BEGIN (DH|EC) PARAMETERS-----\n[A-Za-z0-9+/=\n]{1,4096}-----END \1 PARAMETERS-----\n"
)
WRITERS = tuple(
    f"ansible.builtin.{name}" for name in ("copy", "blockinfile", "lineinfile", "replace", "cron")
)
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
    """The residual, with the contents masked that are secrets or made by formatting; each is a row."""
    why = {
        path: f"its content is the secret {name}, which the approval gives"
        for path, name in masked_paths(playbook).items()
    }
    drawn = _made(playbook) & _drawn(sandbox) & _drawn(rehearsal)
    why |= dict.fromkeys(drawn, "drawn anew on each machine")
    sized = _formatted(playbook)
    why |= dict.fromkeys(sized, "formatted anew on each machine")
    both = _files(sandbox, why) & _files(rehearsal, why)
    rows = residual(_masked(sandbox, both, sized), _masked(rehearsal, both, sized))
    rows += [ResidualRow(kind=REGENERATED, noun="file", name=path, reason=why[path]) for path in sorted(both)]
    return rows


def _made(playbook: CheckedPlaybook) -> set[str]:
    """What guarded commands make."""
    return _paths(playbook, [task for task in playbook.tasks if task.opaque])


def _drawn(changes: Changes) -> set[str]:
    """Files of random numbers that are no key: parameters of Diffie and Hellman, serial numbers."""
    states = ((change.path, change.after) for change in changes.files)
    return {path for path, state in states if state is not None and _DRAWN.fullmatch(state.text or "")}


def _formatted(playbook: CheckedPlaybook) -> set[str]:
    """What handlers format and no task writes."""
    argvs = [task.args["argv"] for task in playbook.handlers if task.opaque]
    found = (formatted([str(word) for word in argv]) for argv in argvs if isinstance(argv, list))
    written = [task for task in (*playbook.tasks, *playbook.handlers) if task.module in WRITERS]
    return {wire_path(path.encode()) for path in found if path} - _paths(playbook, written)


def _paths(playbook: CheckedPlaybook, tasks: Iterable[CheckedTask]) -> set[str]:
    return {wire_path(path.encode()) for task in tasks for path in paths_of(task, playbook)}


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


def _masked(changes: Changes, paths: Collection[str], sized: Collection[str]) -> Changes:
    """``sized``: paths whose size counts though their content does not."""

    def mask(change: FileChange) -> FileChange:
        if change.path not in paths or change.after is None:
            return change
        blank: dict[str, object] = {
            "sha256": _MASK,
            "secret": "",
            "certificate": None,
            "text": None,
            "blob": False,
        }
        blank |= {} if change.path in sized else {"size": 0}
        return change.model_copy(update={"after": change.after.model_copy(update=blank)})

    return changes.model_copy(update={"files": [mask(change) for change in changes.files]})
