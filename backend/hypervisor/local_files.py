"""A host's files in a folder of this machine: ``domains/NAME/`` for each domain, ``templates/KEY/`` for each
template. A template is made in its domain's folder and put in place whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import grp
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from pathlib import Path

from backend.errors import Conflict, DuplicateName
from backend.hypervisor import layers as layer_files
from backend.hypervisor import overlays
from backend.hypervisor.nouns import GuestImage, Template
from backend.hypervisor.save_image import copy_bytes, copy_with_xml, read_header
from backend.hypervisor.storage import (
    HELD_SUFFIX,
    TEMPLATE_DISK,
    TEMPLATE_FACTS,
    TEMPLATE_MEMORY,
    TEMPLATE_RAM,
    TEMPLATE_RAM_XML,
    EditXml,
    TemplateFacts,
)

QEMU_GROUPS = ("libvirt-qemu", "qemu")
DISK_NAME = re.compile(r"disk-([0-9]+)\.qcow2")


class LocalFiles:
    """The folder ``root`` and all below it. Names that begin with ``prefix-`` are domains of ours."""

    def __init__(self, root: Path, prefix: str) -> None:
        self._root = root
        self._domains, self._templates = root / "domains", root / "templates"
        self._start = f"{prefix}-"

    @property
    def root(self) -> Path:
        return self._root

    async def open(self) -> None:
        for folder in (self._domains, self._templates):
            folder.mkdir(parents=True, exist_ok=True)
            _seal(folder)

    async def free_mb(self) -> int:
        return shutil.disk_usage(self._root).free >> 20

    async def vanish(self) -> list[str]:
        """The folder is the installation's own, and stays."""
        return []

    # --- a domain's files ----------------------------------------------------------------------------

    def path(self, domain: str, name: str) -> Path:
        return self._domains / domain / name

    async def claim(self, domain: str) -> None:
        folder = self._domains / domain
        try:
            folder.mkdir()
        except FileExistsError:
            raise DuplicateName(
                f"domain {domain!r} exists already", remedy="destroy it, or use another name"
            ) from None
        _seal(folder)

    async def drop(self, domain: str) -> None:
        folder = self._domains / domain
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if folder.exists():
            raise Conflict(f"{folder} cannot be removed", remedy="see who holds files in it")

    async def claimed(self) -> list[str]:
        return sorted(path.name for path in self._domains.iterdir() if path.name.startswith(self._start))

    async def next_disk(self, domain: str) -> Path:
        folder = self._domains / domain
        taken = [int(match[1]) for path in folder.iterdir() if (match := DISK_NAME.fullmatch(path.name))]
        return folder / f"disk-{max(taken, default=-1) + 1}.qcow2"

    async def exists(self, path: Path) -> bool:
        return await asyncio.to_thread(path.exists)

    async def put(self, path: Path, data: bytes) -> None:
        await asyncio.to_thread(path.write_bytes, data)

    async def read(self, path: Path) -> bytes:
        return await asyncio.to_thread(path.read_bytes)

    async def copy(self, source: Path, target: Path) -> None:
        await asyncio.to_thread(copy_bytes, source, target)

    async def remove(self, path: Path) -> int:
        return await asyncio.to_thread(layer_files.remove, path)

    def copy_place(self, here: Path) -> Path:
        return here

    async def bring(self, path: Path, into: Path) -> None:
        await asyncio.to_thread(path.rename, into)

    async def remove_copy(self, path: Path) -> None:
        await self.remove(path)

    # --- disks and memories --------------------------------------------------------------------------

    async def create_overlay(self, overlay: Path, backing: Path) -> None:
        await overlays.create_overlay(overlay, backing)

    async def backing_chain(self, top: Path) -> list[Path]:
        return await overlays.backing_chain(top)

    async def make_memory(self, path: Path) -> None:
        # Made by us, so that it stays ours: libvirtd keeps the owner of a file that exists.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))

    async def copy_memory(self, source: Path, target: Path, edit: EditXml) -> None:
        def copy() -> None:
            copy_with_xml(source, target, edit(read_header(source).xml))

        await asyncio.to_thread(copy)

    # --- snapshots -----------------------------------------------------------------------------------

    async def mark(self, domain: str, snapshot: str, layer: Path) -> None:
        try:
            self._mark(domain, snapshot).symlink_to(layer.name)
        except FileExistsError:
            raise DuplicateName(f"snapshot {snapshot!r} exists already", remedy="use another name") from None

    async def unmark(self, domain: str, snapshot: str) -> None:
        self._mark(domain, snapshot).unlink(missing_ok=True)

    async def is_marked(self, domain: str, snapshot: str) -> bool:
        return self._mark(domain, snapshot).is_symlink()

    def _mark(self, domain: str, snapshot: str) -> Path:
        return layer_files.mark_of(self._domains / domain, snapshot)

    @property
    def names_are_relative(self) -> bool:
        return True

    async def loose_layers(self, domain: str, layers: Sequence[Path]) -> dict[Path, int]:
        return await asyncio.to_thread(layer_files.loose, self._domains / domain, layers)

    async def forget_layers(self, domain: str) -> None:
        """Nothing of them is remembered."""

    async def share_layers(self, layers: Sequence[Path], domain: str) -> Path:
        folder = self._domains / domain
        await asyncio.to_thread(layer_files.link_layers, layers, folder)
        return folder / layers[0].name

    async def sweep(self, domain: str, tops: Sequence[Path]) -> int:
        return await layer_files.sweep(self._domains / domain, tops)

    # --- templates -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def template_lock(self, key: str) -> AsyncIterator[None]:
        async with file_lock(self._templates / f"{key}.lock"):
            yield

    async def template(self, key: str) -> Template | None:
        return await asyncio.to_thread(self._load, key)

    def _load(self, key: str) -> Template | None:
        folder = self._templates / key
        try:
            facts = TemplateFacts(**json.loads((folder / TEMPLATE_FACTS).read_text()))
            if not (folder / TEMPLATE_MEMORY).stat().st_size:
                return None
        except (OSError, ValueError, TypeError):
            return None
        return self._whole(key, facts)

    def _whole(self, key: str, facts: TemplateFacts) -> Template:
        disk, memory = (self._templates / key / name for name in (TEMPLATE_DISK, TEMPLATE_MEMORY))
        return Template(key, disk, memory, facts.cpu, facts.memory_mb, facts.build_s, facts.image)

    def template_path(self, template: Template, name: str) -> Path:
        # Beside the template's folder: an overlay names a disk of its own folder without it, and is copied.
        return self._templates / f"{template.key}.{name}"

    async def keep_template(self, work: str, key: str, facts: TemplateFacts) -> Template:
        def put() -> None:
            made, final = self._domains / work, self._templates / key
            (made / TEMPLATE_FACTS).write_text(json.dumps(asdict(facts)))
            (made / "console.log").unlink(missing_ok=True)
            shutil.rmtree(final, ignore_errors=True)  # a broken one
            made.rename(final)

        await asyncio.to_thread(put)
        return self._whole(key, facts)

    async def template_keys(self) -> list[str]:
        names = await asyncio.to_thread(os.listdir, self._templates)
        return sorted({name.partition(".")[0] for name in names if not name.endswith(".lock")})

    async def free_templates(self) -> list[str]:
        stood_on = await asyncio.to_thread(overlays.backing_files, self._domains)
        keys = await self.template_keys()
        return [key for key in keys if (self._templates / key / TEMPLATE_DISK).resolve() not in stood_on]

    async def remove_template(self, key: str) -> None:
        def remove() -> None:
            for name in (TEMPLATE_RAM_XML, TEMPLATE_RAM):
                (self._templates / f"{key}.{name}").unlink(missing_ok=True)
            shutil.rmtree(self._templates / key, ignore_errors=True)

        await asyncio.to_thread(remove)

    # --- images and layers for others ----------------------------------------------------------------

    async def ensure_image(self, image: GuestImage) -> GuestImage:
        await asyncio.to_thread(self._hold, image.disk)
        return image

    def _hold(self, disk: Path) -> None:
        with contextlib.suppress(PermissionError):  # a folder of images that is not ours to write
            for other in disk.parent.glob(f"{disk.name}.*{HELD_SUFFIX}"):
                if not other.exists():
                    other.unlink(missing_ok=True)
            with contextlib.suppress(FileExistsError):
                self._held(disk).symlink_to(self._root.resolve())

    def _held(self, disk: Path) -> Path:
        return disk.with_name(f"{disk.name}.{self._start.removesuffix('-')}{HELD_SUFFIX}")

    async def forget_image(self, files: Sequence[Path]) -> None:
        """They are the host's own; only that we hold them ends."""
        for file in files:
            self._held(file).unlink(missing_ok=True)

    async def images(self) -> list[Path]:
        return []

    async def lend(self, disk: Path, domain: str) -> Path:
        return disk

    async def take_back(self, lent: Path, disk: Path) -> None:
        """It is the same file."""

    async def grown(self, path: Path, offset: int, length: int) -> bytes:
        def read() -> bytes:
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(offset)
                return file.read(length)
            return b""

        return await asyncio.to_thread(read)

    async def local_layers(self, layers: Sequence[Path]) -> list[Path]:
        return list(layers)


def _seal(folder: Path) -> None:
    """Let in us and libvirt's QEMU (as root, or in its own group), and nobody else where we may."""
    for group in QEMU_GROUPS:
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(folder, -1, grp.getgrnam(group).gr_gid)
            folder.chmod(0o750)
            return
    folder.chmod(0o711)


@contextlib.asynccontextmanager
async def file_lock(path: Path) -> AsyncIterator[None]:
    """Hold a lock against other processes (flock(2)); its end is the end of the descriptor."""
    with path.open("w") as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield
