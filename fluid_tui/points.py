"""Which two points of a sandbox are worth comparing, and what the comparison leaves out. Pure.

A restore makes the snapshots a tree: the newest is then no longer what the sandbox came from, and no pair of
snapshots says what the sandbox is now.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from backend.models import Phase, Sandbox, Snapshot
from fluid_tui.paint import Line, Role, line, said

NOW = "now"
READABLE = (Phase.RUNNING, Phase.PAUSED, Phase.STOPPED)
"""The phases in which the sandbox can be read as it is."""


class Points(NamedTuple):
    """Each snapshot with the one that it was made from, oldest first; last the one that the sandbox stands on
    with the present. ``first`` is the pair to begin with."""

    pairs: tuple[tuple[str, str], ...]
    first: int
    stands_on: str
    worked_on: bool

    def words(self, before: str, after: str) -> Line:
        """How far a pair is the sandbox as it is."""
        if after == NOW:
            return line(("The sandbox as it is, since ", Role.MUTED), said(before, Role.MUTED))
        stands = said(self.stands_on, Role.MUTED)
        if after != self.stands_on:
            return line(("Not the sandbox as it is: it stands on ", Role.WARN), stands)
        since = "was worked on since" if self.worked_on else "no command ran since"
        return line(("The sandbox stands on ", Role.MUTED), stands, (f", {since}", Role.MUTED))


def points(snapshots: Sequence[Snapshot], sandbox: Sandbox, last_output_at: datetime | None = None) -> Points:
    """The points of a sandbox with one snapshot or more. ``last_output_at``: when its terminal last moved."""
    ordered = sorted(snapshots, key=lambda one: one.created_at)
    known = {one.name: one for one in ordered}
    stands = known.get(sandbox.stands_on or "", ordered[-1])
    pairs = [
        (one.parent if one.parent in known else earlier.name, one.name)
        for earlier, one in itertools.pairwise(ordered)
    ]
    made = next((number for number, (_, name) in enumerate(pairs) if name == stands.name), len(pairs))
    pairs.append((stands.name, NOW))
    moved = [at for at in (sandbox.last_activity_at, last_output_at) if at]
    worked_on = stands is not ordered[-1] or any(at > stands.created_at for at in moved)
    present = len(pairs) - 1
    readable = present if worked_on else made
    first = readable if sandbox.phase in READABLE else min(made, max(present - 1, 0))
    return Points(tuple(pairs), first, stands.name, worked_on)
