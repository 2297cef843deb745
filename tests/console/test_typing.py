"""Typing instead of an agent, and two operators who see one another."""

from __future__ import annotations

from datetime import timedelta

import pytest
from textual import events

from backend.models import ApprovalState, Decision, now
from fluid_tui.screens.terminal import TerminalScreen
from fluid_tui.widgets import pane_view
from fluid_tui.widgets.pane_view import PaneView
from tests.console.conftest import Console
from tests.console.fake_backend import FakeBackend, FakeHands
from tests.console.sample import APPROVAL_ID, HOSTILE


async def take(seen: Console) -> FakeHands:
    """On the terminal's screen: ``i``, until the pane is ours."""
    await seen.press("t")
    await seen.sees("live", "systemctl reload nginx")
    await seen.press("i")
    await seen.until(lambda: seen.backend.hands is not None, "the take-over")
    await seen.sees("YOU TYPE", "its agent waits", "ctrl+] hands it back")
    assert seen.backend.hands is not None
    return seen.backend.hands


def screen_of(seen: Console) -> TerminalScreen:
    assert isinstance(seen.app.screen, TerminalScreen)
    return seen.app.screen


async def test_every_key_is_the_panes_until_ctrl_bracket_which_leads_back(console) -> None:
    async with console(100, 30) as seen:
        hands = await take(seen)
        await seen.press("q", "d", "n", "exclamation_mark", "exclamation_mark", "question_mark", "colon")
        await seen.press("up", "ctrl+p", "ctrl+c", "ctrl+q", "escape", "enter", "tab", "pageup")
        screen_of(seen).query_one(PaneView).post_message(events.Paste("two\nlines"))
        await seen.pilot.pause()
        expected = b"qdn!!?:\x1b[A\x10\x03\x11\x1b\r\t\x1b[5~\x1b[200~two\rlines\x1b[201~"
        await seen.until(lambda: hands.typed == expected, "all that was typed")
        assert seen.lines()[-1].split() == ["ctrl+]", "hand", "back"], "no other key is promised"
        await seen.press("x", "ctrl+right_square_bracket")
        await seen.sees("is its agent's again", "live", "take over")
        assert hands.typed == expected + b"x"
        await seen.press("q")
        await seen.until(lambda: seen.app.screen.PLACE == "fleet", "the fleet")


async def test_what_is_typed_before_the_pane_is_ours_waits_for_it_and_no_command_runs(console) -> None:
    backend = FakeBackend()
    backend.may_take.clear()
    async with console(100, 30, backend=backend) as seen:
        await seen.press("t")
        await seen.sees("live")
        await seen.press("i", "l", "s", "enter")
        assert isinstance(seen.app.screen, TerminalScreen)
        backend.may_take.set()
        await seen.until(lambda: backend.hands is not None and backend.hands.typed == b"ls\r", "ls")


async def test_a_backend_that_does_not_answer_is_left_by_pressing_twice(console) -> None:
    backend = FakeBackend()
    backend.may_take.clear()
    async with console(100, 30, backend=backend) as seen:
        await seen.press("t")
        await seen.sees("live")
        await seen.press("i", "ctrl+right_square_bracket", "ctrl+right_square_bracket")
        await seen.sees("You let go", "live")
        assert backend.hands is None


async def test_the_cursor_is_seen_and_no_word_of_the_guest_acts(console) -> None:
    backend = FakeBackend()
    backend.cursor = (2, 1)
    async with console(100, 30, backend=backend) as seen:
        await take(seen)
        view = screen_of(seen).query_one(PaneView)
        reversed_ = [text for text, style in view.lines[1] if getattr(style, "reverse", False)]
        assert reversed_ == ["i"], "ng(i)nx: the third cell of the second row"
        assert HOSTILE not in seen.text() and "␛]52;c;" in seen.text()


async def test_another_operator_who_takes_it_is_named_and_stray_keys_do_nothing(console, monkeypatch) -> None:
    monkeypatch.setattr(pane_view, "DEAF_S", 60.0)  # a busy machine types late
    async with console(100, 30) as seen:
        hands = await take(seen)
        hands.end("taken", "berta", "berta has taken %3 over: what you type goes nowhere")
        await seen.sees("berta has taken %3 over")
        await seen.press("q", "d")
        assert isinstance(seen.app.screen, TerminalScreen), "what was still being typed is no command"


async def test_who_types_is_shown_and_taking_it_from_them_asks(console) -> None:
    backend = FakeBackend()
    backend.pane("%3").taken_by, backend.pane("%3").taken_at = "berta", now()
    async with console(100, 30, backend=backend) as seen:
        await seen.press("t")
        await seen.sees("berta types")
        await seen.press("i")
        await seen.sees("You take it from them", "Type take to take it")
        await seen.press("escape")
        assert not [call for call in backend.asked if call[0] == "take_over"]
        await seen.press("i")
        await seen.until(lambda: bool(seen.app.screen.query("#dialog.-armed")), "the dialog is armed")
        await seen.press(*"take", "enter")
        await seen.sees("YOU TYPE")
        assert ("take_over", "%3", True) in backend.asked


