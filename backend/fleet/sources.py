"""Images as operators manage them: listed with who stands on them; built, imported, removed on the record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from backend.audit import Audit
from backend.config import Config
from backend.disks import DiskReader
from backend.errors import FluidError, HypervisorDown, ImageInUse, WrongState
from backend.fleet.ageing import release_image
from backend.fleet.host import Host
from backend.fleet.hosts import Hosts
from backend.fleet.stock import STOCK, Stock
from backend.hypervisor import Hypervisor
from backend.images import (
    BuiltImage,
    Doomed,
    ImageImport,
    Images,
    ImportLimits,
    Preparation,
    as_kept,
    import_image,
    recover,
    remove_image,
)
from backend.models import Identity, ImageView, Role, Sandbox
from backend.wording import some

log = logging.getLogger(__name__)
NAMES_TOLD = 5


class Sources:
    """What sandboxes are forked from."""

    def __init__(self, config: Config, images: Images, audit: Audit, fleet: Stock, hosts: Hosts) -> None:
        self._images = images
        self._audit = audit
        self._fleet = fleet
        self._hosts = hosts
        self.limits = ImportLimits(
            bytes=config.limits.image_gb << 30, reserve_bytes=config.limits.disk_reserve_mb << 20
        )
        guests = config.guests
        self.preparation = Preparation(
            self._machine, DiskReader(), cpu=guests.cpu, memory_mb=guests.memory_mb
        )

    async def recover(self) -> None:
        """At a start: what a crash left of imports and removals goes, or is put back. The audit says so."""
        for words in await asyncio.to_thread(recover, self._images):
            log.info("recovered: %s", words)
            await self._audit.note(Identity.system(), "fleet.reconcile", "image", data_said=words)

    async def list(self, actor: Identity) -> list[ImageView]:
        """Agents see what there is; operators also where it lies, where it is from and who stands on it."""
        live = await self._fleet.all_live()
        views = [image.view() for image in self._images.list()]
        for view in views:
            users = [row for row in live if row.base_image == view.name]
            view.used_by = len(users)
            if actor.role is Role.AGENT:
                view.path = view.origin = ""
                continue
            view.sandboxes = [row.sandbox_name for row in users if row.purpose != STOCK]
            view.stock = [row.sandbox_name for row in users if row.purpose == STOCK]
            view.templates = [*await self._templates(view.sha256)]
        return views

    async def build(self, actor: Identity, name: str, force: bool) -> ImageView:
        """Build a release; minutes, unless it is there already. ``force``: from nothing."""
        async with self._audit.step(actor, "image.build", "image", name, force=force):
            image = await self._images.build(
                name or None,
                progress=partial(say, "build"),
                force=force,
                reserve_mb=self.limits.reserve_bytes >> 20,
            )
        return self.welcome(image)

    async def import_image(self, actor: Identity, wanted: ImageImport) -> ImageView:
        """Take an image that somebody else made; minutes. See :func:`backend.images.import_image`."""
        facts = {
            "source": as_kept(wanted.source),
            "format": wanted.format,
            "expected_sha256": wanted.sha256,
        }
        async with self._audit.step(actor, "image.import", "image", wanted.name, **facts) as step:
            image = await import_image(
                self._images, wanted, self.preparation, self.limits, partial(say, "import")
            )
            step.id = image.name
            step.data.update(sha256=image.sha256)
        return self.welcome(image)

    def welcome(self, image: BuiltImage) -> ImageView:
        """It is there: its templates are made in the background."""
        for host in self._hosts:
            if host.up:
                self._fleet.warm_soon(host)
        return image.view()

    async def remove(self, actor: Identity, name: str) -> int:
        """Remove an image that no sandbox stands on, with its stock and its templates; the bytes given back.

        Raises:
            ImageNotFound, ImageInUse: nothing was removed. Also what a roll back needs stays.
        """
        async with self._audit.step(actor, "image.remove", "image", name) as step:
            freed = await remove_image(
                self._images, name, partial(self._release, name), partial(say, "remove")
            )
            step.data.update(freed_bytes=freed)
        return freed

    async def _release(self, name: str, doomed: Doomed) -> None:
        """Its record lies aside: nothing new comes. What is made for nobody goes, anything else stops it."""
        _must_be_free(name, [row for row in await self._users(name) if row.purpose != STOCK])
        if self._fleet.is_warming():
            raise WrongState("templates are being made, perhaps of this image", remedy="wait, and try again")
        if why := (await self._fleet.held_images()).get(doomed.sha256):
            raise ImageInUse(f"{name}: {why}", remedy="keep it until then, or nobody can roll back")
        await self._fleet.retire(name)
        _must_be_free(name, await self._users(name))
        # A host that is down keeps the image: it may hold what stands on it.
        await release_image(self._hosts, doomed)

    async def _users(self, name: str) -> Sequence[Sandbox]:
        return [row for row in await self._fleet.all_live() if row.base_image == name]

    async def _templates(self, sha256: str) -> Sequence[str]:
        """On every host that answers; the others alone know of theirs."""
        found = await asyncio.gather(*(_templates_on(host, sha256) for host in self._hosts))
        return sorted({key for keys in found for key in keys})

    def _machine(self) -> Hypervisor:
        """Images are prepared where their files are; else on any host, and the disk goes there and back."""
        up = [host.require() for host in self._hosts if host.up]
        if not up:
            raise HypervisorDown(
                "no host answers, and an image is prepared by a boot on one", remedy="fluid hosts list"
            )
        return next((machine for machine in up if machine.is_local), up[0])


async def _templates_on(host: Host, sha256: str) -> Sequence[str]:
    with suppress(FluidError):
        return await host.told(lambda machine: machine.templates_of(sha256))
    return ()


def _must_be_free(name: str, users: Sequence[Sandbox]) -> None:
    if users:
        names = [row.sandbox_name for row in users]
        raise ImageInUse(
            f"{name} is in use by {some(names, NAMES_TOLD)}",
            remedy=f"fluid sandboxes destroy {names[0]}",
            sandboxes=names,
        )


def say(doing: str, words: str) -> None:
    log.info("image %s: %s", doing, words)
