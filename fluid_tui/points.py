"""Which two points of a sandbox, or of two, are worth comparing, and what the comparison leaves out. Pure.

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

Pair = tuple[str, str]
"""The names of an earlier and of a later point."""
NOW = "now"
READABLE = (Phase.RUNNING, Phase.PAUSED, Phase.STOPPED)
"""The phases in which the sandbox can be read as it is."""


class Points(NamedTuple):
    """Each snapshot with the one that it was made from, oldest first; last the one that the sandbox stands on
    with the present. ``first`` is the pair to begin with."""

    pairs: tuple[Pair, ...]
    first: int
    stands_on: str
    worked_on: bool
    names: tuple[str, ...] = (NOW,)  # all points, oldest first

    @property
    def begin(self) -> Pair:
        """The pair to begin with."""
        return self.pairs[self.first]

    def has(self, pair: Pair) -> bool:
        """Whether both points are there."""
        return set(pair) <= set(self.names)

    def step(self, pair: Pair, by: int) -> Pair | None:
        """The pair ``by`` steps on in :attr:`pairs`, by its later point; None where there is none."""
        later = [after for _, after in self.pairs]
        at = later.index(pair[1]) + by
        return self.pairs[at] if 0 <= at < len(later) else None

    def since(self, pair: Pair, by: int) -> Pair | None:
        """The same later point with an earlier point that is ``by`` steps on; None where there is none."""
        before, after = (self.names.index(name) for name in pair)
        return (self.names[before + by], pair[1]) if 0 <= before + by < after else None

    def words(self, before: str, after: str) -> Line:
        """How far a pair is the sandbox as it is."""
        if after == NOW:
            return line(("The sandbox as it is, since ", Role.MUTED), said(before, Role.MUTED))
        stands = said(self.stands_on, Role.MUTED)
        if after != self.stands_on:
            return line(("Not the sandbox as it is: it stands on ", Role.WARN), stands)
        since = "was worked on since" if self.worked_on else "no command ran since"
        return line(("The sandbox stands on ", Role.MUTED), stands, (f", {since}", Role.MUTED))


class TwoPoints(NamedTuple):
    """The points of two sandboxes, each one's oldest first and the present last. Any two can be compared;
    ``begin`` is the pair to begin with: both as they are, as far as that can be read."""

    names: tuple[str, str]
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    begin: Pair

    def has(self, pair: Pair) -> bool:
        """Whether both points are there."""
        return pair[0] in self.ours and pair[1] in self.theirs

    def step(self, pair: Pair, by: int) -> Pair | None:
        """Another point of the second one, ``by`` steps on; None where there is none."""
        at = self.theirs.index(pair[1]) + by
        return (pair[0], self.theirs[at]) if 0 <= at < len(self.theirs) else None

    def since(self, pair: Pair, by: int) -> Pair | None:
        """Another point of the first one, ``by`` steps on; None where there is none."""
        at = self.ours.index(pair[0]) + by
        return (self.ours[at], pair[1]) if 0 <= at < len(self.ours) else None

    def words(self, before: str, after: str) -> Line:
        """How the signs are meant."""
        one, other = self.names
        return line(("What ", Role.MUTED), said(other), (" has otherwise than ", Role.MUTED), said(one))


def two_points(
    one: tuple[Sandbox, Sequence[Snapshot]], other: tuple[Sandbox, Sequence[Snapshot]]
) -> TwoPoints | None:
    """The points of two sandboxes with their snapshots; None if one of them has none that can be read."""
    sides: list[tuple[str, ...]] = []
    for sandbox, snapshots in (one, other):
        ordered = sorted(snapshots, key=lambda snapshot: snapshot.created_at)
        present = (NOW,) if sandbox.phase in READABLE else ()
        sides.append((*(snapshot.name for snapshot in ordered), *present))
    ours, theirs = sides
    if not ours or not theirs:
        return None
    names = (one[0].sandbox_name, other[0].sandbox_name)
    return TwoPoints(names, ours, theirs, (ours[-1], theirs[-1]))


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
    names = (*(one.name for one in ordered), NOW)
    return Points(tuple(pairs), first, stands.name, worked_on, names)
