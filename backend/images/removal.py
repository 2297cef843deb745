"""Takes an image away: first its name, so that nothing new is made of it, then what was made, then its files.

Between the two the record lies aside: a removal that fails puts it back, one that was killed is repeated.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from backend.errors import ImageNotFound
from backend.images.catalog import BLOCK_BYTES, Catalog
from backend.images.folder import Progress, locked
from backend.images.programs import Programs


@dataclass(frozen=True)
class Doomed:
    """What no other image has: its files, and the SHA-256 of its disk (empty: another has it too)."""

    files: frozenset[Path]
    sha256: str


Release = Callable[[Doomed], Awaitable[None]]
"""Ends what stands on the image while nobody can take it any more; an error keeps the image."""


async def remove_image(images: Catalog, name: str, release: Release, progress: Progress) -> int:
    """Remove the image of that name, also a broken one; how many bytes that gave back.

    Files that another record names stay. Raises :class:`ImageNotFound`, and what ``release`` raises.
    """
    record = images.record_of(name)
    aside = record.with_suffix(".removed")
    if not record.exists() and not aside.exists():
        raise ImageNotFound(f"there is no image {name!r}", remedy="fluid images list")
    async with locked(images.folder, Programs(images.folder / "build.log"), progress):
        if record.exists():
            record.rename(aside)
        try:
            doomed = _doomed(images, aside)
            await release(doomed)
        except BaseException:
            aside.rename(record)
            raise
        freed = await asyncio.to_thread(_unlink, doomed.files)
        aside.unlink()
    return freed


def _doomed(images: Catalog, record: Path) -> Doomed:
    others = list(images.folder.glob("*.json"))
    kept = {file for other in others for file in images.named_files(other)}
    sha256 = _sha256(record)
    shared = sha256 in {_sha256(other) for other in others}
    return Doomed(frozenset(images.named_files(record) - kept), "" if shared else sha256)


def _sha256(record: Path) -> str:
    """Empty for a record that cannot be read."""
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _unlink(files: frozenset[Path]) -> int:
    freed = 0
    for file in files:
        if file.exists():
            freed += file.stat().st_blocks * BLOCK_BYTES
            file.unlink()
    return freed
