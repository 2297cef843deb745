"""A real terminal: tmux draws a program, resizes it, and shows what a person would see."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep

import pytest

WAIT_S = 30.0
STEP_S = 0.2


class Terminal:
    """One tmux server of our own with one window that runs ``command``."""

    def __init__(
        self, socket: Path, width: int, height: int, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self._tmux = ["tmux", "-f", "/dev/null", "-S", str(socket)]
        size = ["-x", str(width), "-y", str(height)]
        self._run(["new-session", "-d", "-s", "console", *size, *command], environment)

    def _run(self, words: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            [*self._tmux, *words], env=environment, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout

    def lines(self, *options: str) -> list[str]:
        return self._run(["capture-pane", "-p", *options, "-t", "console"]).split("\n")

    def press(self, *keys: str) -> None:
        self._run(["send-keys", "-t", "console", *keys])

    def resize(self, width: int, height: int) -> None:
        self._run(["resize-window", "-t", "console", "-x", str(width), "-y", str(height)])

    def shows(self, word: str) -> bool:
        return word in "\n".join(self.lines())

    def sees(self, *words: str, limit_s: float = WAIT_S) -> None:
        """A foreign program draws: there is no event to wait for, so the screen is read until it shows."""
        end = monotonic() + limit_s
        while missing := [word for word in words if not self.shows(word)]:
            if monotonic() > end:
                pytest.fail(f"never seen: {missing}\n" + "\n".join(self.lines()))
            sleep(STEP_S)

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, timeout=10)
