"""Of the files that a diff reads whole, those that are too long for it: what they state is not told, and that
is said. A guest writes them, and who reads millions of rows for it answers others late."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from backend.disks import Comparison, Entry, Side
from backend.models import FileKind, wire_path

MAX_BYTES = 16 << 20
MAX_LINES = 300_000
MAX_ROWS = 20_000  # of accounts


def bounded(comparison: Comparison, accounts: Collection[bytes]) -> tuple[Comparison, dict[bytes, str]]:
    """The comparison without the files of which a side is too long, and those with a sentence each. Half an
    answer would be a lie, so neither side of such a file is read. ``accounts`` have a row a line."""
    sides = comparison.before, comparison.after
    pairs = {pair.path: (pair.before, pair.after) for pair in comparison.pairs}
    unread: dict[bytes, str] = {}
    for path in sorted({path for side in sides for path in side.whole}):
        lines = MAX_ROWS if path in accounts else MAX_LINES
        entries = pairs.get(path, (None, None))
        whys = [
            _why_not(side.whole.get(path), entry, lines) for side, entry in zip(sides, entries, strict=True)
        ]
        if why := next(filter(None, whys), ""):
            unread[path] = f"{wire_path(path)}: what it states is not told ({why})"
    if not unread:
        return comparison, unread
    old, new = (_without(side, unread) for side in sides)
    return replace(comparison, before=old, after=new), unread


def _why_not(data: bytes | None, entry: Entry | None, lines: int) -> str:
    """Why a file is not read; empty where it is. Where the disk's reader gave nothing, its size tells."""
    size = len(data) if data is not None else entry.size if entry and entry.kind is FileKind.FILE else 0
    if size > MAX_BYTES:
        return f"over {MAX_BYTES >> 20} MiB"
    return f"over {lines} lines" if data is not None and data.count(b"\n") > lines else ""


def _without(side: Side, paths: Collection[bytes]) -> Side:
    return replace(side, whole={path: None if path in paths else data for path, data in side.whole.items()})
