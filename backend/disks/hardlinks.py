"""Hard links: which of the names that may have changed lead to one file."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

Names = dict[bytes, tuple[bytes, ...]]
"""Path → all names of its file, sorted; only of files with several."""


def shared(*sides: Iterable[tuple[bytes, Hashable]]) -> list[Names]:
    """The names of each side, from paths and what tells their files apart. Equal groups are one object, so
    that ``is`` compares them: a guest may give a file 65,000 names."""
    known: dict[tuple[bytes, ...], tuple[bytes, ...]] = {}
    found: list[Names] = []
    for side in sides:
        by_file: dict[Hashable, list[bytes]] = {}
        for path, file in side:
            by_file.setdefault(file, []).append(path)
        names: Names = {}
        for paths in by_file.values():
            if len(paths) > 1:
                group = tuple(sorted(paths))
                names.update(dict.fromkeys(group, known.setdefault(group, group)))
        found.append(names)
    return found
