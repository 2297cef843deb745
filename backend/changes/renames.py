"""Which removed path is which added one: by inode and content, or by a content that only those two have.

An inode's number alone proves nothing: ext4 hands a freed one to the next file.
"""

from __future__ import annotations

from collections.abc import Sequence

from backend.disks import Entry, Pair
from backend.models import FileKind

_Names = dict[bytes, bytes]


def renames(pairs: Sequence[Pair]) -> _Names:
    """New path → old path. Each path stands once."""
    gone = [pair for pair in pairs if pair.before is not None and pair.after is None]
    fresh = [pair for pair in pairs if pair.before is None and pair.after is not None]
    if not gone or not fresh:
        return {}
    by_inode = {pair.before.inode: pair for pair in gone if pair.before is not None and pair.before.links < 2}
    found: _Names = {}
    taken: set[bytes] = set()
    for pair in fresh:
        old = by_inode.get(pair.after.inode) if pair.after is not None else None
        if old is not None and old.path not in taken and _moved(old, pair):
            found[pair.path] = old.path
            taken.add(old.path)
    for new_path, old_path in _same_content(gone, fresh, found, taken):
        found[new_path] = old_path
    return found | _folders(gone, fresh, found)


def _moved(old: Pair, new: Pair) -> bool:
    """Whether one inode is still what it was, under another name."""
    before, after = old.before, new.after
    if before is None or after is None or before.kind is not after.kind or after.links > 1:
        return False
    if before.kind is FileKind.DIRECTORY:
        return False  # its members tell
    if before.kind is not FileKind.FILE:
        return (before.target, before.rdev, before.mtime_ns) == (after.target, after.rdev, after.mtime_ns)
    one, other = old.before_content, new.after_content
    if one is None or other is None or one.size != other.size:
        return False
    if one.sha256 is None or not one.size:  # too large to be hashed, or empty
        return one.sha256 == other.sha256 and before.mtime_ns == after.mtime_ns
    return one.sha256 == other.sha256


def _same_content(
    gone: Sequence[Pair], fresh: Sequence[Pair], found: _Names, taken: set[bytes]
) -> list[tuple[bytes, bytes]]:
    """Copied and removed: a content that one removed and one added file have, and no other."""
    old: dict[str, list[bytes]] = {}
    new: dict[str, list[bytes]] = {}
    for pair in gone:
        if pair.path not in taken and pair.before_content is not None and pair.before_content.size:
            old.setdefault(pair.before_content.sha256 or "", []).append(pair.path)
    for pair in fresh:
        if pair.path not in found and pair.after_content is not None and pair.after_content.size:
            new.setdefault(pair.after_content.sha256 or "", []).append(pair.path)
    return [
        (new[sha256][0], paths[0])
        for sha256, paths in old.items()
        if sha256 and len(paths) == 1 and len(new.get(sha256, ())) == 1
    ]


def _folders(gone: Sequence[Pair], fresh: Sequence[Pair], found: _Names) -> _Names:
    """Directories that kept their inode, and their time or a member."""
    old = {
        pair.before.inode: pair.before for pair in gone if pair.before is not None and _is_folder(pair.before)
    }
    members = {(_parent(new), _parent(old_path)) for new, old_path in found.items()}
    moved: _Names = {}
    # From the deepest, so that a folder that holds only folders is known by those.
    for pair in sorted(fresh, key=lambda one: one.path.count(b"/"), reverse=True):
        after = pair.after
        before = old.get(after.inode) if after is not None and _is_folder(after) else None
        if after is None or before is None:
            continue
        if after.mtime_ns == before.mtime_ns or (after.path, before.path) in members:
            moved[after.path] = before.path
            members.add((_parent(after.path), _parent(before.path)))
    return moved


def _is_folder(entry: Entry | None) -> bool:
    return entry is not None and entry.kind is FileKind.DIRECTORY


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]
