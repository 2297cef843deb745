"""Templates and images that nobody needs any more: which they are, and that they go by themselves.

A template is needed in the usual size of each image, as its host would make it now; any other stays while a
disk stands on it or somebody asked for it lately. An image whose name a newer one took stays while anything
was made of it: its sandboxes are compared with it, and their twins are forked from it; and as long as an
apply may be rolled back that was rehearsed on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from functools import partial

from backend.errors import FluidError, ImageInUse
from backend.fleet.host import Host, guest_image
from backend.fleet.recovery import Recovery
from backend.hypervisor import Hypervisor, Wanted
from backend.images import Doomed, Former, free_formers, remove_former

log = logging.getLogger(__name__)


class Ageing(Recovery):
    """A chore of the daemon's housekeeping."""

    async def age_templates(self) -> None:
        """Templates that nobody asks for any more go, once no sandbox stands on them: those of other sizes,
        of former images, and of what a host was before an upgrade. Former images follow."""
        await asyncio.gather(*(self._try_to_age(host) for host in self._hosts if host.up))
        await self._age_images()

    async def _try_to_age(self, host: Host) -> None:
        try:
            await self._age_on(host)
        except FluidError as error:
            log.warning("the templates of %s do not age: %s", host.name, error.message)

    async def _age_on(self, host: Host) -> None:
        machine, wanted = host.require(), self.usual_templates()
        for key in await machine.age_templates(wanted, self._config.guests.template_idle_s):
            log.info("template %s left %s: nobody asked for it", key, host.name)
        usual = {one[0].sha256: one for one in wanted}
        for sha256 in tuple(host.warm):
            if sha256 not in usual:
                if not await machine.templates_of(sha256):
                    host.warm.discard(sha256)
            elif not await machine.has_template(usual[sha256]):  # the host was upgraded
                host.warm.discard(sha256)
        if usual.keys() - host.warm - host.cannot.keys():  # as after a template that could not be made
            self.warm_soon(host)

    async def _age_images(self) -> None:
        idle_s, catalog = self._config.guests.template_idle_s, self._parts.images
        for former in await self.free_images():
            if former.idle_s < idle_s:
                continue
            try:
                freed = await remove_former(catalog, former, partial(release_image, self._hosts))
            except (FluidError, OSError) as error:
                log.info("the former image %s stays: %s", former.record.name, error)
            else:
                log.info("the former image %s is gone: %s bytes", former.record.name, freed)

    def usual_templates(self) -> list[Wanted]:
        """Those that each host is to have: of each image in the usual size."""
        guests = self._config.guests
        return [
            (guest_image(image), guests.cpu, guests.memory_mb)
            for image in sorted(self._parts.images.list(), key=lambda image: image.name)
        ]

    async def free_images(self) -> list[Former]:
        """The former images that neither a sandbox nor a template of a host stands on, nor one that is just
        asked for, and no roll back needs. A host that is silent, or makes templates, may need each."""
        if self.is_warming() or not all(host.up for host in self._hosts):
            return []
        ours = [host.require().folder for host in self._hosts if host.require().is_local]
        formers = await asyncio.to_thread(free_formers, self._parts.images, ours)
        rows = [*self._asked, *await self.all_live()]
        used = {row.image_sha256 for row in rows} | (await self.held_images()).keys()
        unknown = {row.base_image for row in rows if not row.image_sha256}  # rows of an older version
        return [one for one in formers if one.sha256 not in used and one.name not in unknown]


async def release_image(hosts: Iterable[Host], doomed: Doomed) -> None:
    """What stands on an image that goes, on every host: its templates, and copies of its files.

    Raises:
        ImageInUse: a disk stands on one of the templates. HypervisorDown: that host may need the image.
    """
    for host in hosts:
        await _release_on(host.require(), doomed)
        host.warm.discard(doomed.sha256)
        host.cannot.pop(doomed.sha256, None)


async def _release_on(machine: Hypervisor, doomed: Doomed) -> None:
    for key in await machine.templates_of(doomed.sha256) if doomed.sha256 else ():
        if not await machine.is_free_template(key):
            raise ImageInUse(f"a disk stands on template {key} of it", remedy="fluid gc --dry-run")
        await machine.remove_template(key)
    await machine.forget_image(sorted(doomed.files))
