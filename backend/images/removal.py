"""Takes an image away: first its name, so that nothing new is made of it, then what was made, then its files.

Between the two the record lies aside: a removal that fails puts it back, and so does the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import struct
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from backend.errors import ImageInUse, ImageNotFound
from backend.images.catalog import BLOCK_BYTES, Catalog
from backend.images.folder import Progress, is_free, locked, sweep
from backend.images.imports import WORK_PREFIX
from backend.images.programs import Programs


@dataclass(frozen=True)
class Doomed:
    """What no other image has: its files, and the SHA-256 of its disk (empty: another has it too)."""

    files: frozenset[Path]
    sha256: str


ASIDE = ".removed"
# struct flock (fcntl(2)): a write lock on the bytes that QEMU locks for reading (block/file-posix.c).
QEMU_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 100, 200, 0)
Release = Callable[[Doomed], Awaitable[None]]
"""Ends what stands on the image while nobody can take it any more; an error keeps the image."""


async def remove_image(images: Catalog, name: str, release: Release, progress: Progress) -> int:
    """Remove the image of that name, also a broken one; how many bytes that gave back.

    Files that another record names stay. Raises :class:`ImageNotFound`, and what ``release`` raises.
    """
    record = images.record_of(name)
    aside = record.with_suffix(ASIDE)
    if not record.exists() and not aside.exists():
        raise ImageNotFound(f"there is no image {name!r}", remedy="fluid images list")
    async with locked(images.folder, Programs(images.folder / "build.log"), progress):
        if record.exists():
            record.rename(aside)
        try:
            doomed = _doomed(images, aside)
            await release(doomed)
            _must_be_closed(name, doomed.files)
        except BaseException:
            aside.rename(record)
            raise
        freed = await asyncio.to_thread(_unlink, doomed.files)
        aside.unlink()
    return freed


def recover(images: Catalog) -> list[str]:
    """At a start: what was cut off is undone, or finished where files are gone; says what. Blocking."""
    said = []
    if count := sweep(images.folder, WORK_PREFIX):
        said.append(f"removed what {count} cut off imports left")
    with is_free(images.folder) as free:  # else a removal may be under way, of a backend that lives
        said += _settle(images) if free else []
    return said


def _settle(images: Catalog) -> list[str]:
    said = []
    for aside in images.folder.glob(f"*{ASIDE}"):
        if all(file.exists() for file in images.named_files(aside)):
            aside.rename(aside.with_suffix(".json"))
            said.append(f"undid the removal of image {aside.stem}")
        else:
            _unlink(_doomed(images, aside).files)
            aside.unlink()
            said.append(f"finished the removal of image {aside.stem}")
    return said


def _must_be_closed(name: str, files: Iterable[Path]) -> None:
    """The folder may be shared: QEMU holds locks on the disks of any installation's running guests."""
    for file in files:
        with contextlib.suppress(FileNotFoundError, PermissionError), file.open("r+b") as disk:
            try:
                fcntl.fcntl(disk, fcntl.F_OFD_SETLK, QEMU_LOCK)
            except OSError as error:
                raise ImageInUse(
                    f"a guest of another installation runs on {name}",
                    remedy="destroy it there first; `fuser` on the file names its process",
                ) from error


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
