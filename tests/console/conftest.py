"""The console on a fake backend, and a reader of what stands on the screen."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from textual import events
from textual.keys import REPLACED_KEYS, _character_to_key, _get_unicode_name_from_key
from textual.pilot import Pilot
from textual.strip import Strip

from fluid_tui.app import FluidApp
from tests.console.fake_backend import FakeBackend

WAIT_S = 8.0
STEP_S = 0.02


def key_event(key: str) -> events.Key:
    """A key by its name or its character, as a terminal tells it."""
    name = _character_to_key(key) if len(key) == 1 and not key.isalnum() else key
    try:
        character: str | None = unicodedata.lookup(_get_unicode_name_from_key(REPLACED_KEYS.get(name, name)))
    except KeyError:
        character = key if len(key) == 1 else None
    return events.Key(name, character)


@dataclass
class Console:
    """One running console: keys in, text out."""

    app: FluidApp
    pilot: Pilot[int]
    backend: FakeBackend

    def lines(self) -> list[str]:
        """What the terminal shows, line by line."""
        strips: list[Strip] = self.app.screen._compositor.render_strips()
        return [strip.text for strip in strips]

    def top(self) -> str:
        """The first line; empty while a screen is still being made."""
        return next(iter(self.lines()), "")

    def text(self) -> str:
        return "\n".join(self.lines())

    def shown(self) -> str:
        """The lines that hold something, for a failure's message."""
        return "\n".join(line.rstrip() for line in self.lines() if line.strip(" │"))

    async def press(self, *keys: str) -> None:
        """In one burst: each key has its turn. Pilot would wait for an idle processor twice a key, and a
        loaded machine has none."""
        for key in keys:
            self.app.post_message(key_event(key))
        await self.until(lambda: not self.app._turns.busy, f"an end of {keys}")
        await self.pilot.pause()

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something is seen; the screen is in the message if it is not."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not holds():
                    await self.pilot.pause(STEP_S)
        except TimeoutError:
            pytest.fail(f"never seen: {what}\n{self.shown()}")

    async def sees(self, *words: str) -> None:
        """All of these words stand on the screen, soon."""
        for word in words:
            await self.until(lambda word=word: word in self.text(), word)  # type: ignore[misc]


@asynccontextmanager
async def running(
    width: int = 160,
    height: int = 48,
    *,
    backend: FakeBackend | None = None,
    read_only: bool = False,
    keys: dict[str, str] | None = None,
    layout_file: Path | None = None,
    awaited: str = "nginx-tls",
) -> AsyncIterator[Console]:
    """A console of that size, its fleet drawn."""
    backend = backend or FakeBackend()
    app = FluidApp(backend, read_only=read_only, keys=keys, layout_file=layout_file)
    async with app.run_test(size=(width, height), notifications=True) as pilot:
        seen = Console(app, pilot, backend)
        await seen.sees(awaited)
        yield seen


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """``async with console(80, 24) as seen:`` is :func:`running` in a terminal of 256 colours."""
    monkeypatch.setenv("TERM", "xterm-256color")
    return running
