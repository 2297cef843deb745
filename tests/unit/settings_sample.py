"""Settings as the differ finds them in files that are given as text."""

from __future__ import annotations

from backend.changes.attribution import Timeline
from backend.changes.semantic import Semantics
from backend.changes.settings import Teller, find
from backend.disks import Comparison, Content, Entry, Pair, Side
from backend.models import ChangeVerb, FileChange, FileKind, SettingChange

File = tuple[str, str | None, str | None]
"""Path, text before, text after; ``→ TARGET`` is a link."""


def stated(*files: File, noise: str = "") -> list[SettingChange]:
    """What the files state otherwise than before, without packages and commands. ``noise`` hides them."""
    pairs = [
        Pair(_entry(path, before), _entry(path, after), _content(before), _content(after))
        for path, before, after in sorted(files)
    ]
    changes = [FileChange(path=path, verb=ChangeVerb.MODIFIED, hidden=noise) for path, _, _ in files]
    found = find(Comparison(tuple(pairs), Side(), Side()), {}, [])
    return Semantics(pairs, changes, Timeline([])).settings(found, Teller(b"k" * 32), set())


def _target(text: str | None) -> bytes | None:
    return text[2:].encode() if text is not None and text.startswith("→ ") else None


def _entry(path: str, text: str | None) -> Entry | None:
    if text is None:
        return None
    target = _target(text)
    kind = FileKind.FILE if target is None else FileKind.LINK
    return Entry(path.encode(), kind, 0o755, 0, 0, 0, 0, 0, 12, 1, target, None, ())


def _content(text: str | None) -> Content | None:
    if text is None or _target(text) is not None:
        return None
    return Content(len(text), "a" * 64, None, text.encode(), "")
