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


class ChainCheck:
    """Feed a chain in order; the first bad row and why stay in ``first_bad`` and ``reason``.

    ``anchors``: ``seq → hash`` that signed heads claim.
    """

    def __init__(self, anchors: dict[int, str] | None = None) -> None:
        self.head = EMPTY
        self.rows = 0
        self.first_bad: int | None = None
        self.reason = ""
        self._anchors = anchors or {}

    @property
    def ok(self) -> bool:
        return self.first_bad is None

    def feed(self, batch: Iterable[tuple[str, str]]) -> bool:
        """Check ``(line, hash)`` pairs; False once something is bad (what follows then proves nothing)."""
        for line, stored in batch:
            if not self.ok:
                return False
            self.rows += 1
            self._check(line, stored)
        return self.ok

    def finish(self) -> None:
        """Nothing follows: heads beyond the end mean a cut tail."""
        missing = [seq for seq in self._anchors if seq > self.head.seq]
        if self.ok and missing:
            self._bad(
                self.head.seq + 1,
                f"the chain ends at row {self.head.seq}, a signed head says {max(missing)}: the tail was cut",
            )

    def _check(self, line: str, stored: str) -> None:
        expected = self.head.seq + 1
        try:
            fields = json.loads(line)
            seq, prev = fields["seq"], fields["prev"]
        except (ValueError, KeyError, TypeError):
            return self._bad(expected, "not a line of the audit")
        if digest(line) != stored:
            return self._bad(expected, "the row was edited: its hash does not fit")
        if seq != expected:
            return self._bad(expected, f"row {expected} is missing: {seq} follows")
        if prev != self.head.hash:
            return self._bad(expected, "the row does not follow the one before it")
        if self._anchors.get(seq, stored) != stored:
            return self._bad(seq, "a signed head names another hash: the chain was rewritten")
        self.head = Head(seq, stored)
        return None

    def _bad(self, seq: int, reason: str) -> None:
        self.first_bad, self.reason = seq, reason
