"""Rows of a side-by-side view: two texts or two sets of values, aligned, with the words that differ marked.

Pure and bounded. A row has two sides; a row of one width (heading, fact, note) has ``whole`` instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from backend.alignment import COMPARISONS, Opcode, Work, coarse, opcodes
from backend.text import visible
from fluid_tui.paint import Line, Role, chop, line, width_of, wrap
from fluid_tui.syntax import coloured
from fluid_tui.words import plural

CONTEXT_LINES = 3
EXACT_CHARS = 400
EXACT_ROWS = 1_000
"""In a longer block nobody looks for the words that differ: its lines are marked as a whole."""
DOCUMENT_COMPARISONS = 10 * COMPARISONS
"""Of lines, in all files together."""
WORD_COMPARISONS = 6_000_000
"""Of words, in all files together: some 600 wide lines of a table. Less than 2 s."""
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


class Budget:
    """What may still be compared of one document, all its files together: an agent chooses them."""

    def __init__(self) -> None:
        self.lines = DOCUMENT_COMPARISONS
        self.words = Work(WORD_COMPARISONS)

    def aligned(self, left: Sequence[str], right: Sequence[str]) -> list[Opcode]:
        """One file's runs: no file takes more than its own share."""
        work = Work(min(COMPARISONS, self.lines))
        share = work.left
        runs = opcodes(left, right, work)
        self.lines -= share - work.left
        return runs


def fact(words: str, role: Role = Role.TEXT) -> DiffRow:
    """Words of ours about a change, over the full width."""
    return DiffRow(line(("  ", Role.TEXT), (words, role)))


def value_rows(
    before: Mapping[str, str], after: Mapping[str, str], budget: Budget | None = None
) -> Iterator[DiffRow]:
    """Values by name, before and after; equal ones too, or nobody would know whose the others are."""
    words = (budget or Budget()).words
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
            rows, _ = _replaced(old, new, -1, -1, "", words)
            yield from (replace(row, alone=alone) for row in rows)


def text_rows(old: str, new: str, kind: str = "", budget: Budget | None = None) -> Iterator[DiffRow]:
    """Two texts of a kind of file side by side: aligned hunks, far equal lines folded."""
    budget = budget or Budget()
    left, right = _lines_of(old), _lines_of(new)
    hunks, told = budget.aligned(left, right), False
    room = SHOWN_LINES
    for at, run in enumerate(hunks):
        tag, l1, l2, r1, r2 = run
        if tag == "equal":
            yield from _equal(left, l1, l2, r1, kind, first=at == 0, last=at == len(hunks) - 1)
            continue
        if coarse(run):
            yield fact("⋯ compared coarsely: some of these lines may be equal", Role.MUTED)
        l3, r3 = min(l2, l1 + room), min(r2, r1 + room)
        rows, all_marked = _replaced(left[l1:l3], right[r1:r3], l1, r1, kind, budget.words)
        if not (all_marked or told):
            told = True
            yield fact("⋯ too much to compare: from here on some lines are marked as a whole", Role.MUTED)
        yield from rows
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


def _replaced(
    old: list[str], new: list[str], l1: int, r1: int, kind: str, work: Work
) -> tuple[list[DiffRow], bool]:
    """Lines beside those in their place, and whether the work sufficed for the words of all."""
    rows: list[DiffRow] = []
    all_marked = True
    short = max(len(old), len(new)) <= EXACT_ROWS
    for at, (before, after) in enumerate(zip_longest(old, new)):
        left_text, right_text = line((before or "", Role.REMOVED)), line((after or "", Role.ADDED))
        if short and before is not None and after is not None and _is_read(before, after):
            marked = _words(before, after, work)
            all_marked = all_marked and marked is not None
            left_text, right_text = marked or (left_text, right_text)
        rows.append(
            DiffRow(
                left=None if before is None else Side(l1 + at + 1, left_text, True, kind),
                right=None if after is None else Side(r1 + at + 1, right_text, True, kind),
            )
        )
    return rows, all_marked


def _is_read(before: str, after: str) -> bool:
    """Whether anybody would look for the words in which these lines differ."""
    return max(len(before), len(after)) <= EXACT_CHARS


def _words(before: str, after: str, work: Work) -> tuple[Line, Line] | None:
    """Both lines with the words that differ marked, as a whole when they have little in common. None when
    there was not work enough left to find out."""
    whole = line((before, Role.REMOVED)), line((after, Role.ADDED))
    if work.left <= 0:
        return None
    old, new = WORD.findall(before), WORD.findall(after)
    work.left -= len(old) + len(new)
    runs = list(work.between(old, new, (0, len(old), 0, len(new))))
    if any(map(coarse, runs)):
        return None
    if 2 * sum(run[2] - run[1] for run in runs if run[0] == "equal") < 0.4 * (len(old) + len(new)):
        return whole
    left: list[tuple[str, Role]] = []
    right: list[tuple[str, Role]] = []
    for tag, l1, l2, r1, r2 in runs:
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
