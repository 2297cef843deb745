"""What an agent's terminal showed, kept for replay."""

from __future__ import annotations

from datetime import datetime

from backend.models.base import Answer


class Recording(Answer):
    """One terminal from its opening to its end. ``ended_at`` is None while it is recorded; ``is_cut`` says
    that its middle is gone, because it grew over the limit."""

    id: str
    sandbox_id: str
    sandbox_name: str = ""
    pane_id: str = ""
    owner_uid: int = -1
    width: int = 80
    height: int = 24
    started_at: datetime
    ended_at: datetime | None = None
    duration_s: float = 0.0
    size_bytes: int = 0  # on the disk
    is_cut: bool = False
