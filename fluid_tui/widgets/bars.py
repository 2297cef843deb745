"""The first and the last line of every screen. Each is drawn only when its words change."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from fluid_tui.paint import Line, Role, Run, clip, width_of
from fluid_tui.widgets.painted import Painted

LEAST_LEFT = 16
"""Cells of the left that are kept where what is wrong takes the rest."""
WEIGHTS = {Role.MUTED: 0, Role.ACCENT: 1, Role.WARN: 2, Role.BAD: 3}


class TopBar(Painted, can_focus=False):
    """What this is on the left, how things stand on the right. What is as it should be gives way first, then
    the end of the left; what is wrong stays."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._left: Line = ()
        self._right: list[Run] = []
        self._warnings: tuple[list[Run], list[Run]] = ([], [])

    def show(
        self, left: Line, right: Sequence[Run], warnings: Sequence[Run] = (), short: Sequence[Run] = ()
    ) -> None:
        """``right`` is a list of facts; of one weight the first are left out first. ``short``: the warnings
        behind them where there is little room."""
        told = (left, list(right), (list(warnings), list(short)))
        if told != (self._left, self._right, self._warnings):
            self._left, self._right, self._warnings = told
            self._lay_out()

    def _lay_out(self) -> None:
        width = self.size.width
        if width <= 0:
            return
        warnings, short = self._warnings
        facts, whole = [*self._right, *warnings], width_of(self._left)
        while any(role is Role.MUTED for _, role in facts) and whole + _joined_width(facts) + 3 > width:
            facts.remove(_lightest(facts))
        least = min(whole, LEAST_LEFT)
        if least + _joined_width(facts) + 3 > width:
            facts = [*(fact for fact in facts if fact not in warnings), *short]
        while len(facts) > 1 and least + _joined_width(facts) + 3 > width:
            facts.remove(_lightest(facts))
        joined: list[Run] = []
        for fact in facts:
            joined += [(" · ", Role.MUTED)] if joined else []
            joined.append(fact)
        right = clip(tuple(joined), width - 2)
        left = clip(((" ", Role.TEXT), *self._left), width - width_of(right) - 2)
        gap = width - width_of(left) - width_of(right) - 1
        self._replace([(*left, (" " * max(gap, 0), Role.TEXT), *right)])


def _lightest(facts: Sequence[Run]) -> Run:
    return min(facts, key=lambda fact: WEIGHTS.get(fact[1], 0) if isinstance(fact[1], Role) else 0)


def _joined_width(facts: Sequence[Run]) -> int:
    return sum(cell_len(text) for text, _ in facts) + 3 * max(0, len(facts) - 1)


class KeyBar(Painted, can_focus=False):
    """The keys that matter here, as many as fit; the rest is behind ``?``."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._keys: list[tuple[str, str]] = []
        self._kept = 1

    def show(self, keys: Sequence[tuple[str, str]], kept: int = 1) -> None:
        """Pairs of key and word, the most important first; the last ``kept`` have their place before them."""
        if (list(keys), kept) != (self._keys, self._kept):
            self._keys, self._kept = list(keys), kept
            self._lay_out()

    def _lay_out(self) -> None:
        if not self._keys:
            return
        first, last = self._keys[: -self._kept], self._keys[-self._kept :]
        room = self.size.width - 2 - sum(map(_pair_width, last))
        runs: list[Run] = [(" ", Role.TEXT)]
        for pair in first:
            if (room := room - _pair_width(pair)) < 0:
                break
            runs += _pair(pair)
        self._replace([(*runs, *(run for pair in last for run in _pair(pair)))])


def _pair(pair: tuple[str, str]) -> list[Run]:
    return [(pair[0], Role.ACCENT), (f" {pair[1]}  ", Role.MUTED)]


def _pair_width(pair: tuple[str, str]) -> int:
    return cell_len(pair[0]) + cell_len(pair[1]) + 3
