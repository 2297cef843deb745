"""Changes as rows of a side-by-side view: pure, bounded, and complete: what is not drawn is named.

A row has two sides; a row of one width (heading, fact, note) has ``whole`` instead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from pathlib import PurePosixPath

from backend.alignment import opcodes
from backend.models import (
    FROM_DISK,
    Changes,
    ChangeVerb,
    FileChange,
    FileKind,
    FileState,
    GroupChange,
    PackageChange,
    UnitChange,
    UnitState,
    UserChange,
    how_read,
)
from backend.text import visible
from fluid_tui.paint import BLANK, Line, Role, line, said
from fluid_tui.words import plural

CONTEXT_LINES = 3
EXACT_CHARS = 400
EXACT_ROWS = 1_000
"""In a longer block nobody looks for the words that differ: its lines are marked as a whole."""
SHOWN_LINES = 20_000
TAB = 8
WORD = re.compile(r"\w+|\s+|.")
VERBS = {
    ChangeVerb.ADDED: ("+", "added", Role.GOOD),
    ChangeVerb.REMOVED: ("-", "removed", Role.BAD),
    ChangeVerb.MODIFIED: ("~", "modified", Role.WARN),
    ChangeVerb.METADATA: ("~", "owner or mode", Role.WARN),
}
KINDS = ("Packages", "Services", "Users", "Groups", "Files")


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a row: a line of a file with its number."""

    number: int
    text: Line
    changed: bool


@dataclass(frozen=True, slots=True)
class DiffRow:
    """Either ``whole``, or ``left`` and ``right`` (a missing side is None). ``alone``: of a file that has one
    side only, drawn over the full width."""

    whole: Line | None = None
    left: Side | None = None
    right: Side | None = None
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """One change in the tree: its kind, its sign, its name, and the row where it starts."""

    key: str
    kind: str
    sign: str
    name: str
    role: Role
    row: int
    hidden: str = ""


@dataclass(slots=True)
class DiffDocument:
    """All rows of a set of changes, with the items of its tree."""

    rows: list[DiffRow] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)

    def add(
        self, key: str, kind: str, verb: ChangeVerb, name: str, extra: str, rows: Iterable[DiffRow]
    ) -> None:
        """One change: heading, rows, an empty line."""
        sign, word, role = VERBS[verb]
        self.items.append(Item(key, kind, sign, name, role, len(self.rows)))
        shown = visible(name)
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
        made.add(f"package {package.name}", "Packages", package.verb, package.name, "", _package(package))
    for unit in changes.units:
        made.add(f"unit {unit.name}", "Services", unit.verb, unit.name, _by(unit.package), _unit(unit))
    for user in changes.users:
        made.add(f"user {user.name}", "Users", user.verb, user.name, _by(user.package), _facts(user))
    for group in changes.groups:
        made.add(f"group {group.name}", "Groups", group.verb, group.name, _by(group.package), _facts(group))
    brought = Counter(change.package for change in changes.files if change.package and not change.hidden)
    for change in changes.files:
        if (change.hidden or change.package) and not noise:
            continue
        extra = _by(change.package) + (f" · hidden as {visible(change.hidden)}" if change.hidden else "")
        made.add(f"file {change.path}", "Files", change.verb, change.path, extra, _file(change))
    for owner, count in sorted(brought.items() if not noise else ()):
        made.rows.append(
            DiffRow(line((f"{count} files of package {visible(owner)}, as it brings them (i)", Role.MUTED)))
        )
    if not made.rows:
        made.rows.append(DiffRow(line(("No change.", Role.MUTED))))
    return made


def _by(package: str) -> str:
    return f" · by package {visible(package)}" if package else ""


def _fact(words: str, role: Role = Role.TEXT) -> DiffRow:
    return DiffRow(line(("  ", Role.TEXT), (words, role)))


