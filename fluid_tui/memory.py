"""What the console remembers from one day to the next: looks and layout, never what is going on.

A file that cannot be read or written costs the memory and nothing else.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FILE_MODE = 0o600
HISTORY_LINES = 50


class Layout(BaseModel):
    """``preview_percent``: the pane's share of the fleet's width; ``history``: of the command line."""

    model_config = ConfigDict(extra="ignore", validate_assignment=True)

    theme: str = ""
    sorting: str = ""
    reverse: bool = False
    preview: bool = True
    preview_percent: int = Field(default=50, ge=20, le=80)
    notify: str = "bell"
    history: list[str] = Field(default_factory=list, max_length=HISTORY_LINES)

    def remember(self, entered: str) -> None:
        """A line of the command line, once, as the newest."""
        kept = [line for line in self.history if line != entered]
        self.history = [*kept, entered][-HISTORY_LINES:]


def default_path() -> Path:
    """``$XDG_STATE_HOME/fluid/console.json``."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "fluid" / "console.json"


def load(path: Path | None) -> Layout:
    """What was remembered, or the defaults."""
    try:
        return Layout.model_validate_json(path.read_bytes()) if path else Layout()
    except (OSError, ValidationError):
        return Layout()


def save(layout: Layout, path: Path | None) -> None:
    """Keep it, whole or not at all."""
    if path is None:
        return
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "w") as file:
            file.write(layout.model_dump_json(indent=1))
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
