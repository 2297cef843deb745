"""The console at the end of a slow line: what stands there is new, what is asked for is heard, and a dialog
takes no word before its own are read."""

from __future__ import annotations

import sys
from time import perf_counter

from fluid_tui.screens.confirm import ARMING_S
from fluid_tui.screens.fleet import PREVIEW_DELAY_S
from tests.bench.slow import APP, ENVIRONMENT, RATE, follow
from tests.bench.terminal import SlowTerminal, Terminal

FRESH_S = SOON_S = 10.0  # on a busy machine; what waits on the line is what tells
MOVED_BYTES = 600
ON_ITS_WAY_BYTES = 8_000  # a screen, and what went before it
SLOWER = RATE // 2
DEMO = (sys.executable, "-P", "-m", "tests.console.demo_app")


def test_a_busy_terminal_is_shown_as_it_is_now_and_keys_are_answered() -> None:
    with SlowTerminal(APP, ENVIRONMENT, 80, 24, rate=RATE) as seen:
        seen.shows("Needs you", "? help")
        seen.press(b"t")
        ages = follow(seen)
        assert max(ages[-10:]) < FRESH_S, ages
        assert seen.deepest < ON_ITS_WAY_BYTES, "old frames wait on the line"
        assert seen.shows("Needs you", "? help", began=seen.press(b"q")) < SOON_S


def test_a_dialog_takes_nothing_that_was_typed_before_it_stood_there() -> None:
    with SlowTerminal(DEMO, ENVIRONMENT, 80, 24, rate=SLOWER) as seen:
        seen.shows("Needs you", "? help")
        seen.settle(0.5)
        seen.shows("c ask changes", began=seen.press(b"\r"))
        seen.press(b"a")
        seen.count(3 * ARMING_S)
        assert "Type 4f2a to approve" not in "\n".join(seen.screen), "it is on its way"
        seen.press(b"4f2a\r")
        seen.shows("Type 4f2a to approve", began=perf_counter())
        seen.settle(2 * ARMING_S)
        seen.shows("Nothing was typed", began=seen.press(b"\r"))


def test_who_leaves_finds_no_answer_of_the_terminal_at_the_prompt() -> None:
    shell = ("sh", "-c", f"'{DEMO[0]}' -P -m {DEMO[-1]}; echo left; exec cat")
    with SlowTerminal(shell, ENVIRONMENT, 80, 24, rate=RATE) as seen:
        seen.shows("Needs you", "? help")
        seen.press(b"j")
        seen.press(b"q")
        seen.shows("left")
        seen.settle(1.0)
        assert not [row for row in seen.screen if "[" in row], seen.screen


def test_a_terminal_that_answers_nothing_is_painted_all_the_same(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(Terminal, "_draw", lambda *_: None)
    with Terminal(DEMO, ENVIRONMENT, 80, 24) as seen:
        seen.until(b"kernel-cve")
        for key, words in ((b"\r", b"Evidence"), (b"q", b"kernel-cve"), (b"\r", b"Evidence")):
            seen.since(seen.press(key), words)


def test_what_stands_there_is_not_written_again_unless_it_is_asked_for() -> None:
    with Terminal(DEMO, ENVIRONMENT, 80, 24) as seen:
        seen.until(b"kernel-cve")
        seen.settle(1.0)
        before = seen.written
        seen.since(seen.press(b"j"), b"5b11")
        seen.settle(1.0)
        assert seen.written - before < MOVED_BYTES
        seen.since(seen.press(b"\x0c"), b"kernel-cve")


async def test_a_screen_that_another_covers_follows_no_terminal(console) -> None:  # type: ignore[no-untyped-def]
    async with console() as seen:

        def followed() -> int:
            return [asked[0] for asked in seen.backend.asked].count("pane_stream")

        await seen.until(lambda: followed() == 1, "the preview follows")
        await seen.press("t")
        await seen.until(lambda: followed() == 2, "the terminal follows")
        await seen.backend.tell("host.changed", "kvm-01")
        await seen.pilot.pause(4 * PREVIEW_DELAY_S)
        assert followed() == 2
