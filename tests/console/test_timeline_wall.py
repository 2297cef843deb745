"""The past, and several agents at once."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import pairwise
from time import monotonic

import pytest

from backend.errors import DatabaseDown
from backend.models import FleetView, PaneScreen, now
from fluid_tui.screens.wall import CELL_HEIGHT, CELL_WIDTH, MAX_PANES, WallPane, grid_of
from fluid_tui.timeline_rows import clock_words, entries
from fluid_tui.widgets.pane_view import APART_S, TOGETHER
from tests.console.fake_backend import FakeBackend
from tests.console.sample import audit_rows, fleet

SIZES = [(80, 24), (120, 36)]


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_the_timeline_is_newest_first_with_intent_and_outcome_in_one_line(
    console, width: int, height: int
) -> None:
    async with console(width, height) as seen:
        await seen.press("l")
        await seen.sees("fluid › timeline nginx-tls", "chain holds, 812 rows")
        await seen.sees(
            "$ command.run", "nginx -t · ex", "✗ snapshot.create", "! approval.request", "under way"
        )
        lines = [line for line in seen.lines() if "agent1" in line and ":" in line[:24]]
        told = [line.split("agent1")[1].split()[1] for line in lines]
        assert told[:2] == [
            "sandbox.pause",
            "approval.request",
        ]
        assert sum("sandbox.create" in line for line in lines) == 1
        assert all(line.isprintable() for line in seen.lines())
        assert ("audit", "SBX-00000001", 500) in seen.backend.asked


async def test_an_entry_shows_all_of_it_and_a_command_its_output(console) -> None:
    async with console() as seen:
        await seen.press("l")
        await seen.sees("! approval.request")
        await seen.press("j", "j", "j", "j")
        await seen.sees("command     nginx -t", "exit_code   1")
        await seen.press("enter")
        await seen.sees("stderr", "nginx: [emerg] unknown directive")
        await seen.press("home", "enter")
        await seen.sees("Only a command, a request or a")
        await seen.press("j", "enter")
        await seen.sees("review 4f2a", "Evidence")


async def test_the_timeline_of_all_says_whose_each_line_is_and_that_of_one_does_not_repeat_it(
    console,
) -> None:
    async with console(80, 24) as seen:
        await seen.press("l")
        await seen.sees("$ command.run       nginx -t · exit 1", "sandbox     nginx-tls  SBX-00000001")
        await seen.press("a")
        await seen.sees("$ command.run       nginx-tls      nginx -t · exit 1")


async def test_the_timeline_narrows_and_shows_all_sandboxes(console) -> None:
    async with console() as seen:
        await seen.press("l", "slash", *"what:command -said:nginx", "enter")
        await seen.until(lambda: "approval.request" not in seen.text(), "filtered")
        await seen.sees("echo", "filter: what:command -said:nginx")
        await seen.press("escape")
        await seen.sees("approval.request")
        await seen.press("a")
        await seen.sees("fluid › timeline all")
        assert ("audit", None, 500) in seen.backend.asked


async def test_what_happens_now_shows_at_once(console) -> None:
    async with console() as seen:
        await seen.press("l")
        await seen.sees("! approval.request")
        await seen.backend.tell("approval.changed", "APR-4f2a19c3", state="applying")
        await seen.press("a")
        await seen.sees("approval.changed", "state applying")


def _row(backend: FakeBackend, action: str) -> None:
    """One more row of the audit, of which no event tells."""
    last = backend.rows[-1]
    more = {"seq": last.seq + 1, "at": now(), "action": action, "sandbox_id": "SBX-00000001", "step": "note"}
    backend.rows.append(last.model_copy(update=more))


def _readings(backend: FakeBackend) -> int:
    return sum(one[0] == "audit" for one in backend.asked)


async def test_what_happens_during_a_reading_is_read_after_it(console, monkeypatch) -> None:
    monkeypatch.setattr("fluid_tui.screens.timeline.REREAD_S", 3600)
    async with console() as seen:
        await seen.press("l")
        await seen.sees("! approval.request")
        seen.backend.may_answer.clear()
        before = _readings(seen.backend)
        await seen.backend.tell("approval.changed", "APR-4f2a19c3")
        await seen.until(lambda: _readings(seen.backend) > before, "a reading")
        _row(seen.backend, "run.start")
        await seen.backend.tell("approval.changed", "APR-4f2a19c3")
        await seen.pilot.pause(0.1)
        seen.backend.may_answer.set()
        await seen.sees("run.start")


async def test_what_no_event_tells_of_shows_after_a_while(console, monkeypatch) -> None:
    monkeypatch.setattr("fluid_tui.screens.timeline.REREAD_S", 0.3)
    async with console() as seen:
        await seen.press("l")
        await seen.sees("! approval.request")
        _row(seen.backend, "egress.refuse")
        await seen.sees("egress.refuse")


async def test_the_audit_is_not_read_for_noise_nor_behind_another_screen(console, monkeypatch) -> None:
    monkeypatch.setattr("fluid_tui.screens.timeline.REREAD_S", 3600)
    async with console() as seen:
        await seen.press("l")
        await seen.sees("! approval.request")
        before = _readings(seen.backend)
        for kind in ("pane.changed", "run.event"):
            await seen.backend.tell(kind, "X-1")
        await seen.pilot.pause(1)
        assert _readings(seen.backend) == before
        await seen.press("question_mark")
        _row(seen.backend, "run.start")
        await seen.backend.tell("approval.changed", "APR-4f2a19c3")
        await seen.pilot.pause(1)
        assert _readings(seen.backend) == before
        await seen.press("escape")
        await seen.sees("run.start")


async def test_where_the_list_ends_is_said(console, monkeypatch) -> None:
    monkeypatch.setattr("fluid_tui.screens.timeline.PAGE_ROWS", 4)
    monkeypatch.setattr("fluid_tui.screens.timeline.PAGE_MAX", 4)
    async with console() as seen:
        await seen.press("l")
        await seen.sees("newest 4 rows")
        await seen.press("o")
        await seen.sees("These are the newest 4 rows.")


async def test_a_database_that_is_down_is_said(console, monkeypatch) -> None:
    async def down(**_: object) -> None:
        raise DatabaseDown("PostgreSQL does not answer", remedy="look at it: fluid doctor")

    async with console() as seen:
        monkeypatch.setattr(seen.backend, "audit", down)
        await seen.press("l")
        await seen.sees("PostgreSQL does not answer. look at it: fluid doctor")


def test_an_old_intent_has_lost_its_outcome() -> None:
    at = now()
    rows = audit_rows(at)
    made = entries(rows, [])
    assert [one.what for one in made][:2] == ["sandbox.pause", "approval.request"]
    assert len(made) == 6
    assert made[0].step == "intent"


def test_a_day_is_named_when_it_is_not_today() -> None:
    at = now()
    assert clock_words(at, at).count(":") == 2
    assert clock_words(at - timedelta(days=3), at).count(":") == 0


def many_panes(count: int) -> FleetView:
    view = fleet()
    one, pane = view.sandboxes[2], view.panes[0]
    for number in range(count):
        id = f"SBX-000002{number:02x}"
        view.sandboxes.append(one.model_copy(update={"id": id, "sandbox_name": f"many-{number}"}))
        view.panes.append(pane.model_copy(update={"pane_id": f"%{100 + number}", "sandbox_id": id}))
    return view


def busy(view: FleetView) -> FakeBackend:
    backend = FakeBackend(view)
    backend.panes |= {pane.pane_id: [f"shell of {pane.pane_id}", "\x1b[2Jwiped?"] for pane in view.panes[2:]}
    return backend


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_the_wall_shows_several_terminals(console, width: int, height: int) -> None:
    async with console(width, height) as seen:
        await seen.press("w")
        await seen.sees(
            "fluid › wall · 2 live terminals", "! asks · nginx-tls · claude-1", "! asks · pg-upgrade"
        )
        await seen.sees("systemctl reload nginx", "15  main 5433 online")
        assert all(len(line) <= width for line in seen.lines())


async def test_the_wall_has_pages_and_follows_only_what_is_seen(console) -> None:
    async with console(80, 24, backend=busy(many_panes(8))) as seen:
        await seen.press("w")
        await seen.sees("10 live terminals · page 1 of 2", "shell of %100", "␛[2Jwiped?")
        followed = {call[1] for call in seen.backend.asked if call[0] == "pane_stream"}
        assert len(followed) == 6
        await seen.press("pagedown")
        await seen.sees("page 2 of 2", "shell of %107")
        await seen.press("q")
        await seen.until(
            lambda: not [one for one in seen.app.workers if one.group == "pane" and one.is_running],
            "nothing is followed any more",
        )


async def test_terminals_that_print_at_once_are_painted_a_few_at_a_time(console, monkeypatch) -> None:
    async with console(80, 24, backend=busy(many_panes(8))) as seen:
        await seen.press("w")
        await seen.sees("10 live terminals", "shell of %100")
        await seen.until(lambda: all(one.lines for one in seen.app.screen.query(WallPane)), "all painted")
        slots: list[float] = []
        set_timer = WallPane.set_timer

        def spied(view, delay, call, **more):
            slots.append(WallPane._slot)
            return set_timer(view, delay, call, **more)

        monkeypatch.setattr(WallPane, "set_timer", spied)
        seen.backend.painted.set()
        await seen.until(lambda: len(slots) >= 5, "all but the first wait for their turn")
        assert max(Counter(slots).values()) <= TOGETHER
        assert all(after - before >= APART_S - 1e-6 for before, after in pairwise(sorted(set(slots))))


@pytest.mark.parametrize("under_way", [True, False])
async def test_what_a_key_sets_off_comes_before_what_a_terminal_printed(
    console, monkeypatch, under_way: bool
) -> None:
    async with console() as seen:
        await seen.press("w")
        await seen.sees("systemctl reload nginx")
        monkeypatch.setattr(type(seen.app), "key_under_way", under_way)
        view = seen.app.screen.query(WallPane).first()
        view._newest, view._painted_at = PaneScreen(rows=["after the key"]), monotonic()
        view._paint_behind_keys()
        assert ("after the key" in view.taken()[1]) is not under_way
        await seen.sees("after the key")  # keys that never end hold nothing up for ever


async def test_enter_opens_the_terminal_under_the_focus(console) -> None:
    async with console() as seen:
        await seen.press("w")
        await seen.sees("pg_lsclusters")
        await seen.press("right", "enter")
        await seen.sees("› terminal pg-upgrade")
        await seen.press("q")
        await seen.sees("nginx-tls · claude-1", "pg_lsclusters", "systemctl reload nginx")


async def test_the_wall_takes_the_filter_of_the_fleet(console) -> None:
    async with console() as seen:
        await seen.press("slash", *"agent:claude-2", "enter", "w")
        await seen.sees("wall agent:claude-2 · 1 live terminal", "pg_lsclusters")
        await seen.press("q", "colon", *"wall", "space", *"codex", "enter")
        await seen.sees("No agent has a terminal open that matches.")


@pytest.mark.parametrize(
    ("panes", "width", "height"), [(0, 80, 22), (1, 80, 22), (7, 160, 46), (99, 200, 58)]
)
def test_no_pane_of_the_wall_is_too_small(panes: int, width: int, height: int) -> None:
    columns, rows = grid_of(panes, width, height)
    assert width // columns >= CELL_WIDTH
    assert height // rows >= CELL_HEIGHT
    assert columns * rows >= min(panes, MAX_PANES, (width // CELL_WIDTH) * (height // CELL_HEIGHT))
