"""A burst of keys (a stalled line lets them all through at once) does what the same keys do one by one."""

from __future__ import annotations

import pytest

from fluid_tui import turns
from fluid_tui.screens.diff import DiffScreen
from tests.console.conftest import key_event


def burst(seen, text: str) -> None:
    """All of it before anybody has looked at the first; a newline is enter, ``~`` is escape."""
    for character in text:
        seen.app.post_message(key_event({"\n": "enter", "~": "escape"}.get(character, character)))


@pytest.mark.parametrize("text", [":sandbox dns-audit diff\n", "/dns\njjd", "?q~:x~~:\x15"])
async def test_what_a_key_opens_has_the_next_key(console, text: str) -> None:
    async with console() as seen:
        before = len(seen.backend.asked)
        burst(seen, text)
        if "dns" in text:
            await seen.until(lambda: isinstance(seen.app.screen, DiffScreen), "the diff")
            await seen.sees("diff dns-audit")
        else:
            await seen.until(lambda: seen.app.return_value == 0, "left")
        asked = {call[0] for call in seen.backend.asked[before:]}
        assert asked <= {"diff", "pane_stream"}


async def test_keys_go_on_when_who_had_one_is_gone(console, monkeypatch) -> None:
    monkeypatch.setattr(turns, "LOST_S", 0.05)
    async with console() as seen:
        monkeypatch.setattr(type(seen.app.focused), "call_later", lambda *_: True)  # it never comes to it
        burst(seen, "hq?")
        monkeypatch.undo()
        await seen.sees("Everywhere")
