"""Secrets in a recording are withheld when it is read: the marks of :mod:`backend.secret_marks`, looked for
in what was printed as one text, wherever it was cut into events and whatever colours stand between."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from dataclasses import replace

from backend.asciicast import OUTPUT, CastEvent
from backend.secret_marks import KEY_HEADER, PASSWORD_HASH, TOKEN

HIDDEN = "*"
KEY_CHARS = 20_000

_KEY_HEADER = re.compile(
    KEY_HEADER.pattern.decode() + "|-----BEGIN (?:PGP PRIVATE KEY BLOCK|OpenVPN Static key V1)-----"
)
_KEY_BODY = re.compile(rf"[A-Za-z0-9+/=\s]{{0,{KEY_CHARS}}}")
_KEY_END = re.compile(
    r"-----END (?:(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?|OpenVPN Static key V1)-----|Private-MAC: *[0-9a-f]+"
)
_OTHERS = (
    re.compile(TOKEN.pattern.decode(), re.ASCII),
    re.compile(PASSWORD_HASH.pattern.decode(), re.ASCII),
)
# What a terminal draws nothing for, and how readline goes to the next row.
_UNDRAWN = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_k][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]"
    r"| \r(?!\n)|[\x00-\x08\x0e-\x1f\x7f]"
)
_DRAWN = re.compile(r"\S")


def redacted(events: list[CastEvent]) -> list[CastEvent]:
    """The events with every character of a secret as ``*``; the same list when there is none."""
    outputs = [event.data for event in events if event.code == OUTPUT]
    text = "".join(outputs)
    plain = _Plain(text)
    found = [each.span() for pattern in _OTHERS for each in pattern.finditer(plain.text)]
    found += _keys(plain.text)
    if not found:
        return events
    hidden = _hide(text, [piece for span in found for piece in plain.pieces(*span)])
    made, at = [], 0
    for event in events:
        if event.code == OUTPUT:
            event, at = replace(event, data=hidden[at : at + len(event.data)]), at + len(event.data)
        made.append(event)
    return made


def _keys(text: str) -> list[tuple[int, int]]:
    """Private keys from header to end. One whose end does not come was cut off: its body goes.

    Every character is looked at a bounded number of times, whatever a guest prints.
    """
    ends = [found.end() for found in _KEY_END.finditer(text)]
    keys: list[tuple[int, int]] = []
    for header in _KEY_HEADER.finditer(text):
        start, end = header.span()
        if keys and start < keys[-1][1]:
            continue
        after = bisect_right(ends, end)
        if after < len(ends) and ends[after] - end <= KEY_CHARS:
            end = ends[after]
        elif body := _KEY_BODY.match(text, end):
            end = body.end()
        keys.append((start, end))
    return keys


def _hide(text: str, pieces: list[slice]) -> str:
    kept, at = [], 0
    for piece in sorted(pieces, key=lambda one: one.start):
        start = max(piece.start, at)
        if start < piece.stop:
            kept += [text[at:start], _DRAWN.sub(HIDDEN, text[start : piece.stop])]
            at = piece.stop
    return "".join([*kept, text[at:]])


class _Plain:
    """What is drawn of a text, and where it stood."""

    def __init__(self, text: str) -> None:
        kept: list[str] = []
        self._plain = array("Q")  # where each kept piece begins, there and here
        self._full = array("Q")
        at = length = 0
        for gap in _UNDRAWN.finditer(text):
            if gap.start() > at:
                self._plain.append(length)
                self._full.append(at)
                kept.append(text[at : gap.start()])
                length += gap.start() - at
            at = gap.end()
        self._plain.append(length)
        self._full.append(at)
        kept.append(text[at:])
        self.text = "".join(kept)

    def pieces(self, start: int, end: int) -> list[slice]:
        """The places in the whole text of what is drawn from ``start`` to ``end``."""
        found = []
        index = bisect_right(self._plain, start) - 1
        while start < end:
            begin = self._plain[index]
            stop = self._plain[index + 1] if index + 1 < len(self._plain) else len(self.text)
            upto = min(end, stop)
            offset = self._full[index] - begin
            found.append(slice(start + offset, upto + offset))
            start, index = upto, index + 1
        return found
