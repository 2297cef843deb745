"""Server-sent events, read (HTML Living Standard §9.2.6). No I/O: bytes in, frames out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

MAX_LINE_BYTES = 16 * 1024**2


@dataclass(frozen=True)
class Frame:
    """One event. ``id`` is the last id seen, which is what a reader resumes from."""

    event: str
    data: str
    id: str = ""

    def json(self) -> Any:
        return json.loads(self.data)


class Parser:
    """Feed it what arrives, cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._event = ""
        self._data: list[str] = []
        self.last_id = ""

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that this chunk completes.

        Raises:
            ValueError: a line that grows without end.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError(f"a line of an event stream is over {MAX_LINE_BYTES} bytes")
        frames = []
        for raw in lines:
            frame = self._line(raw.removesuffix(b"\r").decode("utf-8", "replace"))
            if frame is not None:
                frames.append(frame)
        return frames

    def _line(self, line: str) -> Frame | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self.last_id = value
        return None  # comments (an empty name) and unknown fields say nothing

    def _dispatch(self) -> Frame | None:
        event, data = self._event, self._data
        self._event, self._data = "", []
        return Frame(event or "message", "\n".join(data), self.last_id) if data else None