async def test_a_pane_that_was_taken_meanwhile_is_said(console) -> None:
    async with console(100, 30) as seen:
        await seen.press("t")
        await seen.sees("live")
        seen.backend.pane("%3").taken_by = "berta"
        await seen.press("i")
        await seen.sees("berta types into %3", "Nothing goes to", "%3 · berta types")


async def test_reading_back_goes_on_where_it_was(console) -> None:
    async with console(100, 30) as seen:
        await seen.press("t")
        await seen.sees("live")
        await seen.press("pageup")
        view = screen_of(seen).query_one(PaneView)
        await seen.until(lambda: view.scroll_offset.y > 0, "history")
        was = view.scroll_offset.y
        await seen.press("pageup")
        await seen.until(lambda: view.scroll_offset.y < was, "further back")
        at = view.scroll_offset.y
        await seen.press("i")
        await seen.sees("YOU TYPE", "systemctl reload nginx")
        await seen.press("ctrl+right_square_bracket")
        await seen.sees("reading back")
        await seen.until(lambda: view.scroll_offset.y == at, "the line before")


async def test_read_only_and_panes_that_ended_are_not_typed_into(console) -> None:
    async with console(100, 30, read_only=True) as seen:
        await seen.press("t")
        await seen.sees("live")
        assert "take over" not in seen.text()
        await seen.press("i")
        assert not [call for call in seen.backend.asked if call[0] == "take_over"]
    backend = FakeBackend()
    backend.view.panes[0].alive = False
    async with console(100, 30, backend=backend) as seen:
        await seen.press("t", "i")
        await seen.sees("There is no live terminal to type into")


@pytest.mark.parametrize(
    ("place", "id", "keys"),
    [("review", APPROVAL_ID, ["enter"]), ("terminal", "SBX-00000001", ["t"])],
)
async def test_who_else_looks_is_shown_beside_what_they_look_at(
    console, place: str, id: str, keys: list[str]
) -> None:
    async with console(80, 24) as seen:
        await seen.press(*keys)
        await seen.until(lambda: (place, id) in seen.backend.looked, "this console said where it is")
        here = [seen.backend.other("berta", place, id), seen.backend.other("carl", "review", "APR-other000")]
        await seen.backend.tell("presence.changed", "", here=[one.model_dump(mode="json") for one in here])
        await seen.sees("also here: berta")
        assert "carl" not in seen.text()
        await seen.backend.tell("presence.changed", "", here=[])
        await seen.until(lambda: "also here" not in seen.text(), "berta has gone")


async def test_where_one_looks_oneself_draws_nothing(console, monkeypatch) -> None:
    async with console(80, 24) as seen:
        await seen.until(lambda: seen.app.mirror.uid == 1000, "the backend said who we are")
        drawn: list[int] = []
        monkeypatch.setattr(seen.app.mirror, "_on_change", lambda: drawn.append(len(drawn)))
        berta = seen.backend.other("berta", "review", APPROVAL_ID)
        ours = [berta.model_copy(update={"uid": 1000, "place": place}) for place in ("fleet", "hosts")]
        for here in ([ours[0]], [ours[1]], [ours[1], berta]):
            told = [one.model_dump(mode="json") for one in here]
            await seen.backend.tell("presence.changed", "", here=told)
        await seen.until(lambda: drawn != [], "berta is there")
        assert drawn == [0]


async def test_a_request_that_the_other_has_just_decided_says_so_at_once(console) -> None:
    async with console(120, 36) as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        await seen.press("a")
        await seen.sees("Type 4f2a to approve")
        decision = Decision(verb="reject", uid=1001, name="berta", at=now(), digest="", comment="not today")
        seen.backend.approve_state(ApprovalState.REJECTED, decisions=[decision], outcome="not today")
        await seen.backend.tell("approval.changed", APPROVAL_ID, state="rejected")
        await seen.sees("berta rejected 4f2a just now", "nothing is left to decide")


async def test_a_question_that_the_other_has_just_answered_says_who(console) -> None:
    async with console(120, 36) as seen:
        await seen.press("down", "enter")
        await seen.sees("Drop the old cluster?", "irreversible")
        ask = seen.backend.view.asks.pop(0)
        await seen.backend.tell(
            "ask.changed", ask.request_id, status="rejected", by="berta", prompt=ask.prompt
        )
        await seen.sees("berta rejected it just now")
        assert "Drop the old cluster?" in seen.text()
        assert timedelta() < ask.expires_at - now()
