"""Where a name comes to by the links on the way, in any tree that can tell which of its names are links."""

from __future__ import annotations

import posixpath
from collections.abc import Callable

MAX_LINKS = 40  # on the way to one file, as of Linux


def leads_to(path: bytes, target: Callable[[bytes], bytes | None]) -> bytes:
    """The name that ``path`` has without links; with a final slash the last part is followed too. ``target``:
    what a link says, None where no link is. In a circle it is where the last of too many links stood."""
    follow, here, links = path.endswith(b"/"), b"", 0
    left = [part for part in reversed(path.split(b"/")) if part]
    while left:
        name = left.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            here = posixpath.dirname(here).rstrip(b"/")
            continue
        here += b"/" + name
        told = target(here) if (left or follow) and links < MAX_LINKS else None
        if told:
            links += 1
            here = b"" if told.startswith(b"/") else posixpath.dirname(here).rstrip(b"/")
            left += reversed(told.split(b"/"))
    return here or b"/"
