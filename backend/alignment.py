"""Which lines of two texts stand beside each other. Short texts are compared exactly; long ones are held
together by the lines that are unique in both (patience diff), so that no file costs its length squared."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

EXACT_LINES = 2_400
"""Both sides together; beyond it difflib may be quadratic, and unique lines divide the work."""
EXACT_BETWEEN = 400
"""The same for what lies between two of them: there may be many such places."""

Lines = Sequence[str]
Opcode = tuple[str, int, int, int, int]
"""As difflib's: ``equal`` or anything else, from and to in the left text, from and to in the right one."""


def opcodes(left: Lines, right: Lines) -> list[Opcode]:
    """Runs of lines that cover both texts in order; no two equal runs follow each other."""
    if len(left) + len(right) <= EXACT_LINES:
        return _between(left, right, (0, len(left), 0, len(right)), EXACT_LINES)
    return _joined(_divided(left, right))


def coarse(run: Opcode) -> bool:
    """Whether a run may hold equal lines that nobody looked for."""
    tag, l1, l2, r1, r2 = run
    return tag != "equal" and l1 < l2 and r1 < r2 and l2 - l1 + r2 - r1 > EXACT_BETWEEN


def _divided(left: Lines, right: Lines) -> Iterator[Opcode]:
    l1 = r1 = 0
    for l2, r2 in _anchors(left, right):
        yield from _between(left, right, (l1, l2, r1, r2), EXACT_BETWEEN)
        yield ("equal", l2, l2 + 1, r2, r2 + 1)
        l1, r1 = l2 + 1, r2 + 1
    yield from _between(left, right, (l1, len(left), r1, len(right)), EXACT_BETWEEN)


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


def _between(left: Lines, right: Lines, span: tuple[int, int, int, int], exact: int) -> list[Opcode]:
    """One stretch: compared exactly if it is short, else its equal beginning and end and one block."""
    l1, l2, r1, r2 = span
    if l1 == l2 or r1 == r2:
        return [("replace", l1, l2, r1, r2)] if l1 < l2 or r1 < r2 else []
    if l2 - l1 + r2 - r1 <= exact:
        matcher = SequenceMatcher(None, left[l1:l2], right[r1:r2], autojunk=False)
        return [(tag, l1 + a, l1 + b, r1 + c, r1 + d) for tag, a, b, c, d in matcher.get_opcodes()]
    shortest = min(l2 - l1, r2 - r1)
    head = next((at for at in range(shortest) if left[l1 + at] != right[r1 + at]), shortest)
    shortest -= head
    tail = next((at for at in range(shortest) if left[l2 - 1 - at] != right[r2 - 1 - at]), shortest)
    runs = [
        ("equal", l1, l1 + head, r1, r1 + head),
        ("replace", l1 + head, l2 - tail, r1 + head, r2 - tail),
        ("equal", l2 - tail, l2, r2 - tail, r2),
    ]
    return [run for run in runs if run[1] < run[2] or run[3] < run[4]]


def _joined(runs: Iterator[Opcode]) -> list[Opcode]:
    """Equal runs that touch made one."""
    joined: list[Opcode] = []
    for run in runs:
        if joined and run[0] == joined[-1][0] == "equal":
            joined[-1] = ("equal", joined[-1][1], run[2], joined[-1][3], run[4])
        else:
            joined.append(run)
    return joined
