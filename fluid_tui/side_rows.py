"""Rows of a side-by-side view: two texts or two sets of values, aligned, with the words that differ marked.

Pure and bounded. A row has two sides; a row of one width (heading, fact, note) has ``whole`` instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

from backend.alignment import coarse, opcodes
from backend.text import visible
from fluid_tui.paint import Line, Role, chop, line, width_of, wrap
from fluid_tui.syntax import coloured
from fluid_tui.words import plural

CONTEXT_LINES = 3
EXACT_CHARS = 400
EXACT_ROWS = 1_000
"""In a longer block nobody looks for the words that differ: its lines are marked as a whole."""
SHOWN_LINES = 20_000
TAB = 8
WORD = re.compile(r"\w+|\s+|.")
NUMBER_CELLS = 5
SIDE_CELLS = NUMBER_CELLS + 3  # number, space, sign, space
FACT_INDENT = 4


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a row: a line of a file with its number; 0 for what has none. ``kind``: of the file, for
    its colours (:mod:`fluid_tui.syntax`)."""

    number: int
    text: Line
    changed: bool
    kind: str = ""


@dataclass(frozen=True, slots=True)
class DiffRow:
    """Either ``whole``, or ``left`` and ``right`` (a missing side is None). ``alone``: of a file that has one
    side only, drawn over the full width. ``hides`` makes the rows that a fold stands for."""

    whole: Line | None = None
    left: Side | None = None
    right: Side | None = None
    alone: bool = False
    hides: Callable[[], list[DiffRow]] | None = field(default=None, compare=False)


def fact(words: str, role: Role = Role.TEXT) -> DiffRow:
    """Words of ours about a change, over the full width."""
    return DiffRow(line(("  ", Role.TEXT), (words, role)))


def value_rows(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[DiffRow]:
    """Values by name, before and after; equal ones too, or nobody would know whose the others are."""
    alone = not before or not after
    for name in dict.fromkeys((*before, *after)):
        old, new = (
            [f"{visible(name)}: {visible(values[name])}"] if name in values else []
            for values in (before, after)
        )
        if old == new:
            text = line(old[0])
            yield DiffRow(left=Side(0, text, False), right=Side(0, text, False))
        else:
            yield from (replace(row, alone=alone) for row in _replaced(old, new, -1, -1))


def text_rows(old: str, new: str, kind: str = "") -> Iterator[DiffRow]:
    """Two texts of a kind of file side by side: aligned hunks, far equal lines folded."""
    left, right = _lines_of(old), _lines_of(new)
    hunks = opcodes(left, right)
    room = SHOWN_LINES
    for at, run in enumerate(hunks):
        tag, l1, l2, r1, r2 = run
        if tag == "equal":
            yield from _equal(left, l1, l2, r1, kind, first=at == 0, last=at == len(hunks) - 1)
            continue
        if coarse(run):
            yield fact("⋯ compared coarsely: some of these lines may be equal", Role.MUTED)
        l3, r3 = min(l2, l1 + room), min(r2, r1 + room)
        yield from _replaced(left[l1:l3], right[r1:r3], l1, r1, kind)
        if (l3, r3) != (l2, r2):
            yield fact(f"… {len(left) - l3:,} and {len(right) - r3:,} more lines are not drawn", Role.WARN)
            return
        room -= max(l2 - l1, r2 - r1)


def _lines_of(text: str) -> list[str]:
    lines = [visible(each, tab=TAB) for each in text.split("\n")]
    if lines and lines[-1] == "":
        lines.pop()
    elif text:
        lines[-1] += "  ⟨no newline at the end⟩"
    return lines


def _equal(
    left: list[str], l1: int, l2: int, r1: int, kind: str, *, first: bool, last: bool
) -> Iterator[DiffRow]:
    def rows(start: int, stop: int) -> list[DiffRow]:
        texts = [line(left[l1 + at]) for at in range(start, stop)]
        return [
            DiffRow(left=Side(l1 + at + 1, text, False, kind), right=Side(r1 + at + 1, text, False, kind))
            for at, text in enumerate(texts, start)
        ]

    def folded() -> list[DiffRow]:
        beyond = stop - start - SHOWN_LINES
        more = [fact(f"… {beyond:,} more lines are not drawn", Role.WARN)] if beyond > 0 else []
        return [*rows(start, min(stop, start + SHOWN_LINES)), *more]

    count = l2 - l1
    start = 0 if first else min(CONTEXT_LINES, count)
    stop = count if last else max(count - CONTEXT_LINES, start)
    yield from rows(0, start)
    if stop > start:
        yield replace(fact(f"⋯ {plural(stop - start, 'equal line')}", Role.MUTED), hides=folded)
    yield from rows(stop, count)


def _replaced(old: list[str], new: list[str], l1: int, r1: int, kind: str = "") -> Iterator[DiffRow]:
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
            left=None if before is None else Side(l1 + at + 1, left_text, True, kind),
            right=None if after is None else Side(r1 + at + 1, right_text, True, kind),
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


def unfolded(rows: Sequence[DiffRow]) -> tuple[list[DiffRow], dict[int, int]]:
    """The same rows with the equal lines that folds stand for; old row → new row."""
    made: list[DiffRow] = []
    moved: dict[int, int] = {}
    for at, row in enumerate(rows):
        moved[at] = len(made)
        made += row.hides() if row.hides else [row]
    return made, moved


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


def folded(row: DiffRow, width: int, *, beside: bool) -> list[DiffRow]:
    """The row as several that are no wider than a view of ``width`` cells: nothing is cut off."""
    if row.whole is not None:
        return [DiffRow(part) for part in wrap(row.whole, width, FACT_INDENT)]
    room = ((width - 1) // 2 if beside and not row.alone else width) - SIDE_CELLS
    sides = [None if side is None else _chopped(side, room) for side in (row.left, row.right)]
    count = max(len(parts) for parts in sides if parts is not None)
    if count == 1:
        return [row]
    left, right = ([*(parts or ()), *[None] * (count - len(parts or ()))] for parts in sides)
    return [replace(row, left=one, right=other) for one, other in zip(left, right, strict=True)]


def _chopped(side: Side, room: int) -> list[Side]:
    """One line of a file as several; only the first has its number."""
    if width_of(side.text) <= room:
        return [side]
    first, *more = chop(coloured(side.text, side.kind), max(room, 1))
    return [replace(side, text=first, kind=""), *(Side(0, text, side.changed) for text in more)]
