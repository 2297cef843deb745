"""The hash chain, without I/O: what a line is, how lines are linked, how a chain is checked.

A **line** is the canonical JSON of a row without ``hash``: an object with its keys sorted by code point, no
white space, ASCII only (``\\uXXXX`` for the rest), numbers as Python's ``json`` writes them (the shortest
that reads back), times as RFC 3339 in UTC with microseconds and ``Z``. ``hash`` is the SHA-256 of those bytes
in hex, ``prev`` the ``hash`` of the row before (empty for the first), ``seq`` counts from 1 without a gap.

NUL and lone surrogates are made visible before hashing (``␀``, ``\\udc80``): the audit is text.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_jsonable_python

from backend.models import AuditRow

Draft = dict[str, Any]  # a row that has no place in the chain yet: all fields but seq, prev, hash


@dataclass(frozen=True)
class Link:
    """One row as it is stored and hashed."""

    seq: int
    line: str
    hash: str

    def row(self) -> AuditRow:
        """The row, read from exactly what was hashed."""
        return AuditRow.model_validate({**json.loads(self.line), "hash": self.hash})


@dataclass(frozen=True)
class Head:
    """The end of a chain at a moment."""

    seq: int
    hash: str


EMPTY = Head(0, "")


def timestamp(at: datetime) -> str:
    """RFC 3339, UTC, always with microseconds: such strings sort as the times do."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def canonical(fields: dict[str, Any]) -> str:
    """The canonical JSON of plain values."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def plain(value: Any) -> Any:
    """Any value as what canonical JSON holds: visible text, integers, finite floats, lists, objects."""
    if isinstance(value, str):
        return value.replace("\x00", "␀").encode("utf-8", "backslashreplace").decode("utf-8")
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, dict):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return plain(to_jsonable_python(value, bytes_mode="base64", fallback=str))


def link(drafts: Iterable[Draft], head: Head) -> tuple[list[Link], Head]:
    """Chain drafts after ``head``; the links and the new head."""
    links: list[Link] = []
    for draft in drafts:
        line = canonical({**draft, "seq": head.seq + 1, "prev": head.hash})
        head = Head(head.seq + 1, digest(line))
        links.append(Link(head.seq, line, head.hash))
    return links, head


def digest(line: str) -> str:
    """SHA-256 in hex of a line."""
    return hashlib.sha256(line.encode("utf-8")).hexdigest()


def stands_at(line: str, seq: int, prev: str) -> bool:
    """Whether a line says this ``seq`` and ``prev``, without parsing it.

    Keys are sorted and no later value is an object, so the last of each key is the row's own; a quote inside
    a string is escaped and never looks like one.
    """
    prev_at = line.rfind('"prev":"')
    seq_at = line.rfind(',"seq":', prev_at)
    return line.startswith(f'{prev}","role":', prev_at + 8) and line.startswith(f"{seq},", seq_at + 7)


class ChainCheck:
    """Feed a chain in order; the first bad row and why stay in ``first_bad`` and ``reason``.

    ``anchors``: ``seq → hash`` of rows that were there, as signed heads claim. ``since``: where an earlier
    check came to.
    """

    def __init__(self, anchors: dict[int, str] | None = None, since: Head = EMPTY) -> None:
        self.rows = since.seq  # good ones
        self.first_bad: int | None = None
        self.reason = ""
        self._last_hash = since.hash
        self._anchors = anchors or {}

    @property
    def ok(self) -> bool:
        return self.first_bad is None

    @property
    def head(self) -> Head:
        """As far as it is good."""
        return Head(self.rows, self._last_hash)

    def feed(self, batch: Iterable[tuple[str, str]]) -> bool:
        """Check ``(line, hash)`` pairs; False once something is bad (what follows then proves nothing)."""
        if not self.ok:
            return False
        for line, stored in batch:
            seq = self.rows + 1
            fits = digest(line) == stored and stands_at(line, seq, self._last_hash)
            if not fits or self._anchors.get(seq, stored) != stored:
                self.first_bad, self.reason = seq, self._explain(line, stored)
                return False
            self.rows, self._last_hash = seq, stored
        return True

    def finish(self) -> None:
        """Nothing follows: heads beyond the end mean a cut tail."""
        claimed = max(self._anchors, default=0)
        if self.ok and claimed > self.rows:
            self.first_bad = self.rows + 1
            self.reason = f"the chain ends at row {self.rows}, row {claimed} was there: the tail was cut"

    def _explain(self, line: str, stored: str) -> str:
        expected = self.rows + 1
        if digest(line) != stored:
            return "the row was edited: its hash does not fit"
        try:
            fields = json.loads(line)
            seq, prev = fields["seq"], fields["prev"]
        except (ValueError, KeyError, TypeError):
            return "not a line of the audit"
        if seq != expected:
            return f"row {expected} is missing: {seq} follows"
        if prev != self._last_hash:
            return "the row does not follow the one before it"
        return "it was there with another hash: the chain was rewritten"
