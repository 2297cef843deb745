"""A recording plays in the console: by keys, through the sanitiser, and silent when it stands still."""

from __future__ import annotations

import pytest

from backend.models import now
from fluid_tui.screens.replay import ReplayScreen
from fluid_tui.widgets.replay_view import ReplayView
from tests.console.fake_backend import FakeBackend
from tests.console.sample import audit_rows

SIZES = [(80, 24), (160, 48)]


def marked() -> FakeBackend:
    """The newest thing in the timeline is a recording that began."""
    backend = FakeBackend()
    last = audit_rows(now())[-1]
    mark = {"seq": 11, "action": "recording.start", "step": "note", "id": "REC-0000000a", "data": {}}
    backend.rows.append(last.model_copy(update=mark))
    return backend


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_enter_on_a_mark_of_the_timeline_plays_that_recording(console, width: int, height: int) -> None:
    async with console(width, height, backend=marked()) as seen:
        await seen.press("l")
        await seen.sees("▶ recording.start")
        await seen.press("enter")
        await seen.sees("replay nginx-tls", "nginx-tls · %1", "the older one", "its middle is gone")
        await seen.press("full_stop")
        await seen.sees("nginx-tls · %3", "green words", "recording 2 of 2")
        await seen.press("escape", "r")
        await seen.sees("nginx-tls · %3")


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_keys_pause_seek_skip_and_change_the_speed(console, width: int, height: int) -> None:
    async with console(width, height) as seen:
        await seen.app.push_screen(ReplayScreen("SBX-00000001"))
        await seen.sees("green words", "of 1 m 02 s", "pauses cut to 2 s")
        await seen.press("end")
        await seen.sees("last words", "end · ", "not recorded for a moment")
        await seen.press("home", "space")
        await seen.sees("paused · ", "first words")
        assert "last words" not in seen.text()
        await seen.press("home", "s", "plus", "plus")
        await seen.sees("of 155 m 00 s", "pauses as they were")
        await seen.press("right")
        await seen.sees("paused · 5.0 s", "green words")
        await seen.press("space")
        await seen.sees("4x · ")
        await seen.press("less_than_sign")
        await seen.sees("2x · ")


async def test_what_a_guest_printed_acts_on_nothing(console) -> None:
    async with console() as seen:
        await seen.app.push_screen(ReplayScreen("SBX-00000001"))
        await seen.sees("green words", "fluid · approved ✓")
        assert all(line.isprintable() for line in seen.lines())
        view = seen.app.screen.query_one(ReplayView)
        assert "52;c" not in seen.text(), "a command to the terminal is passed over"
        assert view.region.y > 0 and "fluid ›" in seen.lines()[0], "its words stay inside its border"


async def test_a_film_that_stands_still_or_is_out_of_sight_costs_nothing(console) -> None:
    async with console() as seen:
        await seen.app.push_screen(ReplayScreen("SBX-00000001"))
        await seen.sees("green words")
        view = seen.app.screen.query_one(ReplayView)
        await seen.press("space")
        assert view.paused and view._timer is None
        await seen.press("space", "question_mark")
        await seen.until(lambda: view.paused, "it stops when another screen is over it")


async def test_no_recording_and_a_lost_backend_are_said(console) -> None:
    async with console() as seen:
        await seen.app.push_screen(ReplayScreen("SBX-00000002"))
        await seen.sees("No terminal of this sandbox was recorded.")
        await seen.press("escape")
        await seen.app.push_screen(ReplayScreen("SBX-00000001", "REC-ffffffff"))
        await seen.sees("That recording is no longer kept.")
        await seen.press("escape")
        seen.backend.down = True
        await seen.app.push_screen(ReplayScreen("SBX-00000001"))
        await seen.sees("no backend listens")


async def test_the_command_line_plays_a_sandbox(console) -> None:
    async with console() as seen:
        await seen.press("colon", *"sandbox nginx-tls replay", "enter")
        await seen.sees("replay nginx-tls", "green words")
