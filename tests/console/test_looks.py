"""What every screen looks like: as text in two sizes, in colours in four themes, readable in all.

``pytest tests/console/test_looks.py --snapshot-update`` writes anew what was changed on purpose.
"""

from __future__ import annotations

import pytest
from syrupy.assertion import SnapshotAssertion

from backend.models import now
from fluid_tui.screens.base import NARROW_BELOW
from fluid_tui.themes import THEMES
from fluid_tui.widgets.command_bar import CommandBar
from fluid_tui.widgets.live_list import LiveList
from tests.console.looks import colours_of, contrast, runs_of, text_of
from tests.console.sample import fleet

SIZES = [(80, 24), (120, 36)]
SCREENS: dict[str, tuple[list[str], str]] = {
    "fleet": ([], "kernel-cve"),
    "review": (["enter"], "asks   Serve the shop"),
    "approve": (["enter", "2", "a"], "Type 4f2a to approve"),
    "question": (["j", "enter"], "The new one is 15/main"),
    "diff": (["j", "j", "d"], "read from the disk"),
    "terminal": (["j", "j", "t"], "systemctl reload nginx"),
    "wall": (["w"], "15  main 5433 online"),
    "timeline": (["l"], "chain holds"),
    "hosts": (["h"], "No create is on its way"),
    "help": (["question_mark"], "Open what is under the cursor"),
    "command": (["colon", *"sandbox ", *"nginx-tls "], "freeze it as it is"),
    "panic": (["exclamation_mark", "exclamation_mark"], "No apply starts"),
}
"""The keys from the fleet, and words that stand there in the end. The panic is last: it changes things."""
COLOURED = ("fleet", "review", "diff")
THEMES_DRAWN = ("fluid-dark", "fluid-light", "fluid-contrast", "fluid-16")
READ = ("fleet", "review", "diff", "timeline", "help", "fleet")
SETTLED_S = 0.1
READABLE = 4.5
"""WCAG 2, level AA."""


async def opened(seen, name: str) -> None:
    """This screen, from wherever the console is."""
    for bar in seen.app.screen.query(CommandBar):
        await bar.remove()
    seen.backend.at = now()
    seen.backend.view = fleet(seen.backend.at)  # as old as it was when the first one was opened
    seen.app.mirror.touch()
    seen.app.show_fleet()
    await seen.pilot.pause()
    needs = seen.app.screen.query_one("#needs", LiveList)
    seen.app.screen.set_focus(needs)
    needs.action_top()
    if seen.app.size.width >= NARROW_BELOW:
        await seen.sees("systemctl reload nginx")  # in the pane beside the list
    keys, words = SCREENS[name]
    for key in keys:
        if key == "a" and name == "approve":
            await seen.sees("Site with TLS")  # the request and its playbook are read
        await seen.press(key)
    await seen.sees(words)
    if name == "panic":
        await seen.sees("panic ON")  # in the headline, too
    before = ""
    while (after := text_of(seen)) != before:  # whatever else was on its way
        before = after
        await seen.pilot.pause(SETTLED_S)


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_every_screen_looks_like_this(
    console, width: int, height: int, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluid_tui.app.PANIC_S", 60.0)  # a machine that is busy
    async with console(width, height) as seen:
        for name in SCREENS:
            await opened(seen, name)
            assert text_of(seen) == snapshot(name=name)


async def test_a_theme_draws_in_these_colours(console, snapshot: SnapshotAssertion) -> None:
    async with console(120, 36) as seen:
        for name in COLOURED:
            await opened(seen, name)
            for theme in THEMES_DRAWN:
                seen.app.theme = theme
                await seen.pilot.pause()
                assert colours_of(seen) == snapshot(name=f"{name} {theme}")


async def test_every_word_can_be_read_in_every_theme(console) -> None:
    faint: set[str] = set()

    def read(seen, name: str) -> None:
        low = ((contrast(style), words) for words, style in runs_of(seen))
        faint.update(
            f"{seen.app.theme} {name} {ratio:.1f}: {words}" for ratio, words in low if ratio < READABLE
        )

    async with console(120, 36) as seen:
        for name in (*READ, "stale"):
            if name == "stale":
                seen.backend.down = True
                seen.app.mirror.touch()
                await seen.sees("backend not reachable")
            else:
                await opened(seen, name)
            for theme in THEMES:
                seen.app.theme = theme.name
                await seen.pilot.pause()
                read(seen, name)
    assert faint == set()
