"""Two texts side by side, within bounds: what is too long is compared coarsely, and never for long."""

from __future__ import annotations

from difflib import SequenceMatcher

from backend.models import TextHunk

FINE_LINES = 5_000


def side_by_side(before: str, after: str, context: int = 3, limit: int = 1_000) -> list[TextHunk]:
    """Runs of lines, 0-based and half-open, with ``context`` equal lines around each difference; at most
    ``limit`` runs. Equal texts give none."""
    old, new = before.splitlines(), after.splitlines()
    if old == new:
        return []
    if len(old) > FINE_LINES or len(new) > FINE_LINES:
        return _coarse(old, new, context)
    found = [
        TextHunk(tag=tag, before_from=a, before_to=b, after_from=c, after_to=d)
        for group in SequenceMatcher(None, old, new).get_grouped_opcodes(context)
        for tag, a, b, c, d in group
    ]
    return found[:limit]


def _coarse(old: list[str], new: list[str], context: int) -> list[TextHunk]:
    """What lies between the common beginning and the common end, as one run."""
    shortest = min(len(old), len(new))
    head = next((at for at in range(shortest) if old[at] != new[at]), shortest)
    tail = next((at for at in range(shortest - head) if old[-1 - at] != new[-1 - at]), shortest - head)
    old_end, new_end = len(old) - tail, len(new) - tail
    tag = "insert" if head == old_end else "delete" if head == new_end else "replace"
    before, behind = min(context, head), min(context, tail)
    runs = [
        ("equal", head - before, head, head - before, head),
        (tag, head, old_end, head, new_end),
        ("equal", old_end, old_end + behind, new_end, new_end + behind),
    ]
    return [
        TextHunk(tag=word, before_from=a, before_to=b, after_from=c, after_to=d)
        for word, a, b, c, d in runs
        if a < b or c < d
    ]
