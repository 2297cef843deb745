"""What a dry run says of a target, measured against the rehearsal. Pure functions over two runs.

The same playbook in check mode on production and for real on the twin: where task by task the two do not
tell the same story, the target has drifted, and the operator reads a sentence about it.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from backend.models import Run, RunEvent, RunState, TargetEvidence, TargetResult, now

_OVER = frozenset({"ok", "changed", "skipped", "failed", "unreachable"})
_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")


@dataclass
class _Task:
    """One task on one host: its words, and the lines that its diff takes away and adds."""

    name: str = ""
    status: str = ""
    message: str = ""
    gone: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


def preview(rehearsal: Run, dry_run: Run, target: str, under: str, login: str = "") -> TargetEvidence:
    """The evidence of one target. ``under``: a fingerprint of what stands where it would be written;
    ``login``: where the dry run went."""
    here, there = _tasks(dry_run.events, target), _tasks(rehearsal.events, None)
    differs, unseen = [], []
    for index, task in sorted(here.items()):
        twin = there.get(index, _Task())
        if task.status == "skipped" and twin.status != "skipped":
            unseen.append(task.name)
        elif sentence := _difference(task, twin, target):
            differs.append(sentence)
    result = dry_run.results.get(target, TargetResult())
    return TargetEvidence(
        target=target,
        login=login,
        run_id=dry_run.id,
        result=result,
        differs=differs,
        not_previewed=unseen,
        fingerprint=_fingerprint(here, under),
        at=now(),
        error=_error(dry_run, here, result, target),
    )


def _tasks(events: list[RunEvent], host: str | None) -> dict[int, _Task]:
    found: dict[int, _Task] = defaultdict(_Task)
    for event in events:
        if (host is not None and event.host != host) or event.status not in _OVER or event.task_index < 0:
            continue
        task = found[event.task_index]
        task.name, task.message = event.task, event.message
        task.status = event.status if event.status != "ok" or not task.status else task.status
        for line in _changed_lines(event.diff):
            (task.gone if line.startswith("-") else task.new).append(line[1:])
    return found


def _changed_lines(diff: str) -> Iterator[str]:
    """The lines that unified diffs take away and add, with their signs. Within a hunk its head tells how many
    lines come, so that content may look like the head of a diff; outside of one, heads are left out."""
    old = new = 0
    for line in diff.splitlines():
        sign = line[:1]
        if old > 0 or new > 0:
            old -= sign in "- "
            new -= sign in "+ "
            if sign in ("-", "+"):
                yield line
        elif head := _HUNK.match(line):
            old, new = (int(count or 1) for count in head.groups())
        elif sign in ("-", "+") and not line.startswith(("---", "+++")):
            yield line


def _difference(task: _Task, twin: _Task, target: str) -> str:
    if task.status == "ok" and twin.status == "changed":
        return f"{task.name}: already so on {target}"
    if task.status == "changed" and twin.status == "ok":
        return f"{task.name}: would change {target}, and changed nothing in the rehearsal"
    if task.status == "changed" and twin.status in ("skipped", ""):
        how = "was skipped" if twin.status else "did not run"
        return f"{task.name}: would change {target}, and {how} in the rehearsal"
    if task.status == "changed" and task.gone != twin.gone:
        was = f"{task.gone[0].strip()!r}" if task.gone else "nothing"
        more = f" and {len(task.gone) - 1} more lines" if len(task.gone) > 1 else ""
        return f"{task.name}: {target} has {was}{more} where the rehearsal had {_had(twin)}"
    return ""


def _had(twin: _Task) -> str:
    return f"{twin.gone[0].strip()!r}" if twin.gone else "nothing"


def _fingerprint(tasks: dict[int, _Task], under: str) -> str:
    """SHA-256 over every task's status and diff on the target, without secrets, and ``under``, which is keyed
    and changes with them; a second dry run must give the same."""
    whole = hashlib.sha256(under.encode())
    for index, task in sorted(tasks.items()):
        for part in (str(index), task.status, *task.gone, "", *task.new, ""):
            whole.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return whole.hexdigest()


def _error(run: Run, tasks: dict[int, _Task], result: TargetResult, target: str) -> str:
    if result.unreachable:
        return f"{target} is unreachable"
    if result.failed:
        bad = next((task for task in tasks.values() if task.status == "failed"), _Task(name="a task"))
        return f"{bad.name}: {bad.message}"[:500]
    if run.left_out:
        return f"more than {len(run.events)} results, too many to be judged: ask for less at once"
    return "" if run.state is RunState.SUCCESSFUL else f"the run ended {run.state}: {run.reason}"
