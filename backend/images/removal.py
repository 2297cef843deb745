"""Takes an image away: first its name, so that nothing new is made of it, then what was made, then its files.

Between the two the record lies aside: a removal that fails puts it back, and so does the next start. A former
image, whose name a newer one took, goes in the same way once nobody stands on it; and so does what no record
names, which builds and imports that were cut off leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import struct
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from backend.errors import ImageInUse, ImageNotFound
from backend.hypervisor import HELD_SUFFIX
from backend.images.build import TEMP_PREFIX
from backend.images.catalog import ASIDE, BLOCK_BYTES, RECORD, SUFFIXES, Catalog, sha256_in
from backend.images.folder import Progress, is_free, locked, sweep
from backend.images.imports import WORK_PREFIX
from backend.images.programs import Programs


@dataclass(frozen=True)
class Doomed:
    """What no other image has: its files, and the SHA-256 of its disk (empty: another has it too)."""

    files: frozenset[Path]
    sha256: str


@dataclass(frozen=True)
class Former:
    """An image whose name a newer one took ``idle_s`` ago."""

    name: str
    sha256: str
    record: Path
    idle_s: float


LOOSE = ("*.qcow2", "kernel-*", "initrd-*", "*.new")
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


def formers(images: Catalog) -> list[Former]:
    """All former images, broken ones too. Blocking."""
    found = []
    for record in images.formers():
        with contextlib.suppress(FileNotFoundError):
            idle_s = time.time() - record.stat().st_mtime
            found.append(Former(record.stem.partition(".")[0], sha256_in(record), record, idle_s))
    return found


async def remove_former(images: Catalog, former: Former, release: Release) -> int | None:
    """Remove a former image as :func:`remove_image` does; None and nothing done while a build or an import is
    under way."""
    with is_free(images.folder) as free:
        if not free:
            return None
        doomed = await asyncio.to_thread(_doomed, images, former.record)
        await release(doomed)
        _must_be_closed(former.name, doomed.files)
        freed = await asyncio.to_thread(_unlink, doomed.files)
        former.record.unlink(missing_ok=True)
    return freed


def free_formers(images: Catalog, ours: Iterable[Path]) -> list[Former]:
    """The former images that no other installation than those in the folders ``ours`` stands on. Blocking."""
    mine = [folder.resolve() for folder in ours]
    return [
        former
        for former in formers(images)
        if not any(_holder(file, mine) for file in images.named_files(former.record))
    ]


def stray_files(images: Catalog) -> list[Path]:
    """What no record names and nobody holds: the files and folders of builds that were cut off, disks whose
    record was lost. None while a build is under way. Blocking."""
    with is_free(images.folder) as free:
        return _stray(images) if free else []


def remove_stray(images: Catalog, path: Path) -> bool:
    """Remove one of them, if it is one still. Blocking."""
    with is_free(images.folder) as free:
        if not free or path not in _stray(images):
            return False
        _must_be_closed(path.name, [] if path.is_dir() else [path])
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return not path.exists()


def _stray(images: Catalog) -> list[Path]:
    named = images.file_names()
    loose = {path for pattern in LOOSE for path in images.folder.glob(pattern) if path.name not in named}
    free = {file for file in loose if _holder(file, ()) is None}
    return sorted(free | {*images.folder.glob(f"{TEMP_PREFIX}*")})


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
            aside.rename(aside.with_suffix(RECORD))
            said.append(f"undid the removal of image {aside.stem}")
        else:
            _unlink(_doomed(images, aside).files)
            aside.unlink()
            said.append(f"finished the removal of image {aside.stem}")
    return said


def _must_be_closed(name: str, files: Iterable[Path]) -> None:
    """The folder may be shared: QEMU holds locks on the disks of any installation's running guests, and each
    installation says that it holds a disk as long as it may need it."""
    for file in files:
        if holder := _holder(file, ()):
            raise ImageInUse(f"the installation in {holder} stands on {name}", remedy="remove it there first")
        with contextlib.suppress(FileNotFoundError, PermissionError), file.open("r+b") as disk:
            try:
                fcntl.fcntl(disk, fcntl.F_OFD_SETLK, QEMU_LOCK)
            except OSError as error:
                raise ImageInUse(
                    f"a guest of another installation runs on {name}",
                    remedy="destroy it there first; `fuser` on the file names its process",
                ) from error


def _holder(file: Path, ours: Iterable[Path]) -> Path | None:
    """The folder of an installation that holds a file, but those of ``ours``."""
    links = file.parent.glob(f"{file.name}.*{HELD_SUFFIX}")
    holders = (link.resolve() for link in links if link.exists())
    return next((holder for holder in holders if holder not in ours), None)


def _doomed(images: Catalog, record: Path) -> Doomed:
    others = _records(images) - {record}
    kept = {file for other in others for file in images.named_files(other)}
    sha256 = sha256_in(record)
    shared = sha256 in {sha256_in(other) for other in others}
    return Doomed(frozenset(images.named_files(record) - kept), "" if shared else sha256)


def _records(images: Catalog) -> set[Path]:
    """Of all images, those that are being removed among them."""
    return {path for suffix in SUFFIXES for path in images.folder.glob(f"*{suffix}")}


def _unlink(files: frozenset[Path]) -> int:
    freed = 0
    for file in files:
        if file.exists():
            freed += file.stat().st_blocks * BLOCK_BYTES
            file.unlink()
        for link in file.parent.glob(f"{file.name}.*{HELD_SUFFIX}"):
            link.unlink(missing_ok=True)  # of installations that are gone
    return freed
