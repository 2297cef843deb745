"""What a task showed, held against its truth, and the table of all: ``ok``, ``explained`` or ``FAILED``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from backend.cli.common import show_rows
from backend.models import (
    ApprovalState,
    Changes,
    ChangeVerb,
    Evidence,
    SettingChange,
    SettingKind,
    UnitChange,
)
from tests.e2e.tasks.corpus import Task

OK, EXPLAINED, FAILED = "ok", "explained", "FAILED"
SIGNS = {
    ChangeVerb.ADDED: "+",
    ChangeVerb.REMOVED: "-",
    ChangeVerb.MODIFIED: "~",
    ChangeVerb.METADATA: "*",
}
# What users and groups are made of: their own rows tell it.
_ACCOUNT_FILES = re.compile(r"/etc/(passwd|shadow|group|gshadow|subuid|subgid)-?")
_UNIT_FILES = (SettingKind.UNIT, SettingKind.TIMER)
TITLES = ("task", "files", "packages", "tasks", "opaque", "missing", "extra", "again", "seconds", "verdict")


@dataclass
class Row:
    """One task's result. ``key`` is of the task, the code and the image that it was made with."""

    name: str
    key: str = ""
    files: int = 0
    packages: int = 0
    tasks: int = 0
    opaque: int = 0
    missing: int = 0
    extra: int = 0
    again: int | None = None
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    explained: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        if self.problems:
            return FAILED
        return EXPLAINED if self.explained else OK

    def cells(self) -> list[str]:
        """As :data:`TITLES` names them."""
        again = "-" if self.again is None else str(self.again)
        counts = (self.files, self.packages, self.tasks, self.opaque, self.missing, self.extra)
        return [self.name, *map(str, counts), again, f"{self.seconds:.0f}", self.verdict]


def lines(changes: Changes) -> dict[str, bool]:
    """The diff as a truth's lines → whether a truth must name it; a package's own things need not be."""
    found: dict[str, bool] = {}
    for package in changes.packages:
        pulled = package.verb in (ChangeVerb.ADDED, ChangeVerb.MODIFIED) and not package.wanted
        found[f"{SIGNS[package.verb]} package {package.name}"] = not pulled
    for unit in changes.units:
        found[f"{SIGNS[unit.verb]} unit {unit.name} {_state(unit)}"] = not unit.package
    for noun, accounts in (("user", changes.users), ("group", changes.groups)):
        for account in accounts:
            found[f"{SIGNS[account.verb]} {noun} {account.name}"] = not account.package
    for file in changes.shown():
        if not _ACCOUNT_FILES.fullmatch(file.path):
            found[f"{SIGNS[file.verb]} file {file.path}"] = not file.package
    for setting in changes.settings:
        if not setting.hidden and setting.kind not in _UNIT_FILES:
            found[_setting(setting)] = not setting.package
    return found


def _state(unit: UnitChange) -> str:
    if unit.after.masked:
        return "masked"
    if not unit.after.defined:
        return "gone"
    return "on" if unit.after.enabled else "off"


def _setting(setting: SettingChange) -> str:
    values = setting.after or setting.before
    told = values.get("value") or values.get("rule") or values.get("may") or ""
    return f"{SIGNS[setting.verb]} {setting.kind} {setting.name}" + (f" = {told}" if told else "")


def judge(row: Row, task: Task, changes: Changes, evidence: Evidence, state: ApprovalState) -> None:
    """Add to ``row`` what is wrong, or expected and explained. ``state``: where the request for approval
    stood when the evidence was taken."""
    told = lines(changes)
    row.problems += [f"in the truth only: {line}" for line in sorted(task.changes - told.keys())]
    row.problems += [
        f"in the diff only:  {line}" for line, must in told.items() if must and line not in task.changes
    ]
    row.again = evidence.again_changed
    row.problems += _rehearsed(evidence, state)
    row.missing, row.extra = len(evidence.rows("missing")), len(evidence.rows("extra"))
    _residual(row, task, evidence)


def _rehearsed(evidence: Evidence, state: ApprovalState) -> Iterator[str]:
    """What keeps it from having been rehearsed twice, to the end, without a failure or a second change."""
    if state is not ApprovalState.PENDING:
        yield f"the request is {state}, not pending: the rehearsal did not come to a good end"
    if evidence.failure:
        yield evidence.failure
    for run, result in (("rehearsal", evidence.rehearsal), ("second run", evidence.again)):
        if result is None:
            yield f"there was no {run}"
        elif result.failed or result.unreachable:
            yield f"{run}: failed={result.failed} unreachable={result.unreachable}"
    if evidence.again_changed is None:
        yield "nobody measured what the second run changes"
    elif evidence.again_changed:
        yield f"the second run changes {', '.join(evidence.again_paths[:5])}"
    yield from (f"unrehearsed: {name}" for name in evidence.unrehearsed)


def _residual(row: Row, task: Task, evidence: Evidence) -> None:
    seen = {
        f"{one.kind} {one.noun} {one.name}": f"{one.reason} (sandbox: {one.sandbox}; twin: {one.rehearsal})"
        for one in evidence.residual
    }
    for line, why in seen.items():
        if line in task.residual:
            row.explained += [] if line.startswith("regenerated ") else [f"{line}: {task.residual[line]}"]
        else:
            row.problems.append(f"{line}: {why}")
    row.problems += [f"expected, and not there: {line}" for line in task.residual if line not in seen]


def report(rows: Sequence[Row], keys: dict[str, str], asked: Sequence[str]) -> int:
    """The table of all that have a result; 0 when those asked for are of this code and none failed."""
    stale = {row.name for row in rows if row.key != keys[row.name]}
    cells = [[*row.cells()[:-1], row.verdict + (" (of other code)" * (row.name in stale))] for row in rows]
    show_rows(TITLES, cells, empty="no task has a result")
    for row in rows:
        for words in row.problems if row.verdict == FAILED else row.explained:
            print(f"{row.name}: {words}")
    print(_summary(rows, len(keys)))
    fresh = {row.name for row in rows if row.verdict != FAILED} - stale
    return 0 if set(asked or keys) <= fresh else 1


def _summary(rows: Iterable[Row], asked: int) -> str:
    """``34 of 36: 30 ok, 4 explained``."""
    rows = list(rows)
    counts = [(word, sum(row.verdict == word for row in rows)) for word in (OK, EXPLAINED, FAILED)]
    told = ", ".join(f"{count} {word}" for word, count in counts if count) or "none"
    return f"{len(rows)} of {asked} tasks have a result: {told}"
