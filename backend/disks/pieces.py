"""A manifest in pieces: runs of records, cut where the paths say so, each named by the SHA-256 of its bytes.

Whether a piece begins at a path is told by that path and by how many names the open piece holds: equal trees
have equal pieces, and a change moves no cut but those beside it. So a later manifest is made of an earlier
one's pieces and of what changed, and two manifests differ in nothing but the pieces that they do not share.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

from backend.disks.records import HEAD, LENGTHS
from backend.errors import DiskUnreadable

LEAST, USUAL, MOST = 64, 256, 1024
"""Names in a piece. A guest chooses its paths, and so its cuts; but not how many there are."""

ROOT = b"/"


class Part(NamedTuple):
    """A piece in its place: its first path and its SHA-256."""

    first: bytes
    sha256: bytes


class Piece(NamedTuple):
    """Joined records, and the first path among them."""

    first: bytes
    data: bytes

    @classmethod
    def of(cls, data: bytes) -> Piece:
        """Raises :class:`DiskUnreadable` when there are no records in it."""
        for path, _record in records(data):
            return cls(path, data)
        raise DiskUnreadable("a piece of a manifest is empty")

    @property
    def part(self) -> Part:
        """Its place and its name, which is worked out each time."""
        return Part(self.first, hashlib.sha256(self.data).digest())


def begins(path: bytes, held: int) -> bool:
    """Whether a piece begins at ``path`` when the one before it holds so many names."""
    return held >= LEAST and (not crc32(path) % USUAL or held >= MOST)


def digest(parts: Iterable[Part]) -> str:
    """The name of the manifest that is made of them: equal trees have equal ones."""
    return hashlib.sha256(b"".join(part.sha256 for part in parts)).hexdigest()


def records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Path and record of each name. Raises :class:`DiskUnreadable` on bytes that are no joined records."""
    at, end = 0, len(data)
    while at + HEAD.size <= end:
        xattrs, path, target = LENGTHS.unpack_from(data, at + HEAD.size - LENGTHS.size)
        start = at + HEAD.size
        stop = start + xattrs + path + target
        if stop > end:
            break
        yield data[start : start + path], data[at:stop]
        at = stop
    if at != end:
        raise DiskUnreadable("a manifest is cut off")


def cut(rows: Iterable[tuple[bytes, bytes]]) -> tuple[list[Piece], int]:
    """Pieces of records in order, and how many names the last one holds."""
    pieces: list[Piece] = []
    first, held = b"", list[bytes]()
    for path, record in rows:
        if begins(path, len(held)):
            pieces.append(Piece(first, b"".join(held)))
            held = []
        first = first if held else path
        held.append(record)
    if held:
        pieces.append(Piece(first, b"".join(held)))
    return pieces, len(held)


class Splice:
    """An earlier manifest on its way to a later one: ``wanted`` pieces are given to it until there are none.

    ``edits``: path → its record now; None where the name is gone. Raises :class:`DiskUnreadable` for edits
    that no tree can have.
    """

    def __init__(self, parts: Sequence[Part], edits: Mapping[bytes, bytes | None]) -> None:
        if not parts or parts[0].first != ROOT or edits.get(ROOT, b"") is None:
            raise DiskUnreadable("a manifest has no root")
        if any(not path.startswith(ROOT) for path in edits):
            raise DiskUnreadable("a change is at no absolute path")
        self._parts, self._edits, self._paths = parts, edits, sorted(edits)
        self._firsts = [part.first for part in parts]
        self._held: dict[int, bytes] = {}
        self._pieces: list[Part | Piece] = []
        self._wanted = self._touched()
        self.added = 0
        """How many more names there are than before, once nothing is wanted."""
        self._rebuild()

    @property
    def wanted(self) -> set[bytes]:
        """The names of pieces that it has to look into."""
        return {self._parts[at].sha256 for at in self._wanted}

    def give(self, pieces: Mapping[bytes, bytes]) -> None:
        """All that was wanted, by name."""
        self._held |= {at: pieces[self._parts[at].sha256] for at in self._wanted}
        self._rebuild()

    @property
    def pieces(self) -> Sequence[Part | Piece]:
        """The later manifest: parts of the earlier one, and new pieces."""
        return self._pieces

    def _touched(self) -> set[int]:
        found = {bisect_right(self._firsts, path) - 1 for path in self._edits}
        for at in sorted(found, reverse=True):
            while self._edits.get(self._firsts[at], b"") is None:  # it goes on where the one before it ends
                at -= 1
                found.add(at)
        return found

    def _rebuild(self) -> None:
        self._pieces, self._wanted, self.added = [], self._wanted - self._held.keys(), 0
        if self._wanted:
            return
        at = 0
        while at < len(self._parts):
            if at not in self._held:
                self._pieces.append(self._parts[at])
                at += 1
                continue
            first = at
            while at in self._held:
                at += 1
            pieces, last = cut(self._run(first, at))
            if at < len(self._parts) and not begins(self._firsts[at], last):
                self._wanted.add(at)
            self._pieces += pieces

    def _run(self, first: int, stop: int) -> list[tuple[bytes, bytes]]:
        """The names of the parts from ``first`` to before ``stop``, as they are now."""
        rows = dict(records(b"".join(self._held[at] for at in range(first, stop))))
        count = len(rows)
        end = self._firsts[stop] if stop < len(self._firsts) else None
        low = bisect_left(self._paths, self._firsts[first])
        high = len(self._paths) if end is None else bisect_left(self._paths, end)
        for path in self._paths[low:high]:
            record = self._edits[path]
            if record is None:
                rows.pop(path, None)
            else:
                rows[path] = record
        self.added += len(rows) - count
        return sorted(rows.items())


def unshared(one: Collection[Part], other: Collection[Part]) -> tuple[list[Part], list[Part]]:
    """The parts of each that the other has not. A path whose record is not the same in both lies in them."""
    mine, theirs = {part.sha256 for part in one}, {part.sha256 for part in other}
    return (
        [part for part in one if part.sha256 not in theirs],
        [part for part in other if part.sha256 not in mine],
    )
