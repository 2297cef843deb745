"""Panic: twice the key, what it did, and the way out."""

from __future__ import annotations

from time import monotonic

import pytest
from textual.widgets import Input

SIZES = [(80, 24), (120, 36)]


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_one_press_only_warns_and_two_stop_everything(console, width: int, height: int) -> None:
    async with console(width, height) as seen:
        await seen.press("exclamation_mark")
        await seen.sees("Press ! again")
        assert ("panic",) not in seen.backend.asked
        await seen.press("exclamation_mark")
        await seen.sees("No apply starts from now on.", "1 sandbox paused.", "fluid panic --release")
        await seen.sees("✗ dns-audit still runs: host lost", "✗ panic ON")
        await seen.sees("Every certificate is revoked", "fluid ca show")


@pytest.mark.parametrize(
    ("down", "said"),
    [(False, ["1 sandbox paused.", "dns-audit still runs:"]), (True, ["✗ no backend listens"])],
)
async def test_who_leaves_before_its_end_is_told_it_all_the_same(
    console, down: bool, said: list[str]
) -> None:
    async with console() as seen:
        seen.backend.may_answer.clear()
        await seen.press("exclamation_mark", "exclamation_mark")
        await seen.sees("Pausing every sandbox …")
        await seen.press("escape")
        await seen.until(lambda: "Pausing" not in seen.text(), "left")
        seen.backend.down = down
        seen.backend.may_answer.set()
        await seen.sees(*said)
        assert seen.backend.asked.count(("panic",)) == 1


async def test_who_presses_on_and_on_panics_once_and_again_on_the_same_screen(console) -> None:
    async with console(80, 24) as seen:
        seen.backend.may_answer.clear()
        await seen.press(*["exclamation_mark"] * 6)
        await seen.sees("Pausing every sandbox …")
        seen.backend.may_answer.set()
        await seen.sees("1 sandbox paused.")
        assert seen.backend.asked.count(("panic",)) == 1
        await seen.press("exclamation_mark", "exclamation_mark")
        await seen.until(lambda: seen.backend.asked.count(("panic",)) == 2, "tried once more")
        assert "› panic ›" not in seen.top()
        await seen.press("q")
        await seen.until(lambda: "fluid  kvm-01" in seen.top(), "home by one key")


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_who_left_it_sees_it_in_the_top_line_and_comes_back_to_the_same(
    console, monkeypatch, width: int, height: int
) -> None:
    monkeypatch.setattr("fluid_tui.screens.base.TICK_S", 0.05)
    monkeypatch.setattr("fluid_tui.app.PANIC_S", 60.0)
    async with console(width, height) as seen:
        seen.backend.may_answer.clear()
        await seen.press("exclamation_mark", "exclamation_mark")
        await seen.sees("Pausing every sandbox …")
        await seen.press("escape")
        await seen.until(lambda: "◌ pausing every sandbox" in seen.top(), "told on the fleet's screen")
        for screen in ("base", "panic"):
            monkeypatch.setattr(f"fluid_tui.screens.{screen}.monotonic", lambda: monotonic() + 25)
        await seen.until(lambda: "◌ pausing every sandbox for 20 s" in seen.top(), "and for how long")
        for keys in (["exclamation_mark"] * 2, ["colon", *"panic", "enter"], ["minus"]):
            await seen.press(*keys)
            await seen.sees("Pausing every sandbox … for 20 s")
            await seen.press("escape")
            await seen.until(lambda: "Pausing" not in seen.text(), "left")
        await seen.press("exclamation_mark", "exclamation_mark")
        await seen.sees("Pausing every sandbox … for 20 s")
        seen.backend.may_answer.set()
        await seen.sees("1 sandbox paused.")
        assert seen.backend.asked.count(("panic",)) == 1
        await seen.until(lambda: "pausing every sandbox" not in seen.top(), "over")


async def test_a_release_goes_on_and_is_come_back_to_and_a_panic_does_not_wait_for_it(
    console, monkeypatch
) -> None:
    monkeypatch.setattr("fluid_tui.app.PANIC_S", 60.0)
    async with console(80, 24) as seen:
        seen.backend.may_release.clear()
        await seen.press("colon", *"release", "enter")
        await seen.until(lambda: isinstance(seen.app.screen.focused, Input), "the field is armed")
        await seen.press(*"release", "enter")
        await seen.sees("The sandboxes go on …")
        await seen.press("escape")
        await seen.until(lambda: "◌ releasing the panic" in seen.top(), "told on the fleet's screen")
        await seen.press("colon", *"release", "enter")
        await seen.sees("The sandboxes go on …")
        await seen.press("exclamation_mark", "exclamation_mark")
        await seen.sees("No apply starts from now on.")
        seen.backend.may_release.set()
        await seen.sees("Applies may start again.")
        assert seen.backend.asked[-2:] == [("release_panic",), ("panic",)]


async def test_a_second_press_that_comes_late_only_warns_again(console, monkeypatch) -> None:
    monkeypatch.setattr("fluid_tui.app.PANIC_S", -1.0)
    async with console(80, 24) as seen:
        await seen.press("exclamation_mark", "exclamation_mark")
        await seen.sees("Press ! again")
        assert ("panic",) not in seen.backend.asked


async def test_it_is_released_by_a_word_that_is_typed(console) -> None:
    async with console(80, 24) as seen:
        await seen.press("colon", *"release", "enter")
        await seen.sees("Type release to go on")
        await seen.until(lambda: isinstance(seen.app.screen.focused, Input), "the field is armed")
        await seen.press(*"release", "enter")
        await seen.sees("Applies may start again.", "1 sandbox resumed.")


async def test_read_only_cannot_panic(console) -> None:
    async with console(80, 24, read_only=True) as seen:
        await seen.press("exclamation_mark", "exclamation_mark")
        await seen.press("colon", *"panic", "enter")
        await seen.sees("✗ this console is read-only")
        assert ("panic",) not in seen.backend.asked
