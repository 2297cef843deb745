"""The first and the last line of every screen. Each is drawn only when its words change."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from fluid_tui.paint import Line, Role, Run, clip, width_of
from fluid_tui.widgets.painted import Painted


class TopBar(Painted, can_focus=False):
    """What this is on the left, how things stand on the right; the right gives way first, but for warnings
    at its end."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._left: Line = ()
        self._right: Sequence[Run] = ()
        self._warnings: Sequence[Run] = ()

    def show(self, left: Line, right: Sequence[Run], warnings: Sequence[Run] = ()) -> None:
        """``right`` is a list of facts, the most important last: the first are left out when narrow."""
        told = (left, list(right), list(warnings))
        if told != (self._left, self._right, self._warnings):
            self._left, self._right, self._warnings = told
            self._lay_out()

    def _lay_out(self) -> None:
        width = self.size.width
        if width <= 0:
            return
        facts = [*self._right, *self._warnings]
        while len(facts) > len(self._warnings) and width_of(self._left) + _joined_width(facts) + 3 > width:
            facts.pop(0)
        joined: list[Run] = []
        for fact in facts:
            joined += [(" · ", Role.MUTED)] if joined else []
            joined.append(fact)
        left = clip(((" ", Role.TEXT), *self._left), width - width_of(tuple(joined)) - 1)
        gap = width - width_of(left) - width_of(tuple(joined)) - 1
        self._replace([(*left, (" " * max(gap, 0), Role.TEXT), *joined)])


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
