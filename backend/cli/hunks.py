"""Two texts as hunks of a unified diff, or with the words that differ marked. The cost is bounded: a long
stretch without a line in common is one block, and says so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher

from backend.alignment import Opcode, coarse, opcodes

CONTEXT_LINES = 3
SHOWN_LINES = 20_000
WORDS_CHARS = 400
_WORD = re.compile(r"\w+|\s+|.")
_NO_NEWLINE = "\\ no newline at the end"


def hunks(before: str, after: str, *, words: bool = False) -> Iterator[str]:
    """Lines to print. ``words``: a line that changed stands once, as ``~a [-old-]{+new+}``."""
    left, right = _lines(before), _lines(after)
    told = 0
    for group in _grouped(opcodes(left, right)):
        first, last = group[0], group[-1]
        l1, l2, r1, r2 = first[1], last[2], first[3], last[4]
        rough = ", compared coarsely" if any(map(coarse, group)) else ""
        yield f"@@ -{_span(l1, l2)} +{_span(r1, r2)} @@{rough}"
        for run in group:
            for line in _run(run, left, right, words):
                told += 1
                if told > SHOWN_LINES:
                    yield f"… more than {SHOWN_LINES} lines, the rest is not shown"
                    return
                yield line


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    else:
        lines[-1] += f"\n{_NO_NEWLINE}"
    return lines


def _span(start: int, end: int) -> str:
    """As diff(1) writes it: an empty side names the line before."""
    return f"{start + 1 if end > start else start},{end - start}"


def _grouped(runs: list[Opcode]) -> Iterator[list[Opcode]]:
    """Runs with a little context around each change; far equal lines part the groups."""
    group: list[Opcode] = []
    for at, (tag, l1, l2, r1, r2) in enumerate(runs):
        if tag != "equal":
            group.append((tag, l1, l2, r1, r2))
            continue
        lead, trail = min(CONTEXT_LINES, l2 - l1), min(CONTEXT_LINES, l2 - l1)
        if group and at + 1 < len(runs) and l2 - l1 <= 2 * CONTEXT_LINES:
            group.append((tag, l1, l2, r1, r2))
            continue
        if group:
            yield [*group, (tag, l1, l1 + lead, r1, r1 + lead)]
        group = [(tag, l2 - trail, l2, r2 - trail, r2)] if at + 1 < len(runs) else []
    if group:
        yield group


def _run(run: Opcode, left: list[str], right: list[str], words: bool) -> Iterator[str]:
    tag, l1, l2, r1, r2 = run
    if tag == "equal":
        yield from (f" {line}" for line in left[l1:l2])
        return
    if words and l2 - l1 == r2 - r1:
        marked = [_marked(old, new) for old, new in zip(left[l1:l2], right[r1:r2], strict=True)]
        if all(marked):
            yield from (f"~{line}" for line in marked)
            return
    yield from (f"-{line}" for line in left[l1:l2])
    yield from (f"+{line}" for line in right[r1:r2])


def _marked(before: str, after: str) -> str:
    """One line with the words that went and came; empty where the two have little in common."""
    if max(len(before), len(after)) > WORDS_CHARS:
        return ""
    old, new = _WORD.findall(before), _WORD.findall(after)
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < 0.4:
        return ""
    told = []
    for tag, l1, l2, r1, r2 in matcher.get_opcodes():
        gone, come = "".join(old[l1:l2]), "".join(new[r1:r2])
        if tag == "equal":
            told.append(gone)
        else:
            told.append((f"[-{gone}-]" if gone else "") + (f"{{+{come}+}}" if come else ""))
    return "".join(told)
