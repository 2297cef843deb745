"""What changed files mean: each kind of setting, before and after, from the files of the two disks.

A file is read by the first reader whose pattern its path matches. One that cannot be read whole on both sides
states nothing and is named in a note: half an answer would be a lie.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from backend.changes.settings import (
    access,
    certificates,
    firewall,
    layered,
    repositories,
    schedules,
    system,
)
from backend.changes.settings.fact import (
    MAX_FILE_BYTES,
    MAX_LINES,
    Difference,
    Fact,
    Place,
    Reader,
    Teller,
    settle,
)
from backend.changes.settings.layered import FOLDERS, LAYERED, MAINS, Layered
from backend.disks import Comparison, Content, Entry, Pair
from backend.disks.contents import VOUCHED
from backend.models import SettingKind, wire_path

__all__ = ["FOLDERS", "MAINS", "MAX_FILE_BYTES", "Found", "Teller", "context", "find", "states"]

MAX_FACTS = 5_000  # of one file
MAX_TOTAL_BYTES = 8 << 20  # parsed in all: seconds, whatever a guest writes
_READERS = (
    *access.READERS,
    *system.READERS,
    *schedules.READERS,
    *firewall.READERS,
    *repositories.READERS,
)
_KNOWN = re.compile(
    b"|".join(b"(?:%s)" % reader.pattern.pattern for reader in (*_READERS, *(one.reader for one in LAYERED))),
    re.DOTALL,
)

_FOLLOWED = frozenset(
    {SettingKind.SUDO, SettingKind.SSHD, SettingKind.LOGIN_KEY, SettingKind.CRON, SettingKind.FIREWALL}
)

Read = Mapping[bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class Found:
    """A difference and its kind."""

    kind: SettingKind
    difference: Difference


def states(path: bytes) -> bool:
    """Whether a file at ``path`` states something that :func:`find` knows."""
    return _KNOWN.fullmatch(path) is not None


def context(comparison: Comparison) -> list[bytes]:
    """Files that did not change and without which the changed ones cannot be understood."""
    changed = {pair.path: pair for pair in comparison.pairs}
    found = []
    for one in LAYERED:
        if not any(one.reader.pattern.fullmatch(path) for path in changed):
            continue
        paths = {one.main}
        for folder in one.folders:
            for item in comparison.after.listed.get(folder, ()):
                paths.add(folder + b"/" + item.path)
        for path in sorted(paths):
            vouched = path in changed and _why_not(changed[path].after_content) == VOUCHED
            if one.reader.pattern.fullmatch(path) and (path not in changed or vouched):
                found.append(path)
    return found


def find(comparison: Comparison, read: Read, notes: list[str]) -> list[Found]:
    """All differences by kind and name. ``read``: what :func:`context` asked for. Adds to ``notes``."""
    before: dict[SettingKind, list[Fact]] = {}
    after: dict[SettingKind, list[Fact]] = {}
    left = MAX_TOTAL_BYTES
    for pair in comparison.pairs:
        for reader in _readers(pair, notes):
            left -= _bytes(pair)
            if left < 0:
                notes.append(f"{wire_path(pair.path)}: what it states is not told (too many changed files)")
                continue
            old, new = _facts(reader, _before(pair)), _facts(reader, _after(pair))
            if max(len(old), len(new)) > MAX_FACTS:
                notes.append(f"{wire_path(pair.path)}: states more than {MAX_FACTS} things, none is told")
                continue
            before.setdefault(reader.kind, []).extend(old)
            after.setdefault(reader.kind, []).extend(new)
    for side in (before, after):
        if SettingKind.CERTIFICATE in side:
            keys = side.get(SettingKind.PRIVATE_KEY, [])
            side[SettingKind.CERTIFICATE] = certificates.paired(side[SettingKind.CERTIFICATE], keys)
    ordered = {reader.kind for reader in _READERS if reader.ordered}
    differences = [
        Found(kind, one)
        for kind in after
        for one in settle(before[kind], after[kind], ordered=kind in ordered)
    ]
    for one in LAYERED:
        differences += _effective(one, comparison.pairs, read, notes)
    order = list(SettingKind)
    return sorted(differences, key=lambda one: (order.index(one.kind), one.difference.name))


def _readers(pair: Pair, notes: list[str]) -> Iterator[Reader]:
    """Who reads a pair: by its path where both sides can be parsed, by what it declares in any case."""
    found = None
    if states(pair.path):
        found = next((reader for reader in _READERS if reader.pattern.fullmatch(pair.path)), None)
    if found is not None and not found.links:
        _note_link(pair, found.kind, notes)
    if found is not None and _legible(pair, notes):
        yield found
    if any(content is not None and content.facts for content in (pair.before_content, pair.after_content)):
        yield from certificates.READERS


def _note_link(pair: Pair, kind: SettingKind, notes: list[str]) -> None:
    """Who gives rights by such a file follows a link, and nothing here does."""
    if kind in _FOLLOWED and pair.after is not None and pair.after.target is not None:
        where = wire_path(pair.after.target)
        notes.append(f"{wire_path(pair.path)}: is a link, what {where} states is not told")


def _bytes(pair: Pair) -> int:
    contents = (pair.before_content, pair.after_content)
    return sum(len(content.data) for content in contents if content is not None and content.data is not None)


def _facts(reader: Reader, place: Place | None) -> list[Fact]:
    if place is None or (place.target is not None and not reader.links):
        return []
    stated = islice(reader.parse(place), MAX_FACTS + 1)
    return [Fact(name, values, place.path) for name, values in stated]


def _effective(one: Layered, pairs: Iterable[Pair], read: Read, notes: list[str]) -> Iterator[Found]:
    changed = [pair for pair in pairs if one.reader.pattern.fullmatch(pair.path)]
    for pair in changed:
        _note_link(pair, one.reader.kind, notes)
    legible = [pair for pair in changed if _legible(pair, notes, vouched=True)]
    if not changed or legible != changed:
        return
    same = {
        path: Place(path, data=data)
        for path, data in read.items()
        if data is not None and one.reader.pattern.fullmatch(path)
    }
    old = {path: place for path, place in same.items() if path not in {pair.path for pair in changed}}
    new = dict(old)
    for pair in changed:
        for side, places in ((_before(pair), old), (_after(pair), new)):
            if side is not None and side.target is None:
                places[pair.path] = side if side.data is not None else same.get(pair.path, side)
    was, counts = one.effective(old), one.effective(new)
    for difference in settle(was, counts, ordered=False):
        yield Found(one.reader.kind, difference)
    mine = [new[pair.path] for pair in changed if pair.path in new]
    notes.extend(layered.without_effect(one, mine, counts))


def _legible(pair: Pair, notes: list[str], *, vouched: bool = False) -> bool:
    """Whether the content can be parsed on both sides; if not, a note says why. A package's own content was
    not handed over, and its package's row says enough; ``vouched``: it was read apart."""
    reasons = {_why_not(pair.before_content), _why_not(pair.after_content)} - {""}
    if vouched:
        reasons -= {VOUCHED}
    if reasons and reasons != {VOUCHED}:
        notes.append(f"{wire_path(pair.path)}: what it states is not told ({', '.join(sorted(reasons))})")
    return not reasons


def _why_not(content: Content | None) -> str:
    """Why a file's content cannot be parsed; empty where it can."""
    if content is None:
        return ""
    if content.data is None:
        return content.withheld or "not read"
    if len(content.data) > MAX_FILE_BYTES:
        return f"over {MAX_FILE_BYTES >> 10} KiB"
    return f"over {MAX_LINES} lines" if content.data.count(b"\n") > MAX_LINES else ""


def _before(pair: Pair) -> Place | None:
    return _place(pair.before, pair.before_content)


def _after(pair: Pair) -> Place | None:
    return _place(pair.after, pair.after_content)


def _place(entry: Entry | None, content: Content | None) -> Place | None:
    if entry is None:
        return None
    data = content.data if content is not None else None
    declares = content.facts if content is not None and content.facts else {}
    return Place(entry.path, entry.mode, data, entry.target, declares)
