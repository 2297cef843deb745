"""What every screen looks like, cell by cell, in two sizes and in every theme; readable in all.

``pytest tests/console/test_looks.py --snapshot-update`` writes anew what was changed on purpose. A browser
shows the pictures; the class of their first line chooses the theme.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.image import SVGImageSnapshotExtension

from backend.models import now
from fluid_tui.themes import THEMES
from tests.console.looks import SCREENS, contrast, opened, picture_of, runs_of

SIZES = [(80, 24), (160, 48)]
READ = ("fleet", "review", "diff", "timeline", "help", "fleet")
SAME_TIMES = timedelta(seconds=25)
"""For so long after its making the sample's times are drawn as the same words."""
READABLE = 4.5
"""WCAG 2, level AA."""


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_every_screen_looks_like_this(
    console, width: int, height: int, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluid_tui.app.PANIC_S", 60.0)  # a machine that is busy
    async with console(width, height) as seen:
        for name in SCREENS:
            picture, old = "", True
            while old:  # a machine so busy that minutes have passed shows other times
                await opened(seen, name)
                picture = await picture_of(seen)
                old = now() - seen.backend.at > SAME_TIMES
            assert picture, "a theme has colours only"
            assert picture == snapshot(name=name, extension_class=SVGImageSnapshotExtension)


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
