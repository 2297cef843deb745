"""Makes an image of somebody's machine: its disk is brought once, prepared or taken as it is, recorded.

The machine's own files are opened for reading only, without a lock in anybody's way, and a copy during which
they changed is thrown away. From the copy on it is an import like any other.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from backend.errors import DuplicateName, ImageRefused, WrongState
from backend.images import architectures
from backend.images.catalog import BuiltImage, Catalog, sha256_of
from backend.images.convert import NEEDED, Layer
from backend.images.fetch import CHUNK_BYTES, Staging
from backend.images.folder import Progress, locked, put_file, workspace
from backend.images.imports import (
    CONVERTED,
    PREPARED,
    WORK_PREFIX,
    ImportLimits,
    Made,
    Prepare,
    describe,
    flatten,
)
from backend.images.programs import Programs, require
from backend.images.qcow2 import Format, backing_of
from backend.models import check_name

CHAIN_MAX = 32
REBASE = "name it: qemu-img rebase -u -F FORMAT -b BASE TOP, on the host, while the domain is off"


class PrepareClone(Prepare, Protocol):
    """As for imports; and for a disk that is to be used as it is."""

    async def examine_as_it_is(self, name: str, disk: Path) -> int:
        """How many packages a disk holds that nobody prepared. Raises PreparationFailed: it is no guest of
        ours."""
        ...


@dataclass(frozen=True)
class Brought:
    """The disk as files in the folder of the work, the top first, and where they are from, in words."""

    layers: Sequence[Layer]
    origin: str


Look = Callable[[Path], Awaitable[None]]
"""Looks at a copy before anything is made of it; an error ends that."""
Bring = Callable[[Path], Awaitable[Brought]]
"""Fills a folder of ours with the disk's files."""


@dataclass(frozen=True)
class FileLayer:
    """A file or block device of a machine's disk."""

    path: Path
    format: Format


Fetch = Callable[[Path, Path], Awaitable[None]]
"""Writes a file of another machine to a new file of this one."""


async def clone_image(
    images: Catalog,
    name: str,
    bring: Bring,
    prepare: PrepareClone,
    limits: ImportLimits,
    progress: Progress,
    look: Look,
    *,
    as_it_is: bool = False,
) -> BuiltImage:
    """The image of that name, recorded; on any failure nothing is left. ``as_it_is``: the copy is not booted.

    Raises:
        DuplicateName: there is one; it is never changed in place.
        ImageRefused, PreparationFailed: why the disk is not used. What ``bring`` and ``look`` raise.
    """
    started = time.monotonic()
    record = images.record_of(check_name(name, "image name"))
    require(NEEDED, "copying a machine's disk")
    images.folder.mkdir(parents=True, exist_ok=True)
    _must_be_new(name, record)
    async with workspace(images.folder, WORK_PREFIX) as work:
        programs = Programs(work / "log")
        progress("copying the disk")
        brought = await bring(work)
        progress("converting the copy")
        disk = await flatten(programs, work, brought.layers, CONVERTED, limits)
        await look(disk)
        recipe = await asyncio.to_thread(_recipe, disk, "" if as_it_is else prepare.recipe)
        if as_it_is:
            packages = await prepare.examine_as_it_is(name, disk)
        else:
            await prepare.boot(name, disk, progress)
            # A guest was in there: its disk is looked at and converted as if it came from outside.
            disk = await flatten(programs, work, [Layer(CONVERTED, "qcow2")], PREPARED, limits)
            packages = await prepare.examine(name, disk)
        progress("recording the image")
        made = Made(name, "domain", brought.origin, recipe, packages)
        image = await asyncio.to_thread(describe, images, disk, made, started)
        async with locked(images.folder, programs, progress):
            _must_be_new(name, record)
            await asyncio.to_thread(put_file, disk, image.disk)
            images.put(image)
    progress(f"image {name} is ready")
    return image


def chain_of(top: FileLayer) -> list[FileLayer]:
    """The files that a disk is made of, the top first, each with the format that is named for it. Blocking.

    Raises:
        ImageRefused: one cannot be read, or leads to what is no file of a named format.
    """
    chain: list[FileLayer] = []
    below: FileLayer | None = top
    while below is not None:
        chain.append(below)
        _must_be_short(chain)
        below = _below(below, below.path)
    return chain


