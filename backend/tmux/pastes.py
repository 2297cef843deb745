"""Pastes in what an operator's terminal sends, without I/O (xterm's bracketed paste).

tmux 3.3a hands the brackets on whether or not the program in the pane asked for them, which puts them into a
password that is pasted. A paste is taken out of the stream: tmux's own paste knows what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass

BEGIN, END = b"\x1b[200~", b"\x1b[201~"
SURE = 3  # so much of BEGIN at an end is no key
MAX_PASTE_BYTES = 1024**2
"""The rest of a longer one is dropped."""


@dataclass(frozen=True)
class Typed:
    """Bytes of keys, or one whole paste without its brackets."""

    data: bytes
    pasted: bool = False


class PasteSplitter:
    """Feed it what comes, cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._paste: bytearray | None = None

    def feed(self, data: bytes) -> list[Typed]:
        """What this completes, in order."""
        found: list[Typed] = []
        data, self._rest = self._rest + data, b""
        while data:
            mark = BEGIN if self._paste is None else END
            before, marked, data = data.partition(mark)
            if not marked:
                held = _held(before, mark, SURE if self._paste is None else 1)
                before, self._rest = before[: len(before) - held], before[len(before) - held :]
            if self._paste is None:
                if before:
                    found.append(Typed(before))
                self._paste = bytearray() if marked else None
            else:
                self._paste += before[: MAX_PASTE_BYTES - len(self._paste)]
                if marked:
                    found.append(Typed(bytes(self._paste), pasted=True))
                    self._paste = None
        return found


def _held(data: bytes, mark: bytes, least: int) -> int:
    """How many bytes at the end may be the beginning of ``mark``."""
    return next((n for n in range(len(mark) - 1, least - 1, -1) if data.endswith(mark[:n])), 0)
