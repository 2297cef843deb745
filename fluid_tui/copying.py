"""What an operator takes along: into the terminal's clipboard (OSC 52), or into a file of their own.

No terminal answers an OSC 52, so the console says what it sent, and where the way to a file is.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

from fluid_tui.attention import TITLED, wrapped

MAX_BYTES = 74_994
"""Its sequence is just below 100,000 bytes, where terminals give up."""
SCREEN_BYTES = 512
"""GNU screen passes on strings of up to 768 bytes."""
FILE_MODE = 0o600


def clipboard_sequence(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """What puts ``text`` into the outer terminal's clipboard; empty if nothing can.

    tmux takes the bare sequence where ``set-clipboard`` is on, the wrapped one with ``allow-passthrough``.
    """
    raw = text.encode()
    if len(raw) > MAX_BYTES or not environment.get("TERM", "").startswith(TITLED):
        return ""
    bare = f"\x1b]52;c;{b64encode(raw).decode()}\x07"
    if "TMUX" in environment:
        return bare + wrapped(bare, tmux=True)
    if "STY" in environment:
        parts = (bare[at : at + SCREEN_BYTES] for at in range(0, len(bare), SCREEN_BYTES))
        return "".join(f"\x1bP{part}\x1b\\" for part in parts)
    return bare


def write_new(path: Path, text: str) -> None:
    """A file that only its owner reads. Refuses to follow or overwrite what is there.

    Raises:
        OSError: it cannot be made.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