async def fetch_layers(top: FileLayer, fetch: Fetch, work: Path) -> list[Layer]:
    """Copies in ``work`` of the files that a disk on another machine is made of, the top first.

    Raises:
        ImageRefused: one leads to what is no file of a named format. What ``fetch`` raises.
    """
    chain: list[FileLayer] = []
    copies: list[Layer] = []
    below: FileLayer | None = top
    while below is not None:
        chain.append(below)
        _must_be_short(chain)
        copies.append(_copy_of(below, len(copies)))
        copy = work / copies[-1].name
        await fetch(below.path, copy)
        below = await asyncio.to_thread(_below, below, copy)
    return copies


def _below(layer: FileLayer, content: Path) -> FileLayer | None:
    """What the layer with this content stands on. Blocking."""
    if layer.format != "qcow2":
        return None
    fd = open_layer(content)
    try:
        found = backing_of(fd)
    finally:
        os.close(fd)
    if found is None:
        return None
    name, format = found
    if format not in ("qcow2", "raw"):
        named = f"as {format}" if format else "without its format"
        raise ImageRefused(f"{layer.path} names the file that it stands on {named}", remedy=REBASE)
    if ":" in name.split("/")[0] or not name.isprintable():
        raise ImageRefused(f"{layer.path} stands on what is no file: {name!a}", remedy="copy it into a file")
    return FileLayer(layer.path.parent / name, cast("Format", format))


def _must_be_short(chain: Sequence[FileLayer]) -> None:
    if len(chain) > CHAIN_MAX:
        raise ImageRefused(
            f"{chain[0].path} stands on more than {CHAIN_MAX} files", remedy="commit some of them"
        )


def _copy_of(layer: FileLayer, number: int) -> Layer:
    return Layer(f"layer-{number}.{layer.format}", layer.format)


async def copy_layers(chain: Sequence[FileLayer], work: Path, limits: ImportLimits) -> list[Layer]:
    """Copies of a chain in ``work``, whose originals were the same before and after.

    Raises:
        WrongState: one changed meanwhile. ImageRefused, NoSpace, TooLarge: it cannot be copied.
    """
    return [await asyncio.to_thread(_copy, one, number, work, limits) for number, one in enumerate(chain)]


def open_layer(path: Path) -> int:
    """A descriptor for reading of a regular file or a block device. Blocking."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ImageRefused(
            f"{path} cannot be read: {error.strerror}",
            remedy="let the backend's user read it, or run the backend as root",
        ) from None
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        os.close(fd)
        raise ImageRefused(f"{path} is neither a file nor a block device", remedy="copy the disk into a file")
    return fd


def _copy(layer: FileLayer, number: int, work: Path, limits: ImportLimits) -> Layer:
    copy = _copy_of(layer, number)
    fd = open_layer(layer.path)
    with os.fdopen(fd, "rb", buffering=0) as source, (work / copy.name).open("xb") as target:
        before = _print(fd)
        into = Staging(target, limits.bytes, limits.reserve_bytes)
        while chunk := source.read(CHUNK_BYTES):
            into.write(chunk)
        into.end("")
        if _print(fd) != before or _print(layer.path) != before:
            raise WrongState(f"{layer.path} changed while it was copied", remedy="try again")
    return copy


def _print(file: int | Path) -> tuple[int, ...]:
    found = os.stat(file)  # noqa: PTH116 - a descriptor
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _recipe(disk: Path, preparation: str) -> str:
    parts = json.dumps([sha256_of(disk), preparation])
    return hashlib.sha256(parts.encode()).hexdigest()[:24]


def _must_be_new(name: str, record: Path) -> None:
    if record.exists():
        raise DuplicateName(
            f"there is an image {name} already, and images are never changed in place",
            remedy=f"fluid images remove {name}, then prepare it again",
        )


def can_boot(arch: str) -> bool:
    """Whether a machine of libvirt's word ``arch`` can be cloned here."""
    return architectures.ARCHITECTURES.get(arch) == architectures.architecture()
