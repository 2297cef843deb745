"""The keys an agent may press, by tmux's names (tmux(1), KEY BINDINGS)."""

from __future__ import annotations

import string

from backend.errors import InvalidValue

_NAMED = [
    *("Enter", "Escape", "Tab", "BTab", "Space", "BSpace"),
    *("Up", "Down", "Left", "Right", "Home", "End", "PPage", "NPage", "IC", "DC"),
    *(f"F{number}" for number in range(1, 13)),
]
ALLOWED = frozenset(_NAMED) | {f"C-{letter}" for letter in string.ascii_lowercase}


def check_key(key: str) -> str:
    """``key`` itself. Raises :class:`InvalidValue` for one that is not on the list."""
    if key in ALLOWED:
        return key
    raise InvalidValue(f"{key!r} is not a key", remedy=f"use text, or one of {' '.join(_NAMED)}, C-a … C-z")
