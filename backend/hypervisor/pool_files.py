"""A host's files in a libvirt pool of ours: nothing is opened there, everything goes through the storage API.

A volume is ``DOMAIN.FILE`` or ``image.FILE``; what has no content says what it says by its name:

- ``DOMAIN.claim``: the domain has files. Made first, removed last.
- ``DOMAIN.SNAPSHOT.disk-N.layer``: the snapshot keeps that layer of the domain.
- ``image.FILE.ok``: that upload is whole.
- ``copy.ID``: a copy of somebody's domain; who had it written removes it, when nobody writes it any more.

Other domains' disks stand on a domain's layers where they are: there are no links. A layer that is still
stood on stays when its domain goes, without a claim, and goes with the last that needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from weakref import WeakValueDictionary

from backend.errors import DuplicateName, HypervisorFailed, NoSpace, NotFound
from backend.hypervisor.connection import Connection
from backend.hypervisor.local_files import DISK_NAME, file_lock
from backend.hypervisor.nouns import GuestImage, Pool, Template
from backend.hypervisor.overlays import empty_overlay, follow, parse_head
from backend.hypervisor.save_image import HEADER, SaveHeader, header_bytes, pack_header, parse_header
from backend.hypervisor.storage import (
    FREE_MB_MIN,
    LAYER_SUFFIX,
    TEMPLATE_DISK,
    TEMPLATE_FACTS,
    TEMPLATE_MEMORY,
    TEMPLATE_RAM,
    TEMPLATE_RAM_XML,
    EditXml,
    TemplateFacts,
)
from backend.hypervisor.volumes import Volumes

CLAIM, WHOLE = "claim", ".ok"
LENT = "lent.qcow2"
IMAGE = "image."
CLUSTER_BYTES = 1 << 16
SAVE_HEAD_BYTES = 1 << 17  # libvirt leaves 64 KiB of room behind the XML
SMALL_BYTES_MAX = 1 << 20
PARTIAL = ".part"
DROP_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Layer:
    """What a qcow2 file's head says. ``below``, the volume that it stands on, changes when layers are merged
    (:mod:`backend.hypervisor.merging`); ``size`` grows."""

    size: int
    below: str | None


class PoolFiles:
    """The pool on the host of ``connection``. Names that begin with ``prefix-`` are domains of ours."""

    def __init__(self, connection: Connection, pool: Pool, prefix: str) -> None:
        self._volumes = Volumes(connection, pool.name, pool.path)
        self._pool = pool
        self._start = f"{prefix}-"
        # Whoever stands on a layer does so before a sweep looks, or after it is gone.
        self._standing = asyncio.Lock()
        # Each for as long as somebody has it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # Of files that nobody changes while they are there.
        self._below: dict[str, str | None] = {}
        self._templates: dict[str, Template] = {}
        self._headers: dict[str, SaveHeader] = {}  # of templates' memories

    @property
    def root(self) -> Path:
        return self._pool.path

    async def open(self) -> None:
        await self._volumes.ensure()
        await self._volumes.refresh(DROP_PATIENCE_S)
        known = await self._volumes.names()

        def tidy() -> None:
            self._pool.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._pool.cache.iterdir():
                if path.suffix != ".lock" and path.name not in known:
                    path.unlink()

        await asyncio.to_thread(tidy)

    async def free_mb(self) -> int:
        await self._volumes.refresh()  # what guests wrote since
        return await self._volumes.free_mb()

    async def vanish(self) -> list[str]:
        await asyncio.to_thread(shutil.rmtree, self._pool.cache, ignore_errors=True)
        return await self._volumes.vanish()

    # --- a domain's files ----------------------------------------------------------------------------

    def path(self, domain: str, name: str) -> Path:
        return self.root / f"{domain}.{name}"

    async def claim(self, domain: str) -> None:
        if _of(domain, await self._volumes.names()):
            raise DuplicateName(f"domain {domain!r} exists already", remedy="destroy it, or use another name")
        await self._volumes.create(f"{domain}.{CLAIM}")

    async def drop(self, domain: str) -> None:
        await self._volumes.refresh(DROP_PATIENCE_S)
        async with self._standing:
            names = await self._volumes.names()
            mine = _of(domain, names)
            if _is_template(domain, mine):
                await self._delete(mine - _kept_of_template(domain))
                return
            claim = {f"{domain}.{CLAIM}"} & mine
            gone = {name for name in mine if not _is_disk(name)} - claim
            await self._delete(gone)
            await self._sweep(names - gone, ending=domain)
            await self._delete(claim)

    async def claimed(self) -> list[str]:
        await self._volumes.refresh(DROP_PATIENCE_S)
        owned: dict[str, set[str]] = {}
        for name in await self._volumes.names():
            if name.startswith(self._start):
                owned.setdefault(_owner(name), set()).add(name)
        found = []
        for owner, mine in sorted(owned.items()):
            whole = _kept_of_template(owner) if _is_template(owner, mine) else set()
            kept = set() if f"{owner}.{CLAIM}" in mine else {name for name in mine if _is_disk(name)}
            if mine - whole - kept:
                found.append(owner)
        return found

    async def next_disk(self, domain: str) -> Path:
        taken = [_disk_number(name) for name in _of(domain, await self._volumes.names()) if _is_disk(name)]
        return self.path(domain, f"disk-{max(taken, default=-1) + 1}.qcow2")

    async def exists(self, path: Path) -> bool:
        return await self._volumes.exists(self._name(path))

    async def put(self, path: Path, data: bytes) -> None:
        await self._volumes.put(self._name(path), data)

    async def read(self, path: Path) -> bytes:
        return await self._volumes.head(self._name(path), SMALL_BYTES_MAX)

    async def copy(self, source: Path, target: Path) -> None:
        # libvirt copies a volume that looks like qcow2 by converting it: it goes by way of this machine.
        await self._volumes.send(self._name(target), await self._local(self._name(source)))

    def copy_place(self, here: Path) -> Path:
        return self.root / here.name.removeprefix(".")

    async def bring(self, path: Path, into: Path) -> None:
        await self._volumes.refresh(DROP_PATIENCE_S)
        await self._volumes.fetch(self._name(path), into)

    async def remove_copy(self, path: Path) -> None:
        if not await self._volumes.refresh(DROP_PATIENCE_S):
            raise HypervisorFailed(f"the pool {self._pool.name} is busy", remedy="it is tried again")
        await self.remove(path)

    async def remove(self, path: Path) -> int:
        return await self._delete([self._name(path)])

    async def _delete(self, names: Iterable[str]) -> int:
        """With all that is remembered of them here."""
        listed = sorted(names)
        for name in listed:
            await self._forget(name)
        return await self._volumes.delete(listed)

    async def _forget(self, name: str) -> None:
        self._below.pop(name, None)
        self._headers.pop(name, None)
        await asyncio.to_thread((self._pool.cache / name).unlink, missing_ok=True)

    def _name(self, path: Path) -> str:
        if path.parent != self.root:
            raise HypervisorFailed(
                f"{path} is not in the pool {self._pool.name}", remedy="destroy the sandbox"
            )
        return path.name

    # --- disks ---------------------------------------------------------------------------------------

    async def create_overlay(self, overlay: Path, backing: Path) -> None:
        free_mb = await self._volumes.free_mb()
        if free_mb < FREE_MB_MIN:
            raise NoSpace(
                f"pool {self._pool.name} has {free_mb} MiB left, a guest needs {FREE_MB_MIN}",
                remedy="destroy sandboxes you do not need, or give it more space",
            )
        name, below = self._name(overlay), self._name(backing)
        async with self._standing:
            size = (await self._layer(below)).size
            await self._volumes.put(name, await empty_overlay(backing, size))
            self._below[name] = below

    async def backing_chain(self, top: Path) -> list[Path]:
        return [self.root / name for name in await self._chain(self._name(top))]

    async def _chain(self, top: str) -> list[str]:
        """The volumes that a disk is made of, the top first."""
        return await follow(top, self._below_of)

    async def _below_of(self, name: str) -> str | None:
        if name not in self._below and (layer := await self._layer(name)).size:
            self._below[name] = layer.below
        return self._below.get(name)

    async def _layer(self, name: str) -> Layer:
        head = await self._volumes.head(name, CLUSTER_BYTES)
        if not any(head):  # an upload that was cut off: it stands on nothing, and nothing on it
            return Layer(0, None)
        size, below = parse_head(head, name)
        return Layer(size, None if below is None else self._name(self.root / below))

    # --- memories ------------------------------------------------------------------------------------

    async def make_memory(self, path: Path) -> None:
        # Known to libvirt before it is written: it needs no refresh to be seen.
        await self._volumes.replace(self._name(path))

    async def copy_memory(self, source: Path, target: Path, edit: EditXml) -> None:
        header = await self._header(self._name(source))
        await self._volumes.clone(self._name(source), self._name(target))
        await self._volumes.overwrite(self._name(target), pack_header(header, edit(header.xml)))

    async def _header(self, name: str) -> SaveHeader:
        if name in self._headers:
            return self._headers[name]
        head = await self._volumes.head(name, SAVE_HEAD_BYTES)
        if (needed := header_bytes(head, name)) > len(head) >= HEADER.size:
            head = await self._volumes.head(name, needed)
        header = parse_header(head, name)
        if name.endswith(f".{TEMPLATE_MEMORY}"):
            self._headers[name] = header
        return header

    # --- snapshots -----------------------------------------------------------------------------------

    async def mark(self, domain: str, snapshot: str, layer: Path) -> None:
        if await self.is_marked(domain, snapshot):
            raise DuplicateName(f"snapshot {snapshot!r} exists already", remedy="use another name")
        if not layer.name.startswith(f"{domain}."):
            raise HypervisorFailed(f"{layer.name} is no disk of {domain}", remedy="destroy the sandbox")
        disk = layer.name.removeprefix(f"{domain}.").removesuffix(".qcow2")
        await self._volumes.create(f"{domain}.{snapshot}.{disk}{LAYER_SUFFIX}")

    async def unmark(self, domain: str, snapshot: str) -> None:
        await self._volumes.delete(await self._marks(domain, snapshot))

    async def is_marked(self, domain: str, snapshot: str) -> bool:
        return bool(await self._marks(domain, snapshot))

    async def _marks(self, domain: str, snapshot: str) -> list[str]:
        start = f"{domain}.{snapshot}."
        names = await self._volumes.names()
        return [name for name in names if name.startswith(start) and name.endswith(LAYER_SUFFIX)]

    @property
    def names_are_relative(self) -> bool:
        return False

    async def loose_layers(self, domain: str, layers: Sequence[Path]) -> dict[Path, int]:
        names = await self._volumes.names()
        kept = {_marked(name) for name in names if name.endswith(LAYER_SUFFIX)}
        above: dict[str, set[str]] = {}
        for name in names:
            if name.startswith(self._start) and _is_disk(name) and (below := await self._below_of(name)):
                above.setdefault(below, set()).add(name)
        found = {}
        for upper, layer in pairwise(map(self._name, layers)):
            if _owner(layer) == domain and layer not in kept and above.get(layer) == {upper}:
                found[self.root / layer] = await self._volumes.allocated(layer)
        return found

    async def forget_layers(self, domain: str) -> None:
        await self._volumes.refresh(DROP_PATIENCE_S)
        for name in [name for name in self._below if _owner(name) == domain]:
            await self._forget(name)

    async def share_layers(self, layers: Sequence[Path], domain: str) -> Path:
        return layers[0]

    async def sweep(self, domain: str, tops: Sequence[Path]) -> int:
        async with self._standing:
            names = await self._volumes.names()
            return await self._sweep(names, swept=domain, tops=[self._name(top) for top in tops])

    async def _sweep(
        self, names: set[str], *, swept: str = "", tops: Sequence[str] = (), ending: str = ""
    ) -> int:
        """Remove the layers that nothing stands on: those of domains that are gone, or ``ending``, and of
        ``swept``, whose disks are ``tops``. Whatever disk another domain has counts as in use."""
        claimed = {_owner(name) for name in names if name.endswith(f".{CLAIM}")} - {ending}
        disks = {name for name in names if name.startswith(self._start) and _is_disk(name)}
        loose = {name for name in disks if _owner(name) not in claimed or _owner(name) == swept}
        if not loose:
            return 0
        marked = (_marked(name) for name in names if name.endswith(LAYER_SUFFIX) and _owner(name) in claimed)
        needed: set[str] = set()
        for root in [*tops, *(disks - loose), *marked]:
            if root not in needed:
                needed.update(await self._chain(root))
        return await self._delete(loose - needed)

    # --- templates -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def template_lock(self, key: str) -> AsyncIterator[None]:
        async with file_lock(self._pool.cache / f"{key}.lock"):
            yield

    async def template(self, key: str) -> Template | None:
        name = f"{self._start}template-{key}"
        if not _is_template(name, _of(name, await self._volumes.names())):
            self._templates.pop(key, None)
            return None
        if key not in self._templates:
            try:
                facts = TemplateFacts(**json.loads(await self.read(self.path(name, TEMPLATE_FACTS))))
            except (ValueError, TypeError):
                return None
            disk, memory = self.path(name, TEMPLATE_DISK), self.path(name, TEMPLATE_MEMORY)
            self._templates[key] = Template(
                key, disk, memory, facts.cpu, facts.memory_mb, facts.build_s, facts.image
            )
        return self._templates[key]

    def template_path(self, template: Template, name: str) -> Path:
        return self.path(f"{self._start}template-{template.key}", name)

    async def keep_template(self, work: str, key: str, facts: TemplateFacts) -> Template:
        await self._volumes.put(f"{work}.{TEMPLATE_FACTS}", json.dumps(asdict(facts)).encode())
        await self._volumes.delete([f"{work}.{CLAIM}"])
        template = await self.template(key)
        if template is None:
            raise HypervisorFailed(f"template {key} cannot be read back", remedy="try again, or boot cold")
        return template

    async def template_keys(self) -> list[str]:
        names, start = await self._volumes.names(), f"{self._start}template-"
        owners = {_owner(name) for name in names if name.startswith(start)}
        return sorted(owner.removeprefix(start) for owner in owners if _is_template(owner, _of(owner, names)))

    async def free_templates(self) -> list[str]:
        async with self._standing:
            names, start = await self._volumes.names(), f"{self._start}template-"
            stood_on: set[str] = set()
            for name in names:
                if name.startswith(self._start) and _is_disk(name):
                    stood_on.update(await self._chain(name))
            keys = await self.template_keys()
            return [key for key in keys if f"{start}{key}.{TEMPLATE_DISK}" not in stood_on]

    async def remove_template(self, key: str) -> None:
        self._templates.pop(key, None)
        await self._delete(_kept_of_template(f"{self._start}template-{key}"))

    # --- images and layers for others ----------------------------------------------------------------

    async def ensure_image(self, image: GuestImage) -> GuestImage:
        disk = await self._ensure_file(image.disk)
        kernel, initrd = [file and await self._ensure_file(file) for file in (image.kernel, image.initrd)]
        return replace(image, disk=disk, kernel=kernel, initrd=initrd)

    async def forget_image(self, files: Sequence[Path]) -> None:
        for name in (f"{IMAGE}{file.name}" for file in files):
            async with self._locks.setdefault(name, asyncio.Lock()):  # an upload of it ends first
                await self._delete([f"{name}{WHOLE}", name])

    async def images(self) -> list[Path]:
        copies = {name for name in await self._volumes.names() if name.startswith(IMAGE)}
        here = self._pool.images or Path()
        return sorted({here / name.removeprefix(IMAGE).removesuffix(WHOLE) for name in copies})

    async def _ensure_file(self, file: Path) -> Path:
        name = f"{IMAGE}{file.name}"
        async with self._locks.setdefault(name, asyncio.Lock()):
            names = await self._volumes.names()
            if not {name, f"{name}{WHOLE}"} <= names:
                await self._delete([f"{name}{WHOLE}", name])  # of an upload that was cut off
                await self._volumes.send(name, file)
                await self._volumes.create(f"{name}{WHOLE}")
        return self.root / name

    async def lend(self, disk: Path, domain: str) -> Path:
        lent = self.path(domain, LENT)
        await self._volumes.send(lent.name, disk)
        return lent

    async def take_back(self, lent: Path, disk: Path) -> None:
        await self.bring(lent, disk)

    async def grown(self, path: Path, offset: int, length: int) -> bytes:
        await self._volumes.refresh()
        with contextlib.suppress(NotFound, HypervisorFailed):  # not there yet, or nothing new
            return await self._volumes.part(self._name(path), offset, length)
        return b""

    async def local_layers(self, layers: Sequence[Path]) -> list[Path]:
        return [await self._local(self._name(layer)) for layer in layers]

    async def _local(self, name: str) -> Path:
        if self._pool.images and name.startswith(IMAGE):
            image = self._pool.images / name.removeprefix(IMAGE)
            if await asyncio.to_thread(image.exists):
                return image
        kept = self._pool.cache / name
        async with self._locks.setdefault(name, asyncio.Lock()):
            if not await asyncio.to_thread(kept.exists):
                await self._must_fit_here(name)
                part = kept.with_name(f"{name}{PARTIAL}")
                try:
                    await self._volumes.fetch(name, part)
                    await asyncio.to_thread(part.rename, kept)
                finally:
                    part.unlink(missing_ok=True)
        return kept

    async def _must_fit_here(self, name: str) -> None:
        """A guest decides how large its layers are: none fills the disk of this machine."""
        size_mb = await self._volumes.allocated(name) >> 20
        free_mb = (await asyncio.to_thread(shutil.disk_usage, self._pool.cache)).free >> 20
        if free_mb < size_mb + self._pool.reserve_mb:
            raise HypervisorFailed(
                f"{name} takes {size_mb} MB, and this machine has {free_mb} MB free of which "
                f"{self._pool.reserve_mb} are kept back",
                remedy=f"free space under {self._pool.cache}, or lower limits.disk_reserve_mb",
            )


def _owner(volume: str) -> str:
    return volume.partition(".")[0]


def _of(owner: str, names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith(f"{owner}.")}


def _is_disk(volume: str) -> bool:
    return DISK_NAME.fullmatch(volume.partition(".")[2]) is not None


def _disk_number(volume: str) -> int:
    return int(volume.partition(".")[2].removeprefix("disk-").removesuffix(".qcow2"))


def _marked(mark: str) -> str:
    """The layer that a snapshot's mark names."""
    owner, _, rest = mark.partition(".")
    return f"{owner}.{rest.removesuffix(LAYER_SUFFIX).rpartition('.')[2]}.qcow2"


def _template_names(owner: str) -> set[str]:
    return {f"{owner}.{file}" for file in (TEMPLATE_DISK, TEMPLATE_MEMORY, TEMPLATE_FACTS)}


def _kept_of_template(owner: str) -> set[str]:
    return _template_names(owner) | {f"{owner}.{file}" for file in (TEMPLATE_RAM, TEMPLATE_RAM_XML)}


def _is_template(owner: str, names: set[str]) -> bool:
    """Whether the files of the owner are a whole template."""
    return _template_names(owner) <= names and f"{owner}.{CLAIM}" not in names
