"""Old state is never shown as new: missed events, a backend that was away, ages on a quiet screen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from time import monotonic

import pytest
from textual.widgets import Input

from backend.client.call import noun
from backend.errors import BackendDown, DatabaseDown
from backend.models import ApprovalState, Component, Event, FleetView, PaneScreen, now
from tests.console.fake_backend import FakeBackend
from tests.console.sample import APPROVAL_ID


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mirror.HEARTBEAT_S", "mirror.RETRY_S", "screens.terminal.AGAIN_S", "screens.wall.AGAIN_S"):
        monkeypatch.setattr(f"fluid_tui.{name}", 0.05)


async def test_a_review_reads_anew_when_events_were_missed(console) -> None:
    async with console() as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        seen.backend.approve_state(ApprovalState.VOIDED, outcome="production moved")
        await seen.backend.stream.put(Event.missed(seen.backend.view.seq))
        await seen.sees("✗ voided", "production moved")
        assert "Ready:" not in seen.text()


async def test_a_review_takes_the_fleets_word_that_it_is_newer(console) -> None:
    async with console() as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        seen.backend.approve_state(ApprovalState.EXPIRED, updated_at=now() + timedelta(seconds=1))
        await seen.backend.tell("host.changed", "kvm-01")
        await seen.until(lambda: "Ready:" not in seen.text(), "no old state")
        await seen.sees("○ expired")


async def test_a_review_of_a_lost_backend_says_so_decides_nothing_and_mends_itself(console) -> None:
    async with console() as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        seen.backend.down = True
        await seen.sees("✗ As it was at ", "the backend does not answer.")
        assert "Ready:" not in seen.text()
        await seen.press("a")
        await seen.sees("what you see may be old")
        assert not seen.app.screen.query(Input)
        seen.backend.approve_state(ApprovalState.REJECTED, outcome="not today")
        seen.backend.down = False
        await seen.sees("✗ rejected", "not today")
        assert "As it was" not in seen.text()


async def test_a_flood_of_events_does_not_keep_a_review_from_being_read(console) -> None:
    async with console() as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        seen.backend.approve_state(ApprovalState.REJECTED, outcome="in the flood")

        async def flood() -> None:
            while True:
                await seen.backend.tell("approval.changed", APPROVAL_ID)
                await asyncio.sleep(0.05)

        flooding = asyncio.create_task(flood())
        try:
            await seen.sees("in the flood")
            assert not flooding.done()
        finally:
            flooding.cancel()


async def test_the_commands_of_a_review_go_on_while_it_is_open_and_none_is_left_out(console) -> None:
    backend = FakeBackend()
    backend.ran_before = 150
    async with console(backend=backend) as seen:
        await seen.press("enter", "5")
        await seen.sees("true 1 ")  # they are read: `end` has an end to go to
        await seen.press("end")
        await seen.sees("true 149", "nginx -t")
        backend.ran_before = 151
        await backend.tell("command.ended", "CMD-1", sandbox_id="SBX-00000001")
        await seen.sees("true 150")


class CutBackend(FakeBackend):
    """Its pane streams end at once while ``cut``."""

    cut = False

    async def pane_screens(self, pane_id: str) -> AsyncIterator[PaneScreen]:
        if self.cut:
            self.asked.append(("pane_stream", pane_id))
            raise BackendDown("the connection broke", remedy="")
        async for shown in super().pane_screens(pane_id):
            yield shown
            if self.cut:
                raise BackendDown("the connection broke", remedy="")


async def test_a_terminal_whose_stream_was_cut_is_followed_again(console) -> None:
    backend = CutBackend()
    async with console(backend=backend) as seen:
        await seen.press("t")
        await seen.sees("%3 · live")
        backend.cut = True
        backend.painted.set()
        await seen.sees("%3 · ended", "the connection broke")
        backend.panes["%3"].append("root@nginx-tls:~# after the break")
        backend.cut = False
        await seen.sees("%3 · live", "after the break")


async def test_a_wall_of_cut_streams_does_not_knock_without_rest(console, monkeypatch) -> None:
    monkeypatch.setattr("fluid_tui.screens.wall.AGAIN_S", 60.0)
    backend = CutBackend()
    async with console(backend=backend) as seen:
        await seen.press("w")
        await seen.sees("15  main 5433 online")
        backend.cut = True
        backend.asked.clear()
        backend.painted.set()
        await seen.pilot.pause(0.3)
        assert len([call for call in backend.asked if call[0] == "pane_stream"]) <= 2


async def test_a_lost_backend_leaves_what_the_panes_showed_last(console) -> None:
    async with console() as seen:
        await seen.sees("systemctl reload nginx")
        seen.backend.down = True
        await seen.sees("✗ backend not reachable")
        seen.app.screen._tick()
        await seen.pilot.pause(0.3)
        assert "%3 · live" not in seen.text()
        await seen.sees("systemctl reload nginx", "%3 · lost")


async def test_ages_and_the_clock_move_on_when_nothing_happens(console, monkeypatch) -> None:
    monkeypatch.setattr("fluid_tui.screens.base.TICK_S", 0.05)
    async with console() as seen:
        await seen.press("enter")
        await seen.sees("3 m ago, 12m left")
        monkeypatch.setattr("fluid_tui.screens.review.now", lambda: now() + timedelta(minutes=2))
        await seen.sees("5 m ago, 10m left")


@pytest.mark.parametrize(
    ("keys", "words", "done"),
    [
        (["j", "j", "d"], "Comparing before with after …", "read from the disk"),
        (["exclamation_mark", "exclamation_mark"], "Pausing every sandbox …", "No apply starts"),
    ],
)
async def test_long_work_says_for_how_long(
    console, monkeypatch, keys: list[str], words: str, done: str
) -> None:
    monkeypatch.setattr("fluid_tui.screens.base.TICK_S", 0.05)
    monkeypatch.setattr("fluid_tui.app.PANIC_S", 60.0)
    async with console() as seen:
        seen.backend.may_answer.clear()
        await seen.press(*keys)
        await seen.sees(words)
        for screen in ("diff", "panic"):
            monkeypatch.setattr(f"fluid_tui.screens.{screen}.monotonic", lambda: monotonic() + 25)
        await seen.sees(f"{words} for 20 s")
        seen.backend.may_answer.set()
        await seen.sees(done)
        assert words not in seen.text()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 48)])
async def test_what_takes_long_is_told_on_every_screen_until_it_is_over(
    console, monkeypatch, width: int, height: int
) -> None:
    monkeypatch.setattr("fluid_tui.screens.base.TICK_S", 0.05)
    async with console(width, height) as seen:
        seen.backend.may_answer.clear()
        await seen.press("j", "j", "x")
        await seen.until(lambda: ("stop", "SBX-00000001") in seen.backend.asked, "asked for")
        assert "stopping" not in seen.lines()[0], "not for a moment"
        await seen.until(lambda: "◌ stopping nginx-tls · ! 2 need you" in seen.lines()[0], "under way")
        await seen.press("j", "x", "h")
        await seen.until(lambda: "◌ stopping nginx-tls and 1 more" in seen.lines()[0], "both, elsewhere too")
        monkeypatch.setattr("fluid_tui.screens.base.monotonic", lambda: monotonic() + 25)
        await seen.until(lambda: "and 1 more for 20 s" in seen.lines()[0], "with its time")
        seen.backend.may_answer.set()
        await seen.sees("nginx-tls: stopped", "pg-upgrade: stopped")
        await seen.until(lambda: "stopping" not in seen.lines()[0], "over")


async def test_a_diff_that_could_not_be_read_is_read_when_the_backend_is_back(console) -> None:
    backend = FakeBackend()

    async def away(id: str) -> list[object]:
        raise BackendDown("no backend listens", remedy="start it")

    answers, backend.snapshots = backend.snapshots, away
    async with console(backend=backend) as seen:
        await seen.press("d")
        await seen.sees("✗ no backend listens")
        backend.snapshots = answers
        await backend.stream.put(Event.missed(backend.view.seq))
        await seen.sees("before → after")


async def test_what_no_event_tells_is_read_all_the_same(console, monkeypatch) -> None:
    monkeypatch.setattr("fluid_tui.mirror.FRESH_S", 0.05)
    async with console() as seen:
        await seen.sees("audit ok")
        seen.backend.view.audit_ok = False
        seen.backend.view.components = [Component(name="tmux", status="down")]
        await seen.sees("✗ audit broken", "✗ tmux down")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 48)])
async def test_a_backend_that_answers_that_it_cannot_says_why(
    console, monkeypatch, width: int, height: int
) -> None:
    async def no_database() -> object:
        raise DatabaseDown("PostgreSQL does not answer", remedy="look at it: fluid doctor")

    async with console(width, height) as seen:
        monkeypatch.setattr(seen.backend, "fleet", no_database)
        await seen.backend.tell("host.changed", "kvm-01")
        await seen.sees("✗ database down since", "PostgreSQL does not answer. look at it: fluid doctor")
        assert seen.app.screen.has_class("-stale")
        assert "not reachable" not in seen.text()
        monkeypatch.undo()
        seen.app.mirror.touch()
        await seen.sees("! 2 need you")
        assert "fluid doctor" not in seen.text()


class Newer(FakeBackend):
    """It knows a phase that this console does not, until it is upgraded."""

    newer = False

    async def fleet(self) -> FleetView:
        told = (await super().fleet()).model_dump(mode="json")
        if self.newer:
            told["sandboxes"][0]["phase"] = "hibernating"
        view: FleetView = noun("FleetView")(told)
        return view


async def test_a_newer_backend_is_told_and_asked_again(console) -> None:
    backend = Newer()
    async with console(backend=backend) as seen:
        backend.newer = True
        seen.app.mirror.touch()
        await seen.sees("✗ upgrade required since")
        assert "older than the backend" in seen.app.mirror.link.problem
        backend.newer = False
        await seen.until(lambda: "upgrade required" not in seen.text(), "live again")


async def test_a_question_offers_no_answer_while_the_backend_is_lost(console) -> None:
    async with console() as seen:
        await seen.press("j", "enter")
        await seen.sees("Answer: y")
        seen.backend.down = True
        await seen.sees("As it was at", "the backend does not answer")
        assert "Answer: y" not in seen.text()
        await seen.press("y")
        await seen.sees("what you see may be")
        assert "Type 5b11" not in seen.text()


async def test_the_wall_claims_no_live_terminals_while_the_backend_is_lost(console) -> None:
    async with console() as seen:
        await seen.press("w")
        await seen.sees("live terminals")
        seen.backend.down = True
        await seen.sees("terminals as they were")
        assert "live terminal" not in seen.text()
