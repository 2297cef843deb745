"""A pane as tmux tells it, and what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

TAGS = ("owner", "sandbox", "session")
_FIELDS = (
    "pane_id",
    "window_id",
    "pane_width",
    "pane_height",
    "pane_dead",
    "window_activity",
    *(f"@fluid_{tag}" for tag in TAGS),
    "@fluid_created",
    "@fluid_taken",
)
LOOKED_AT = ("history_size", "pane_height", "cursor_flag", "cursor_x", "cursor_y")
FORMAT = " ".join(f"#{{{name}}}," for name in _FIELDS)


@dataclass(frozen=True)
class TmuxScreen:
    """Rows with SGR sequences, the last ones the screen. ``cursor`` is column and row of it among ``rows``;
    None: hidden."""

    rows: list[str]
    cursor: tuple[int, int] | None


@dataclass(frozen=True)
class TmuxPane:
    """A pane as tmux tells it; ``owner``, ``sandbox`` and ``session`` are the tags it was made with,
    ``taken`` is who types into it instead of its owner."""

    pane_id: str
    window_id: str
    width: int
    height: int
    alive: bool
    last_output_at: datetime
    owner: str
    sandbox: str
    session: str
    created_at: datetime
    taken: str = ""


def parse_pane(line: str) -> TmuxPane | None:
    words = [word.strip() for word in line.split(",")][: len(_FIELDS)]
    pane_id, window_id, width, height, dead, activity, owner, sandbox, session, created, taken = words
    if not created:  # the keeper, or a pane whose making was cut short
        return None
    return TmuxPane(
        pane_id,
        window_id,
        int(width),
        int(height),
        dead != "1",
        datetime.fromtimestamp(int(activity or created), UTC),
        owner,
        sandbox,
        session,
        datetime.fromtimestamp(int(created), UTC),
        taken,
    )
