"""Imports a cloud image: fetched, looked at, converted, prepared, recorded; or nothing of it is left.

Each step trusts nothing that the one before it has not bounded. What counts is the record, written last.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from backend.errors import DuplicateName, ImageNotFound
from backend.images import architectures
from backend.images.catalog import BLOCK_BYTES, BuiltImage, Catalog, sha256_of
from backend.images.convert import NEEDED, ConvertLimits, Layer, convert, output_limit
from backend.images.fetch import FetchLimits, Staging, as_kept, check_source, copy_file, download, is_url
from backend.images.folder import Progress, locked, put_file, workspace
from backend.images.programs import Programs, require
from backend.images.qcow2 import Format, check_image
from backend.models import check_name, now
from backend.models.base import NAME

WORK_PREFIX = ".import-"
SOURCE, CONVERTED, PREPARED = "source", "converted.qcow2", "prepared.qcow2"
ENDINGS = re.compile(r"\.(qcow2|img|raw)$", re.IGNORECASE)
NAME_CHARS_MAX = 63


@dataclass(frozen=True)
class ImageImport:
    """What the user asked for. ``sha256`` is needed for a URL; ``reader_uid`` is who wants a file read."""

    source: str
    format: Format
    sha256: str = ""
    name: str = ""
    reader_uid: int = 0


@dataclass(frozen=True)
class ImportLimits:
    """``bytes``: of the file that comes, and of the disk that it holds."""

    bytes: int
    reserve_bytes: int
    convert: ConvertLimits = field(default_factory=ConvertLimits)
    silent_s: float = 30
    fetch_s: float = 3600


@dataclass(frozen=True)
class Made:
    """What the record of a disk with a boot loader of its own says of it."""

    name: str
    kind: str
    origin: str
    recipe: str
    packages: int


class Prepare(Protocol):
    """Makes a converted disk a guest of ours. ``recipe`` names all that it puts into one."""

    @property
    def recipe(self) -> str: ...

    async def boot(self, name: str, disk: Path, progress: Progress) -> None:
        """Change the disk in place."""
        ...

    async def examine(self, name: str, disk: Path) -> int:
        """Look at the result; how many packages it has."""
        ...


async def import_image(
    images: Catalog, wanted: ImageImport, prepare: Prepare, limits: ImportLimits, progress: Progress
) -> BuiltImage:
    """The image, recorded; the one that is there when it was made of the same file in the same way.

    Raises:
        InvalidValue, InvalidName, DuplicateName: before anything was begun.
        ImageRefused, TooLarge, PreparationFailed: the image's own fault.
    """
    started = time.monotonic()
    check_source(wanted.source, wanted.sha256)
    name = check_name(wanted.name or name_of(wanted.source), "image name")
    require(NEEDED, "importing an image")
    if wanted.sha256 and (known := _known(images, name, _recipe(wanted.sha256, wanted, prepare))):
        return known
    images.folder.mkdir(parents=True, exist_ok=True)
    async with workspace(images.folder, WORK_PREFIX) as work:
        programs = Programs(work / "log")
        sha256 = await _stage(work, wanted, limits, progress)
        recipe = _recipe(sha256, wanted, prepare)
        if known := _known(images, name, recipe):
            return known
        progress("converting the image")
        disk = await flatten(programs, work, [Layer(SOURCE, wanted.format)], CONVERTED, limits)
        await prepare.boot(name, disk, progress)
        # A guest was in there: its disk is looked at and converted as if it came from outside again.
        progress("flattening the disk")
        disk = await flatten(programs, work, [Layer(CONVERTED, "qcow2")], PREPARED, limits)
        packages = await prepare.examine(name, disk)
        progress("recording the image")
        made = Made(name, "imported", as_kept(wanted.source), recipe, packages)
        image = await asyncio.to_thread(describe, images, disk, made, started)
        async with locked(images.folder, programs, progress):
            if known := _known(images, name, recipe):
                return known
            await asyncio.to_thread(put_file, disk, image.disk)
            images.put(image)
    progress(f"image {name} is ready")
    return image


def name_of(source: str) -> str:
    """A name from that of the file: ``Debian_12.qcow2`` gives ``debian-12``."""
    last = source.split("?", 1)[0].split("#", 1)[0].rstrip("/").rpartition("/")[2]
    words = re.sub(r"[^a-z0-9]+", "-", ENDINGS.sub("", last).lower()).strip("-")
    name = words[:NAME_CHARS_MAX].strip("-")
    return name if NAME.fullmatch(name) else last


def _recipe(sha256: str, wanted: ImageImport, prepare: Prepare) -> str:
    parts = json.dumps([sha256, wanted.format, prepare.recipe])
    return hashlib.sha256(parts.encode()).hexdigest()[:24]


def _known(images: Catalog, name: str, recipe: str) -> BuiltImage | None:
    """The image of that name, if it is just the one that is wanted; another one keeps its name."""
    try:
        image = images.get(name)
    except ImageNotFound:
        return None
    if image.recipe != recipe:
        raise DuplicateName(
            f"another image is named {name}", remedy=f"--name OTHER, or fluid images remove {name}"
        )
    return image


async def _stage(work: Path, wanted: ImageImport, limits: ImportLimits, progress: Progress) -> str:
    """The file as a copy of ours, which nobody changes any more; its SHA-256."""
    with (work / SOURCE).open("wb") as file:
        into = Staging(file, limits.bytes, limits.reserve_bytes)
        if is_url(wanted.source):
            progress("fetching the image")
            fetch = FetchLimits(limits.bytes, limits.silent_s, limits.fetch_s)
            await download(wanted.source, into, fetch, progress)
        else:
            progress("copying the image")
            await copy_file(Path(wanted.source), into, wanted.reader_uid)
        return into.end(wanted.sha256)


async def flatten(
    programs: Programs, work: Path, layers: Sequence[Layer], target: str, limits: ImportLimits
) -> Path:
    """Look at the layers (top first) of one disk in ``work`` and make a new file of it, which takes their
    place. A single file stands on no other."""
    disk_bytes = 0
    for layer in reversed(layers):
        with (work / layer.name).open("rb") as file:
            disk_bytes = await asyncio.to_thread(
                check_image, file.fileno(), layer.format, limits.bytes, layer=len(layers) > 1
            )
    output = output_limit(work, disk_bytes, limits.reserve_bytes)
    disk = await convert(programs, work, layers, target, output_bytes=output, limits=limits.convert)
    for layer in layers:
        (work / layer.name).unlink()
    return disk


def describe(images: Catalog, disk: Path, made: Made, started: float) -> BuiltImage:
    """The record of a finished disk. Blocking: it reads all of it."""
    sha256, found = sha256_of(disk), disk.stat()
    return BuiltImage(
        name=made.name,
        sha256=sha256,
        disk=images.folder / f"{made.name}-{sha256[:16]}.qcow2",
        kernel=None,
        initrd=None,
        cmdline="",
        arch=architectures.architecture(),
        built_at=now(),
        build_s=round(time.monotonic() - started, 1),
        packages=made.packages,
        size_bytes=found.st_blocks * BLOCK_BYTES,
        recipe=made.recipe,
        sizes=(found.st_size,),
        kind=made.kind,
        origin=made.origin,
    )
