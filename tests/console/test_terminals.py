"""Every terminal: the foot fits, ASCII where there is no UTF-8, tiny windows, twins on the command line."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from rich.cells import cell_len
from rich.color import Color as RichColor
from rich.color import ColorSystem
from textual.color import Color
from textual.theme import Theme
from typer import Exit
from typer.main import get_command

from backend.cli.app import app as program
from fluid_tui.actions import ACTIONS, BY_ID, TWINS
from fluid_tui.plain_text import to_ascii, wants_ascii
from fluid_tui.screens.base import FluidScreen
from fluid_tui.themes import DARK, SIXTEEN

BLACK = Color(0, 0, 0)
PATHS = {
    "fleet": [],
    "hosts": ["h"],
    "timeline": ["l"],
    "wall": ["w"],
    "diff": ["d"],
    "review": ["enter"],
    "terminal": ["t"],
    "ask": ["j", "enter"],
    "help": ["question_mark"],
}
MOVES_THE_CONSOLE_ONLY = frozenset(
    {"app", "move", "wall", "terminal", "diff", "timeline", "review", "fleet", "sides"}
)


@pytest.mark.parametrize("place", PATHS)
async def test_a_screen_fits_every_window_and_survives_a_tiny_one(console, place: str) -> None:
    async with console(120, 36) as seen:
        await seen.press(*PATHS[place])
        await seen.until(lambda: place == seen.app.screen.PLACE, place)
        for width, height in ((12, 3), (40, 10), (80, 24), (200, 60), (120, 36)):
            await seen.pilot.resize_terminal(width, height)
            await seen.pilot.pause()
            assert all(cell_len(line) <= width for line in seen.lines())
            if width >= 40:
                await seen.until(lambda: seen.lines()[-1].rstrip().endswith("? help"), "? help")
                assert "…" not in seen.lines()[-1]


@pytest.mark.parametrize(("width", "height"), [(40, 10), (80, 24), (160, 48)])
async def test_a_screen_is_laid_out_for_its_window_before_it_is_told_of_its_size(
    console, monkeypatch, width: int, height: int
) -> None:
    """Each later change of it styles and paints all widgets once more."""
    changed = []
    update = FluidScreen.update_classes

    def updated(screen: FluidScreen, classes: dict[str, bool], **more: Any) -> None:
        changed.extend(name for name, on in classes.items() if screen.has_class(name) is not on)
        update(screen, classes, **more)

    monkeypatch.setattr(FluidScreen, "update_classes", updated)
    async with console(width, height) as seen:
        await seen.press("enter")
        await seen.sees("review 4f2a")
        assert changed == []
        await seen.pilot.resize_terminal(240 - width, height)
        await seen.until(lambda: bool(changed), "a window of another size")


@pytest.mark.parametrize(
    ("term", "theme"), [("linux", SIXTEEN), ("screen", SIXTEEN), ("vt100", SIXTEEN), ("tmux-256color", DARK)]
)
async def test_a_terminal_with_16_colours_gets_a_theme_of_those(
    console, monkeypatch, term: str, theme: Theme
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.delenv("COLORTERM", raising=False)
    async with console(80, 24) as seen:
        assert seen.app.theme == theme.name


def test_the_16_colours_are_drawn_as_what_they_mean() -> None:
    meant = {"success": 10, "warning": 11, "error": 9, "accent": 14, "foreground": 15, "background": 0}
    drawn = {
        name: RichColor.parse(getattr(SIXTEEN, name)).downgrade(ColorSystem.STANDARD).number for name in meant
    }
    assert drawn == meant
    cursor = RichColor.parse(SIXTEEN.variables["cursor-ground"]).downgrade(ColorSystem.STANDARD).number
    assert cursor == 4


@pytest.mark.parametrize(
    ("environment", "ascii"),
    [
        ({}, False),
        ({"LANG": "en_GB.UTF-8"}, False),
        ({"LANG": "C.utf8"}, False),
        ({"LANG": "C"}, True),
        ({"LANG": "de_DE@euro"}, True),
        ({"LANG": "C", "LC_ALL": "en_GB.UTF-8"}, False),
        ({"LANG": "en_GB.UTF-8", "LC_CTYPE": "POSIX"}, True),
        ({"TERM": "vt100", "LANG": "en_GB.UTF-8"}, True),
        ({"TERM": "linux", "LANG": "en_GB.UTF-8"}, False),
        ({"FLUID_ASCII": "1", "LANG": "en_GB.UTF-8"}, True),
        ({"FLUID_ASCII": "0", "LANG": "C"}, False),
    ],
)
def test_ascii_is_for_terminals_without_utf_8(environment: dict[str, str], ascii: bool) -> None:
    assert wants_ascii(environment) is ascii


@pytest.mark.parametrize("text", ["╭─ Needs you ─╮", "● works ✓", "日本 é ▌▰▱", "plain", "a\u0301 ␛[2J"])
def test_ascii_is_as_wide_as_what_it_stands_for(text: str) -> None:
    made = to_ascii(text)
    assert made.isascii()
    assert cell_len(made) == cell_len(text)


@pytest.mark.parametrize("place", PATHS)
async def test_without_utf_8_a_screen_is_ascii(console, monkeypatch, place: str) -> None:
    monkeypatch.setenv("FLUID_ASCII", "1")
    async with console(100, 30) as seen:
        ascii_filter = seen.app.get_line_filters()[-1]
        await seen.press(*PATHS[place])
        await seen.until(lambda: place == seen.app.screen.PLACE, place)

        def drawn() -> str:
            return "\n".join(
                "".join(part.text for part in ascii_filter.apply(list(strip), BLACK))
                for strip in seen.app.screen._compositor.render_strips()
            )

        await seen.until(lambda: "+-" in drawn(), "the borders")
        assert drawn().isascii()


def refusal(line: str) -> str:
    """What the program says of these words before it does anything; empty if it takes them."""
    command, words, context = get_command(program), shlex.split(line), None
    try:
        while True:
            context = command.make_context(command.name, words, parent=context)
            if not hasattr(command, "resolve_command"):
                return ""
            if not (words := [*context._protected_args, *context.args]):
                return "" if command.invoke_without_command else "it names no command"
            _, command, words = command.resolve_command(context, words)
    except Exit:
        return ""
    except Exception as error:
        return str(error) or type(error).__name__


@pytest.mark.parametrize(
    "line",
    [
        "approvals aprove APPROVAL",
        "approvals approve",
        "approvals approve APPROVAL MORE",
        "approvals approve APPROVAL --force",
        "sandboxes extend SANDBOX soon",
        "approvals",
    ],
)
def test_words_that_the_program_does_not_take_are_no_twin(line: str) -> None:
    assert refusal(line)


def test_every_action_has_a_twin_that_the_command_line_takes() -> None:
    assert set(TWINS) <= set(BY_ID)
    assert {id: why for id, line in TWINS.items() if (why := refusal(line))} == {}
    assert [action.id for action in ACTIONS if action.changes and action.id not in TWINS] == []
    alone = {action.where for action in ACTIONS if action.id not in TWINS}
    assert alone <= MOVES_THE_CONSOLE_ONLY, "a screen's actions have twins, or only move the console"
