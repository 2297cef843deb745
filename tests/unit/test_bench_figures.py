"""The harness of the benchmarks: percentiles that were measured, bars that are kept, a generated table."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import BadRequest
from tests.bench.figures import Bar, Figure, figure, into_page, load, percentile_95, save, show


@pytest.mark.parametrize(
    ("samples", "least", "p95"),
    [
        (range(100, 0, -1), False, 95),
        (range(100, 0, -1), True, 6),
        ([3.0, 1.0, 2.0], False, 3.0),
        ([3.0, 1.0, 2.0], True, 1.0),
        ([7.0], False, None),
    ],
)
def test_the_95th_percentile_is_a_sample(samples: list[float], least: bool, p95: float | None) -> None:
    assert percentile_95(samples, least=least) == p95


@pytest.mark.parametrize(
    ("bar", "samples", "holds"),
    [
        (Bar(p50=10, p95=20), [9, 10, 20], True),
        (Bar(p50=10, p95=20), [9, 10, 21], False),
        (Bar(p50=10, p95=20), [9, 11, 12], False),
        (Bar(p50=100, least=True), [99, 100, 101], True),
        (Bar(p50=100, least=True), [98, 99, 101], False),
        (Bar(p95=20), [1], False),  # one reading has no percentile
        (None, [1], None),
    ],
)
def test_a_bar_holds_for_every_number_that_it_names(
    bar: Bar | None, samples: list[float], holds: bool | None
) -> None:
    assert figure("one", samples, "ms", "how", bar).holds is holds


def test_how_says_how_often() -> None:
    assert "; 3 times, " in figure("one", [1, 2, 3], "ms", "emulated").how
    assert "; once, " in figure("one", [1], "ms", "emulated").how


FIGURES = [
    Figure("list", 9.25, 18.0, "ms", "≤ 10, ≤ 20 p95", True, "a|b"),
    Figure("verify", 246_000.0, None, "rows/s", None, None, "once"),
]


def test_figures_are_kept_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(FIGURES, tmp_path / "figures.json")
    assert load(tmp_path / "figures.json") == FIGURES
    show(FIGURES)
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[1][:6] == ["list", "9.25", "18", "ms", "≤ 10, ≤ 20 p95", "holds"]
    assert rows[2][1:6] == ["246,000", "", "rows/s", "", ""]
    assert rows[3:] == [["list: a|b"], ["verify: once"], ["1 of 1 bars hold"]]


PAGE = "above\n<!-- figures -->\nformer\n<!-- /figures -->\nbelow\n"
SLOW = Figure("start", 3.0, 4.5, "s", "≤ 2", False, "emulated; once")


def test_a_page_keeps_all_but_its_table() -> None:
    page = into_page(PAGE, FIGURES)
    assert page.startswith("above\n<!-- figures -->\n| what ")
    assert page.endswith("|\n\nAll 1 bars hold.\n<!-- /figures -->\nbelow\n")
    assert "former" not in page
    assert "| list | 9.25 ms | 18 ms | ≤ 10, ≤ 20 p95 | holds | a\\|b |" in page
    assert into_page(page, FIGURES) == page


def test_a_page_of_a_few_names_every_bar_that_does_not_hold() -> None:
    page = into_page(PAGE, [*FIGURES, SLOW], ["verify", "start"])
    table, _, said = page.partition("\n\n")
    assert table.splitlines()[2:] == [
        "| what | p50 | p95 | bar |  |",
        "| --- | ---: | ---: | --- | --- |",
        "| verify | 246,000 rows/s |  |  |  |",
        "| start | 3 s | 4.5 s | ≤ 2 | DOES NOT HOLD |",
    ]
    assert said.startswith("Emulated, without KVM: start.\n\n")
    assert "**1 of 2 bars do not hold:**\n\n- start: 3 s, p95 4.5 s; the bar is ≤ 2\n" in said


def test_what_is_no_place_for_figures_or_no_figure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no place"):
        into_page("<!-- figures --> and no end", FIGURES)
    (tmp_path / "other.json").write_text('[{"name": "x"}]')
    with pytest.raises(BadRequest, match="holds no figures"):
        load(tmp_path / "other.json")
