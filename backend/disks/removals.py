"""When a name went: a folder keeps the time at which its last entry came or went, and no more.

So it is known only of a name that alone went from its folder, into which nothing came at that time or after.
What was in a folder that went, went with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from backend.disks.compare import Comparer, Pair
from backend.disks.ext4 import S_IFDIR, S_IFMT
from backend.disks.tree import node


def removals(comparer: Comparer, candidates: Sequence[Pair]) -> dict[bytes, int]:
    """Path of what is gone → when it went, in ns, where that is known."""
    gone = {path for path, _, new in candidates if new is None}
    changed: dict[bytes, int] = {}
    came: dict[bytes, int] = defaultdict(int)
    for path, old, new in candidates:
        if new is None:
            continue
        here = node(comparer.after, new, path)
        if here.mode & S_IFMT == S_IFDIR:
            changed[path] = here.mtime_ns
        if old is None or old.number != new.number:
            folder = _folder(path)
            came[folder] = max(came[folder], here.ctime_ns)
    tops: dict[bytes, bytes] = {}  # in order of their paths: a folder before what was in it
    entries: dict[bytes, int] = defaultdict(int)
    for path in sorted(gone):
        folder = _folder(path)
        tops[path] = tops[folder] if folder in gone else path
        entries[folder] += folder not in gone
    found = {}
    for path, top in tops.items():
        folder = _folder(top)
        if entries[folder] == 1 and folder in changed and came[folder] < changed[folder]:
            found[path] = changed[folder]
    return found


def _folder(path: bytes) -> bytes:
    return path.rpartition(b"/")[0] or b"/"