def _package(change: PackageChange) -> Iterator[DiffRow]:
    wanted = "asked for by name" if change.wanted else "pulled in by another package"
    if change.before_version:
        yield _fact(f"- {visible(change.before_version)}", Role.REMOVED)
    if change.after_version:
        yield _fact(f"+ {visible(change.after_version)}", Role.ADDED)
    yield _fact(f"{wanted} {visible(change.arch)}".rstrip(), Role.MUTED)


def _unit(change: UnitChange) -> Iterator[DiffRow]:
    if change.verb is not ChangeVerb.ADDED:
        yield _fact(f"- {_unit_words(change.before)}", Role.REMOVED)
    if change.verb is not ChangeVerb.REMOVED:
        yield _fact(f"+ {_unit_words(change.after)}", Role.ADDED)


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
            yield _fact(f"- {visible(name)}: {visible(before)}", Role.REMOVED)
        if after is not None:
            yield _fact(f"+ {visible(name)}: {visible(after)}", Role.ADDED)


def _file(change: FileChange) -> Iterator[DiffRow]:
    before, after = change.before, change.after
    old, new = _state_facts(before), _state_facts(after)
    for name in dict.fromkeys((*old, *new)):
        if old.get(name, "") == new.get(name, ""):
            continue
        if old.get(name):
            yield _fact(f"- {name}: {old[name]}", Role.REMOVED)
        if new.get(name):
            yield _fact(f"+ {name}: {new[name]}", Role.ADDED)
    yield from _content(before, after)


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
    facts |= {f"xattr {visible(name)}": visible(value) for name, value in state.xattrs.items()}
    if state.certificate:
        facts |= {f"certificate {visible(name)}": visible(text) for name, text in state.certificate.items()}
    if state.text is None and state.sha256:
        facts["size"] = f"{state.size:,} bytes"
        facts["sha256"] = "withheld" if state.secret else state.sha256[:16] + "…"
    return facts


def _content(before: FileState | None, after: FileState | None) -> Iterator[DiffRow]:
    for state in (before, after):
        if state is not None and state.secret:
            yield _fact(f"content withheld: {visible(state.secret)}", Role.WARN)
            return
    old = before.text if before and before.text is not None else None
    new = after.text if after and after.text is not None else None
    if old is None and new is None:
        if any(state is not None and state.sha256 and state.size for state in (before, after)):
            yield _fact("content not shown: binary or too large; size and hash above", Role.MUTED)
        return
    if old is None or new is None:
        yield from (replace(row, alone=True) for row in text_rows(old or "", new or ""))
    elif old != new:
        yield from text_rows(old, new)


def text_rows(old: str, new: str) -> Iterator[DiffRow]:
    """Two texts side by side: aligned hunks, far equal lines folded."""
    left, right = _lines_of(old), _lines_of(new)
    hunks = opcodes(left, right)
    room = SHOWN_LINES
    for at, (tag, l1, l2, r1, r2) in enumerate(hunks):
        if tag == "equal":
            yield from _equal(left, l1, l2, r1, first=at == 0, last=at == len(hunks) - 1)
            continue
        l3, r3 = min(l2, l1 + room), min(r2, r1 + room)
        yield from _replaced(left[l1:l3], right[r1:r3], l1, r1)
        if (l3, r3) != (l2, r2):
            yield _fact(f"… {len(left) - l3:,} and {len(right) - r3:,} more lines are not drawn", Role.WARN)
            return
        room -= max(l2 - l1, r2 - r1)


def _lines_of(text: str) -> list[str]:
    lines = [visible(each, tab=TAB) for each in text.split("\n")]
    if lines and lines[-1] == "":
        lines.pop()
    elif text:
        lines[-1] += "  ⟨no newline at the end⟩"
    return lines


def _equal(left: list[str], l1: int, l2: int, r1: int, *, first: bool, last: bool) -> Iterator[DiffRow]:
    count = l2 - l1
    head = 0 if first else CONTEXT_LINES
    tail = 0 if last else CONTEXT_LINES
    shown = [*range(min(head, count)), *range(max(count - tail, min(head, count)), count)]
    folded = count - len(shown)
    for at in shown:
        if folded and at >= head:
            yield _fact(f"⋯ {folded} equal lines", Role.MUTED)
            folded = 0
        text = line(left[l1 + at])
        yield DiffRow(left=Side(l1 + at + 1, text, False), right=Side(r1 + at + 1, text, False))
    if folded:
        yield _fact(f"⋯ {folded} equal lines", Role.MUTED)


