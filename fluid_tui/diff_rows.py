"""Changes as rows of a side-by-side view: pure, bounded, and complete: what is not drawn is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from backend.file_rights import words as right_words
from backend.models import (
    FROM_DISK,
    Changes,
    ChangeVerb,
    FileChange,
    FileKind,
    FileState,
    GroupChange,
    PackageChange,
    RunningChange,
    RunningChanges,
    RunningKind,
    SettingChange,
    UnitChange,
    UnitState,
    UserChange,
    how_read,
)
from backend.text import visible
from fluid_tui.paint import BLANK, Line, Role, line, said
from fluid_tui.side_rows import Budget, DiffRow, fact, text_rows, value_rows
from fluid_tui.syntax import kind_of
from fluid_tui.words import SETTINGS, plural

VERBS = {
    ChangeVerb.ADDED: ("+", "added", Role.GOOD),
    ChangeVerb.REMOVED: ("-", "removed", Role.BAD),
    ChangeVerb.MODIFIED: ("~", "modified", Role.WARN),
    ChangeVerb.METADATA: ("~", "owner, mode or names", Role.WARN),
}
SIGNS = "+~>-!"
MOVED = (">", "renamed", Role.WARN)
BAD = ("!", "failed", Role.BAD)
PORTS, UNITS = RUNNING = ("Listening", "Running")
KINDS = (
    "Packages",
    "Services",
    "Users",
    "Groups",
    *(title for title, _ in SETTINGS.values()),
    *RUNNING,
    "Files",
)


@dataclass(frozen=True, slots=True)
class Item:
    """One change in the tree: its kind, its sign, its name, and the row where it starts. ``was``: the name of
    a renamed file before."""

    key: str
    kind: str
    sign: str
    name: str
    role: Role
    row: int
    was: str = ""


@dataclass(slots=True)
class DiffDocument:
    """All rows of a set of changes, with the items of its tree."""

    rows: list[DiffRow] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    budget: Budget = field(default_factory=Budget)

    def add(
        self,
        kind: str,
        verb: ChangeVerb,
        name: str,
        extra: str,
        rows: Iterable[DiffRow],
        *,
        key: str = "",
        was: str = "",
        bad: bool = False,
    ) -> None:
        """One change: heading, rows, an empty line."""
        sign, word, role = BAD if bad else MOVED if was else VERBS[verb]
        self.items.append(Item(key or f"{kind} {name}", kind, sign, name, role, len(self.rows), was))
        shown = f"{visible(was)} → {visible(name)}" if was else visible(name)
        self.rows.append(
            DiffRow(line((f"{sign} ", role), (shown, Role.TITLE), (f"  {word}{extra}", Role.MUTED)))
        )
        self.rows.extend(rows)
        self.rows.append(DiffRow(BLANK))


def document(changes: Changes, *, noise: bool = False) -> DiffDocument:
    """The changes by kind. With ``noise`` also what the noise profile hides, and each file that a package
    brought; without it such files are counted in one line a package."""
    made = DiffDocument()
    for package in changes.packages:
        made.add("Packages", package.verb, package.name, "", _package(package))
    for unit in changes.units:
        made.add("Services", unit.verb, unit.name, _by(unit.package), _unit(unit))
    for user in changes.users:
        made.add("Users", user.verb, user.name, _by(user.package), _facts(user))
    for group in changes.groups:
        made.add("Groups", group.verb, group.name, _by(group.package), _facts(group))
    _add_settings(made, changes, noise)
    if changes.running:
        _add_running(made, changes.running, noise)
    _add_files(made, changes, noise)
    if not made.rows:
        made.rows.append(DiffRow(line(("No change.", Role.MUTED))))
    if changes.running:
        made.rows += [DiffRow(line(said(note, Role.WARN))) for note in changes.running.notes]
    return made


def _add_settings(made: DiffDocument, changes: Changes, noise: bool) -> None:
    """What the files state, by kind; of one name there may be several."""
    for kind, (heading, _) in SETTINGS.items():
        for number, one in enumerate(changes.settings):
            if one.kind is kind and (noise or not (one.hidden or one.package)):
                key = f"{heading} {number}"
                made.add(heading, one.verb, one.name, _extra(one), _setting(one, made.budget), key=key)


def _add_running(made: DiffDocument, running: RunningChanges, noise: bool) -> None:
    """What listens and runs, each under the word of who told it; with ``noise`` also what stayed."""
    for one in running.changes:
        kind = PORTS if one.kind is RunningKind.PORT else UNITS
        label = f" · {how_read(running.read_from)}"
        made.add(kind, one.verb, one.name, label, _sides(one), bad=one.is_bad)
    for name, words in running.same().items() if noise else ():
        stayed = f"as before: {visible(f'{name} {words}')} · {how_read(running.read_from)}"
        made.rows.append(DiffRow(line((stayed, Role.MUTED))))


def _sides(change: RunningChange) -> Iterator[DiffRow]:
    if change.before:
        yield fact(f"- {visible(change.before)}", Role.REMOVED)
    if change.after:
        yield fact(f"+ {visible(change.after)}", Role.ADDED)


def _add_files(made: DiffDocument, changes: Changes, noise: bool) -> None:
    shown = {
        change.path: change for change in changes.files if noise or not (change.hidden or change.package)
    }
    for change in shown.values():
        if change.renamed_to not in shown:
            old = shown.get(change.renamed_from)
            before = old.before if old else change.before
            rows = _file(before, change.after, kind_of(change.path), made.budget)
            made.add("Files", change.verb, change.path, _extra(change), rows, was=change.renamed_from)
    brought = Counter(change.package for change in changes.files if change.package and not change.hidden)
    for owner, count in sorted(brought.items() if not noise else ()):
        made.rows.append(
            DiffRow(line((f"{count} files of package {visible(owner)}, as it brings them (i)", Role.MUTED)))
        )


def _extra(change: FileChange | SettingChange) -> str:
    return _by(change.package) + (f" · hidden as {visible(change.hidden)}" if change.hidden else "")


def _setting(change: SettingChange, budget: Budget) -> Iterator[DiffRow]:
    yield from value_rows(change.before, change.after, budget)
    if change.paths:
        yield fact("in " + ", ".join(visible(path) for path in change.paths), Role.MUTED)


def _by(package: str) -> str:
    return f" · by package {visible(package)}" if package else ""


def _package(change: PackageChange) -> Iterator[DiffRow]:
    wanted = "asked for by name" if change.wanted else "pulled in by another package"
    if change.before_version:
        yield fact(f"- {visible(change.before_version)}", Role.REMOVED)
    if change.after_version:
        yield fact(f"+ {visible(change.after_version)}", Role.ADDED)
    yield fact(f"{wanted} {visible(change.arch)}".rstrip(), Role.MUTED)


def _unit(change: UnitChange) -> Iterator[DiffRow]:
    if change.verb is not ChangeVerb.ADDED:
        yield fact(f"- {_unit_words(change.before)}", Role.REMOVED)
    if change.verb is not ChangeVerb.REMOVED:
        yield fact(f"+ {_unit_words(change.after)}", Role.ADDED)


def _unit_words(state: UnitState) -> str:
    words = ["enabled" if state.enabled else "not enabled"]
    words += ["masked"] if state.masked else []
    return ", ".join([*words, "defined" if state.defined else "not defined"])


def _facts(change: UserChange | GroupChange) -> Iterator[DiffRow]:
    for name in sorted({*change.before, *change.after}):
        before, after = change.before.get(name), change.after.get(name)
        if before == after and change.verb is ChangeVerb.MODIFIED:
            continue
        if before is not None:
            yield fact(f"- {visible(name)}: {visible(before)}", Role.REMOVED)
        if after is not None:
            yield fact(f"+ {visible(name)}: {visible(after)}", Role.ADDED)


def _file(before: FileState | None, after: FileState | None, kind: str, budget: Budget) -> Iterator[DiffRow]:
    old, new = _state_facts(before), _state_facts(after)
    for name in dict.fromkeys((*old, *new)):
        if old.get(name, "") == new.get(name, ""):
            continue
        if old.get(name):
            yield fact(f"- {name}: {old[name]}", Role.REMOVED)
        if new.get(name):
            yield fact(f"+ {name}: {new[name]}", Role.ADDED)
    yield from _content(before, after, kind, budget)


def _state_facts(state: FileState | None) -> dict[str, str]:
    """All that can be said of a file besides its text, in words."""
    if state is None:
        return {}
    facts = {
        "kind": state.kind.value if state.kind is not FileKind.FILE else "",
        "owner": f"{visible(state.owner or str(state.uid))}:{visible(state.group or str(state.gid))}",
        "mode": f"{state.mode:04o}",
    }
    if state.target is not None:
        facts["points to"] = visible(state.target)
    if state.same_file:
        facts["one file with"] = ", ".join(map(visible, state.same_file))
    facts |= {
        f"xattr {visible(name)}": visible(right_words(name, value)) for name, value in state.xattrs.items()
    }
    if state.certificate:
        facts |= {f"certificate {visible(name)}": visible(text) for name, text in state.certificate.items()}
    if state.text is None and state.sha256:
        facts["size"] = f"{state.size:,} bytes"
        facts["sha256"] = "withheld" if state.secret else state.sha256
    return facts


def _content(
    before: FileState | None, after: FileState | None, kind: str, budget: Budget
) -> Iterator[DiffRow]:
    sides = [state for state in (before, after) if state is not None]
    secret = next((state.secret for state in sides if state.secret), "")
    if any(state.secret and state.text is None for state in sides):
        yield fact(f"content withheld: {visible(secret)}", Role.WARN)
        return
    if secret:
        yield fact(f"{visible(secret)} in it are not shown", Role.WARN)
    old = before.text if before and before.text is not None else None
    new = after.text if after and after.text is not None else None
    if old is None and new is None:
        if any(state.sha256 and state.size for state in sides):
            yield fact("content not shown: binary or too large; size and hash above", Role.MUTED)
        return
    if old is None or new is None:
        yield from (replace(row, alone=True) for row in text_rows(old or "", new or "", kind, budget))
    elif old != new:
        yield from text_rows(old, new, kind, budget)
    elif secret and before and after and before.sha256 != after.sha256:
        yield fact("only a secret value changed", Role.WARN)


def folder_of(path: str) -> str:
    """The folder under which a file stands in the tree."""
    return str(PurePosixPath(path).parent)


def summary(changes: Changes) -> str:
    """``12 files, 2 packages with 58 files, 1 user``: what packages brought is counted with them."""
    brought = sum(bool(change.package) for change in changes.listed())
    stated = [one for one in changes.settings if not one.hidden and not one.package]
    ran = [one.kind for one in changes.running.changes] if changes.running else []
    counts = (
        (len(changes.listed()) - brought, "file", ""),
        (len(changes.packages), "package", f" with {plural(brought, 'file')}" if brought else ""),
        (len(changes.units), "service", ""),
        (len(changes.users), "user", ""),
        (len(changes.groups), "group", ""),
        (len(stated), "setting", ""),
        (ran.count(RunningKind.PORT), "port", ""),
        (ran.count(RunningKind.UNIT), "running unit", ""),
    )
    return ", ".join(plural(count, noun) + more for count, noun, more in counts if count) or "no change"


def header_line(changes: Changes, before: str, after: str) -> Line:
    """What is compared, from ``before`` to ``after``, and how it was read."""
    how = how_read(changes.read_from)
    quiet = "file systems frozen" if changes.quiesced else "not frozen: files may be half written"
    hidden = sum(changes.hidden.values())
    return line(
        said(before, Role.TITLE),
        (" → ", Role.MUTED),
        said(after, Role.TITLE),
        (f"  {summary(changes)}", Role.TEXT),
        (
            f"  · {how}, {quiet}",
            Role.MUTED if changes.read_from == FROM_DISK and changes.quiesced else Role.WARN,
        ),
        (f"  · {hidden} hidden as noise" if hidden else "", Role.MUTED),
    )
