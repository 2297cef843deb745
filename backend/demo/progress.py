"""What the demo says while it works: one line a stage, the elapsed time, and what is being waited for."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from backend.text import visible


class Progress:
    """A transcript. On a terminal the running stage also counts its seconds."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._console = Console(highlight=False, markup=False)
        self.seconds: dict[str, float] = {}

    def say(self, words: str) -> None:
        """A line with the time since the start."""
        elapsed = time.monotonic() - self._began
        self._console.print(f"{elapsed:6.1f} s  {visible(words)}", soft_wrap=True)
        sys.stdout.flush()

    @contextmanager
    def stage(self, name: str, words: str) -> Iterator[None]:
        """One stage; its seconds are kept under ``name``."""
        started = time.monotonic()
        self.say(words)
        if self._console.is_terminal:
            with self._console.status(f"waiting: {visible(words)}"):
                yield
        else:
            yield
        self.seconds[name] = round(time.monotonic() - started, 2)

    def total(self) -> float:
        return round(time.monotonic() - self._began, 2)