def _replaced(old: list[str], new: list[str], l1: int, r1: int) -> Iterator[DiffRow]:
    rows = max(len(old), len(new))
    for at in range(rows):
        before = old[at] if at < len(old) else None
        after = new[at] if at < len(new) else None
        marked = None
        if before is not None and after is not None and rows <= EXACT_ROWS:
            marked = _words(before, after)
        left_text = marked[0] if marked else line((before or "", Role.REMOVED))
        right_text = marked[1] if marked else line((after or "", Role.ADDED))
        yield DiffRow(
            left=None if before is None else Side(l1 + at + 1, left_text, True),
            right=None if after is None else Side(r1 + at + 1, right_text, True),
        )


def _words(before: str, after: str) -> tuple[Line, Line] | None:
    """Both lines with the words that differ marked; None when they have little in common."""
    if max(len(before), len(after)) > EXACT_CHARS:
        return None
    old, new = WORD.findall(before), WORD.findall(after)
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < 0.4:
        return None
    left: list[tuple[str, Role]] = []
    right: list[tuple[str, Role]] = []
    for tag, l1, l2, r1, r2 in matcher.get_opcodes():
        same = tag == "equal"
        if l2 > l1:
            left.append(("".join(old[l1:l2]), Role.REMOVED if same else Role.REMOVED_WORD))
        if r2 > r1:
            right.append(("".join(new[r1:r2]), Role.ADDED if same else Role.ADDED_WORD))
    return tuple(left), tuple(right)


def unified(rows: Iterable[DiffRow]) -> tuple[list[DiffRow], dict[int, int]]:
    """The same rows one under the other, removed lines of a block before added ones; old row → new row."""
    made: list[DiffRow] = []
    added: list[DiffRow] = []
    moved: dict[int, int] = {}
    for at, row in enumerate(rows):
        changed = row.whole is None and bool(
            (row.left and row.left.changed) or (row.right and row.right.changed)
        )
        if not changed:
            made += added
            added = []
        moved[at] = len(made)
        if not changed:
            made.append(row if row.whole is not None else DiffRow(left=row.left, right=row.right))
            continue
        if row.left is not None:
            made.append(DiffRow(left=row.left))
        if row.right is not None:
            added.append(DiffRow(right=row.right))
    return made + added, moved


def folder_of(path: str) -> str:
    """The folder under which a file stands in the tree."""
    return str(PurePosixPath(path).parent)


def summary(changes: Changes) -> str:
    """``12 files, 2 packages with 58 files, 1 user``: what packages brought is counted with them."""
    brought = sum(bool(change.package) for change in changes.shown())
    counts = (
        (len(changes.shown()) - brought, "file", ""),
        (len(changes.packages), "package", f" with {plural(brought, 'file')}" if brought else ""),
        (len(changes.units), "service", ""),
        (len(changes.users), "user", ""),
        (len(changes.groups), "group", ""),
    )
    return ", ".join(plural(count, noun) + more for count, noun, more in counts if count) or "no change"


def header_line(changes: Changes) -> Line:
    """What is compared, and how it was read."""
    how = how_read(changes.read_from)
    quiet = "file systems frozen" if changes.quiesced else "not frozen: files may be half written"
    hidden = sum(changes.hidden.values())
    return line(
        said(changes.from_snapshot, Role.TITLE),
        (" → ", Role.MUTED),
        said(changes.to_snapshot, Role.TITLE),
        (f"  {summary(changes)}", Role.TEXT),
        (
            f"  · {how}, {quiet}",
            Role.MUTED if changes.read_from == FROM_DISK and changes.quiesced else Role.WARN,
        ),
        (f"  · {hidden} hidden as noise" if hidden else "", Role.MUTED),
    )
