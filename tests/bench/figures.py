"""A figure: what was measured, on what, how often, and whether it holds. Nothing here measures."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from backend.cli.common import show_rows
from backend.errors import BadRequest

START_MARK, END_MARK = "<!-- figures -->", "<!-- /figures -->"
TITLES = ("name", "p50", "p95", "unit", "bar", "holds")
PAGE_TITLES = ("what", "p50", "p95", "bar", "", "how")
ALIGNED = ("---", "---:", "---:", "---", "---", "---")


@dataclass(frozen=True)
class Bar:
    """The most that the median and the 95th percentile may be; with ``least`` the least that they must be."""

    p50: float | None = None
    p95: float | None = None
    least: bool = False

    def holds(self, p50: float, p95: float | None) -> bool:
        pairs = [(p50, self.p50), (p95, self.p95)]
        return all(_kept(seen, bar, self.least) for seen, bar in pairs if bar is not None)

    def __str__(self) -> str:
        sign = "≥" if self.least else "≤"
        named = (("", self.p50), (" p95", self.p95))
        return ", ".join(f"{sign} {number(bar)}{name}" for name, bar in named if bar is not None)


@dataclass(frozen=True)
class Figure:
    """``value`` is the median. ``p95``: 95 of 100 were as good as that or better; None for one reading.
    ``bar`` and ``holds`` are None where nothing was promised."""

    name: str
    value: float
    p95: float | None
    unit: str
    bar: str | None
    holds: bool | None
    how: str


def figure(name: str, samples: Sequence[float], unit: str, how: str, bar: Bar | None = None) -> Figure:
    """The figure of these samples; ``how`` is completed by their number and the machine's cores."""
    value, p95 = statistics.median(samples), percentile_95(samples, least=bar is not None and bar.least)
    times = "once" if len(samples) == 1 else f"{len(samples):,} times"
    return Figure(
        name=name,
        value=_rounded(value),
        p95=None if p95 is None else _rounded(p95),
        unit=unit,
        bar=str(bar) if bar else None,
        holds=bar.holds(value, p95) if bar else None,
        how=f"{how}; {times}, {os.cpu_count()} cores",
    )


def percentile_95(samples: Sequence[float], *, least: bool = False) -> float | None:
    """The sample that 95 of 100 do not exceed (nearest rank: one that was measured); with ``least`` the one
    that 95 of 100 reach. None for a single sample."""
    if len(samples) < 2:
        return None
    worst_last = sorted(samples, reverse=least)
    return worst_last[math.ceil(0.95 * len(samples)) - 1]


def show(figures: Sequence[Figure]) -> None:
    """A table on a terminal, tab-separated lines elsewhere; then how each was measured, and how many hold."""
    show_rows(TITLES, [_cells(one)[:-1] for one in figures], empty="nothing was measured")
    for one in figures:
        print(f"{one.name}: {one.how}")
    barred = [one for one in figures if one.holds is not None]
    print(f"{sum(one.holds is True for one in barred)} of {len(barred)} bars hold")


def save(figures: Sequence[Figure], file: Path) -> None:
    """Write the list as JSON."""
    file.write_text(json.dumps([asdict(one) for one in figures], indent=1, ensure_ascii=False) + "\n")


def load(file: Path) -> list[Figure]:
    """What :func:`save` wrote. Raises :class:`BadRequest` for anything else."""
    try:
        return [Figure(**row) for row in json.loads(file.read_bytes())]
    except (OSError, ValueError, TypeError) as error:
        raise BadRequest(
            f"{file} holds no figures: {error}", remedy=f"./fluid bench all --json {file}"
        ) from error


def into_page(page: str, figures: Sequence[Figure], names: Sequence[str] = ()) -> str:
    """A Markdown page with what stands between its two marks made anew: the table of all ``figures``, or of
    ``names`` alone, without how they were measured; then which bars of all do not hold. Raises
    :class:`BadRequest` without the marks."""
    before, start, rest = page.partition(START_MARK)
    _, end, after = rest.partition(END_MARK)
    if not start or not end:
        raise BadRequest("the page has no place for figures", remedy=f"put {START_MARK} and {END_MARK} there")
    shown = [one for one in figures if one.name in names] if names else figures
    columns = len(PAGE_TITLES) - bool(names)
    rows = [PAGE_TITLES[:columns], ALIGNED[:columns], *(_page_cells(one)[:columns] for one in shown)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    emulated = ", ".join(one.name for one in shown if "emulated" in one.how) if names else ""
    words = f"Emulated, without KVM: {emulated}.\n\n" if emulated else ""
    return f"{before}{START_MARK}\n{table}\n\n{words}{verdict(figures)}\n{END_MARK}{after}"


def verdict(figures: Sequence[Figure]) -> str:
    """How many bars hold, and by name those that do not."""
    barred = [one for one in figures if one.holds is not None]
    failed = [one for one in barred if not one.holds]
    if not failed:
        return f"All {len(barred)} bars hold."
    lines = [f"**{len(failed)} of {len(barred)} bars do not hold:**\n"]
    for one in failed:
        name, p50, p95, bar, *_ = _page_cells(one)
        lines.append(f"- {name}: {p50}{f', p95 {p95}' if p95 else ''}; the bar is {bar}")
    return "\n".join(lines)


def _page_cells(one: Figure) -> tuple[str, ...]:
    name, p50, p95, unit, bar, holds, how = (cell.replace("|", "\\|") for cell in _cells(one))
    unit = f" {unit}" if unit else ""
    return (name, p50 + unit, p95 and p95 + unit, bar, holds, how)


def number(value: float) -> str:
    """Three digits that count, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _cells(one: Figure) -> tuple[str, ...]:
    holds = {True: "holds", False: "DOES NOT HOLD", None: ""}[one.holds]
    p95 = "" if one.p95 is None else number(one.p95)
    return (one.name, number(one.value), p95, one.unit, one.bar or "", holds, one.how)


def _kept(seen: float | None, bar: float, least: bool) -> bool:
    """A percentile that a single reading does not have is not kept: measure more often."""
    if seen is None:
        return False
    return seen >= bar if least else seen <= bar


def _rounded(value: float) -> float:
    """Four digits that count: more were not measured."""
    return float(f"{value:.4g}")
