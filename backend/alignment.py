"""Which lines of two texts stand beside each other. Short texts are compared exactly; long ones are held
together by the lines that are unique in both (patience diff). The work is counted: what is left when it is
used up stays one coarse run, so no pair of texts, however made, costs more than a moment."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import accumulate, pairwise

EXACT_LINES = 2_400
"""Both sides together; beyond it unique lines divide the work."""
COMPARISONS = 3_000_000
"""Of a line with a line, in all of two texts: less than 0.3 s."""

Lines = Sequence[str]
Opcode = tuple[str, int, int, int, int]
"""As difflib's: ``equal``, ``replace`` or ``coarse``, from and to in the left text, from and to in the right
one."""


def opcodes(left: Lines, right: Lines, work: Work | None = None) -> list[Opcode]:
    """Runs of lines that cover both texts in order; no two equal runs follow each other."""
    work = work or Work()
    if len(left) + len(right) <= EXACT_LINES:
        return _joined(work.between(left, right, (0, len(left), 0, len(right))))
    return _joined(_divided(left, right, work))


def coarse(run: Opcode) -> bool:
    """Whether a run may hold equal lines that nobody looked for."""
    return run[0] == "coarse"


def _divided(left: Lines, right: Lines, work: Work) -> Iterator[Opcode]:
    l1 = r1 = 0
    for l2, r2 in _anchors(left, right):
        yield from work.between(left, right, (l1, l2, r1, r2))
        yield ("equal", l2, l2 + 1, r2, r2 + 1)
        l1, r1 = l2 + 1, r2 + 1
    yield from work.between(left, right, (l1, len(left), r1, len(right)))


def _anchors(left: Lines, right: Lines) -> list[tuple[int, int]]:
    """The longest chain of lines that stand once in either text and in the same order in both."""
    once = {line for line, count in Counter(right).items() if count == 1}
    once &= {line for line, count in Counter(left).items() if count == 1}
    place = {line: at for at, line in enumerate(right) if line in once}
    pairs = [(at, place[line]) for at, line in enumerate(left) if line in once]
    ends: list[int] = []  # the lowest right place at which a chain of each length ends
    last: list[int] = []  # and the pair that ends it
    before: list[int] = []
    for index, (_, right_at) in enumerate(pairs):
        length = bisect_left(ends, right_at)
        before.append(last[length - 1] if length else -1)
        ends[length : length + 1] = [right_at]
        last[length : length + 1] = [index]
    chain = []
    index = last[-1] if last else -1
    while index >= 0:
        chain.append(pairs[index])
        index = before[index]
    return chain[::-1]


class Work:
    """What may still be compared, of two texts or of many."""

    def __init__(self, comparisons: int = COMPARISONS) -> None:
        self.left = comparisons

    def between(self, left: Lines, right: Lines, span: tuple[int, int, int, int]) -> Iterator[Opcode]:
        """One stretch: its equal beginning and end, and between them as exactly as the work allows."""
        l1, l2, r1, r2 = span
        shortest = min(l2 - l1, r2 - r1)
        head = next((at for at in range(shortest) if left[l1 + at] != right[r1 + at]), shortest)
        shortest -= head
        tail = next((at for at in range(shortest) if left[l2 - 1 - at] != right[r2 - 1 - at]), shortest)
        if head:
            yield ("equal", l1, l1 + head, r1, r1 + head)
        yield from self._compared(left, right, (l1 + head, l2 - tail, r1 + head, r2 - tail))
        if tail:
            yield ("equal", l2 - tail, l2, r2 - tail, r2)

    def _compared(self, left: Lines, right: Lines, span: tuple[int, int, int, int]) -> Iterator[Opcode]:
        """difflib's own way, longest match first, as far as the work allows."""
        l1, l2, r1, r2 = span
        if l1 == l2 or r1 == r2:
            if l1 < l2 or r1 < r2:
                yield ("replace", l1, l2, r1, r2)
            return
        there = Counter(right[r1:r2])
        upto = [0, *accumulate(there[line] for line in left[l1:l2])]
        if not upto[-1]:
            yield ("replace", l1, l2, r1, r2)
            return
        matcher = SequenceMatcher(None, left[l1:l2], right[r1:r2], autojunk=False)
        ends = (l2 - l1, r2 - r1)
        matches, missed, todo = [(0, 0, 0), (*ends, 0)], set(), [(0, ends[0], 0, ends[1])]
        while todo:
            a1, a2, b1, b2 = todo.pop()
            cost = upto[a2] - upto[a1]
            if a1 == a2 or b1 == b2 or not cost:
                continue
            if cost + a2 - a1 > self.left:
                missed.add((a1, b1))
                continue
            self.left -= cost + a2 - a1
            a, b, size = matcher.find_longest_match(a1, a2, b1, b2)
            if size:
                matches.append((a, b, size))
                todo += [(a1, a, b1, b), (a + size, a2, b + size, b2)]
        matches.sort()
        for (a, b, size), (next_a, next_b, _) in pairwise(matches):
            if size:
                yield ("equal", l1 + a, l1 + a + size, r1 + b, r1 + b + size)
            a, b = a + size, b + size
            if a < next_a or b < next_b:
                tag = "coarse" if (a, b) in missed else "replace"
                yield (tag, l1 + a, l1 + next_a, r1 + b, r1 + next_b)


def _joined(runs: Iterator[Opcode]) -> list[Opcode]:
    """Equal runs that touch made one."""
    joined: list[Opcode] = []
    for run in runs:
        if joined and run[0] == joined[-1][0] == "equal":
            joined[-1] = ("equal", joined[-1][1], run[2], joined[-1][3], run[4])
        else:
            joined.append(run)
    return joined
