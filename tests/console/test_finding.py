"""Finding one's way: the language of the filter, marks, order, the way back, jump mode, the layout."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backend.models import now
from fluid_tui.filters import parse
from fluid_tui.fleet_rows import FIELDS, MEASURES, Sorting, sandbox_rows
from fluid_tui.jump import labels
from tests.console.sample import fleet


def names(words: str, sorting: Sorting = Sorting.NAME, *, reverse: bool = False) -> list[str]:
    rows = sandbox_rows(fleet(), now(), words, sorting, reverse=reverse)
    return [row.cells[0][0] for row in rows]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("nginx", ["nginx-tls"]),
        ("host:kvm-01", ["dns-audit", "nginx-tls"]),
        ("host:kvm-01 -nginx", ["dns-audit"]),
        ("!host:kvm-01 -state:error", ["pg-upgrade", "tls-renew"]),
        ("state:error|paused", ["kernel-cve", "tls-renew"]),
        ("agent=script", ["tls-renew"]),
        ("agent=scr", []),
        ("ttl<30m", ["dns-audit"]),
        ("ttl>2h", ["pg-upgrade", "tls-renew"]),
        ("commands>20", ["nginx-tls"]),
        ('command:"reload nginx"', ["nginx-tls"]),
        ("host:", ["dns-audit", "kernel-cve", "nginx-tls", "pg-upgrade", "tls-renew"]),
        ("idle<", ["dns-audit", "kernel-cve", "nginx-tls", "pg-upgrade", "tls-renew"]),
        ("- !", ["dns-audit", "kernel-cve", "nginx-tls", "pg-upgrade", "tls-renew"]),
    ],
)
def test_the_filter_keeps_what_is_asked_for(words: str, found: list[str]) -> None:
    assert names(words) == found


@pytest.mark.parametrize(
    ("words", "problem"), [("hots:kvm", "no field 'hots'"), ("ttl<soon", "wants a number"), ("nginx", "")]
)
def test_what_the_filter_does_not_know_it_says(words: str, problem: str) -> None:
    found = parse(words, FIELDS, MEASURES).problem
    assert problem in found
    assert bool(problem) is bool(found)


@pytest.mark.parametrize(
    ("sorting", "first"),
    [
        (Sorting.NEED, "nginx-tls"),
        (Sorting.NAME, "dns-audit"),
        (Sorting.AGENT, "nginx-tls"),
        (Sorting.HOST, "dns-audit"),
        (Sorting.STATE, "nginx-tls"),
        (Sorting.TTL, "dns-audit"),
        (Sorting.ACTIVITY, "nginx-tls"),
    ],
)
def test_every_order_has_its_first(sorting: Sorting, first: str) -> None:
    assert names("", sorting)[0] == first
    assert names("", sorting, reverse=True) == names("", sorting)[::-1]


async def test_a_filter_that_is_not_understood_says_what_there_is(console) -> None:
    async with console(80, 24) as seen:
        await seen.press("slash", *"hots:kvm-01")
        await seen.sees("No sandbox matches: no field 'hots'; there are name, agent, host, state,")
        await seen.sees("says, command, ttl, idle, age, commands, cpu, memory.", "Escape clears the filter.")


async def test_the_order_is_shown_and_turned_round(console) -> None:
    async with console() as seen:
        await seen.press("S")
        await seen.sees("name ▾", "by name")
        await seen.press("R")
        await seen.sees("name ▴", "reversed")
        rows = [line for line in seen.lines() if "kvm-0" in line and "│" in line]
        assert "tls-renew" in rows[0]


async def test_all_shown_are_marked_and_escape_takes_the_marks_back(console) -> None:
    async with console() as seen:
        await seen.press("slash", *"host:kvm-02", "enter", "M")
        await seen.sees("3 marked")
        await seen.press("x")
        await seen.until(
            lambda: sum(call[0] == "stop" for call in seen.backend.asked) == 3, "the three are stopped"
        )
        await seen.press("escape")
        await seen.sees("dns-audit")
        await seen.press("escape")
        await seen.until(lambda: "marked" not in seen.text(), "no mark is left")
        assert seen.app.return_value is None, "the console is still there"


async def test_the_top_line_tells_the_way_and_minus_goes_back_and_forth(console) -> None:
    async with console(80, 24) as seen:
        await seen.press("minus")
        await seen.sees("There is no view before this one.")
        await seen.press("t", "d")
        await seen.sees("fluid › terminal nginx-tls › diff nginx-tls")
        await seen.press("q")
        await seen.until(lambda: "diff nginx-tls" not in seen.lines()[0], "one step back")
        await seen.press("minus")
        await seen.sees("Needs you")
        await seen.press("minus")
        await seen.sees("fluid › terminal nginx-tls")


async def test_jump_goes_to_the_row_whose_letter_is_typed(console) -> None:
    async with console(80, 24) as seen:
        await seen.press("f")
        rows = {line.split()[1]: line[1] for line in seen.lines() if "│" in line and "kvm-0" in line}
        await seen.press(rows["dns-audit"])
        await seen.sees("▌ dns-audit")
        await seen.press("f", "escape")
        await seen.sees("▌ dns-audit")
        assert seen.app.return_value is None


async def test_jump_says_what_its_keys_do_and_that_it_can_be_left(console) -> None:
    async with console(80, 24) as seen:
        await seen.press("f")
        await seen.sees("a letter goes to its row or area", "esc stays")
        await seen.press("escape")
        await seen.sees("enter open")
        assert "esc stays" not in seen.text()


async def test_jump_goes_to_an_area(console) -> None:
    async with console() as seen:
        await seen.press("enter")
        await seen.sees("Request and evidence")
        await seen.press("f")
        (line,) = [line for line in seen.lines() if "Request and evidence" in line]
        letter = line.partition("Request")[0].split()[-1]
        await seen.press(letter)
        await seen.until(lambda: seen.app.screen.focused.id == "evidence", "the evidence has the focus")
        assert f"{letter} Request" not in seen.text()


@pytest.mark.parametrize("count", [0, 3, 26, 27, 400])
def test_labels_differ_and_have_one_length(count: int) -> None:
    made = labels(count)
    assert len(set(made)) == count
    assert len({len(label) for label in made}) <= 1


async def test_the_layout_comes_back(console, tmp_path) -> None:
    file = tmp_path / "console.json"
    async with console(layout_file=file) as seen:
        await seen.press("j", "j", "o", "S", "T")
        await seen.until(lambda: "live" not in seen.text(), "the preview is hidden")
        await seen.sees("Theme fluid-light.")
    async with console(layout_file=file) as seen:
        await seen.sees("by name")
        assert "live ─" not in seen.text()
        assert seen.app.theme == "fluid-light"
        await seen.press("o")
        await seen.sees("nginx-tls · claude-1 · %3 · live")


async def test_the_list_takes_more_room_and_gives_it_back(console) -> None:
    async with console() as seen:
        await seen.sees("live")
        before = seen.app.screen.query_one("#sandboxes").size.width
        await seen.press("greater_than_sign")
        await seen.until(lambda: seen.app.screen.query_one("#sandboxes").size.width > before, "wider")
        await seen.press("less_than_sign")
        await seen.until(lambda: seen.app.screen.query_one("#sandboxes").size.width == before, "as before")


def test_a_filter_knows_time_that_ran_out() -> None:
    view = fleet()
    view.sandboxes[0].expires_at = now() - timedelta(minutes=1)
    assert [row.key for row in sandbox_rows(view, now(), "ttl<0", Sorting.NAME)] == ["SBX-00000001"]
