"""What nobody needs: domains, files and networks of ours that no row names, templates that nothing stands on,
former images and their copies, what builds that were cut off left.

Recovery and age remove such things by themselves; this shows it, and clears what they could not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from backend.errors import FluidError, ImageInUse
from backend.fleet.ageing import Ageing, release_image
from backend.fleet.host import Host
from backend.images import formers, remove_former, remove_stray, stray_files
from backend.models import Identity, Leftover, LeftoverReport

HERE = "control node"
COPY = "copy of "


class Leftovers(Ageing):
    """Looks on every host that answers."""

    async def leftovers(self, actor: Identity) -> LeftoverReport:
        """What is there and what of it nobody needs; nothing is touched."""
        on_hosts = (self._look_on(host) for host in self._hosts)
        reports = await asyncio.gather(*on_hosts, self._look_here())
        return LeftoverReport(
            domains=sum(report.domains for report in reports),
            files=sum(report.files for report in reports),
            networks=sum(report.networks for report in reports),
            templates=sum(report.templates for report in reports),
            images=sum(report.images for report in reports),
            found=[one for report in reports for one in report.found],
            held=[words for report in reports for words in report.held],
            silent=[name for report in reports for name in report.silent],
        )

    async def clear(self, actor: Identity) -> LeftoverReport:
        """Remove it; the answer is what was removed."""
        report = await self.leftovers(actor)
        removed = []
        for one in report.found:
            with suppress(ImageInUse):  # another installation's guest has it open
                async with self._audit.step(actor, "fleet.clear", one.kind, one.name, host=one.host):
                    if await self._clear(one):
                        removed.append(one)
        report.found = removed
        return report

    async def _clear(self, one: Leftover) -> bool:
        """False for one that is needed by now."""
        if one.host == HERE:
            return await self._clear_here(one.name)
        machine = self._hosts.named(one.host).require()
        match one.kind:
            case "network":
                await machine.remove_network(one.name)
            case "template":
                if one.name not in await machine.template_leftovers(self.usual_templates()):
                    return False
                await machine.remove_template(one.name)
            case "image":
                await machine.forget_image([Path(one.name.removeprefix(COPY))])
            case _:
                if one.name in machine.unnamed():
                    return False
                await machine.destroy(one.name)
        return True

    async def _clear_here(self, name: str) -> bool:
        images = self._parts.images
        for former in await self.free_images():
            if former.record.name == name:
                return await remove_former(images, former, partial(release_image, self._hosts)) is not None
        return await asyncio.to_thread(remove_stray, images, images.folder / name)

    async def _look_here(self) -> LeftoverReport:
        images = self._parts.images
        strays = await asyncio.to_thread(stray_files, images)
        free = [former.record.name for former in await self.free_images()]
        held = await self.held_images()
        return LeftoverReport(
            images=len(images.list()) + len(images.formers()),
            found=[
                *self._found(HERE, "image", free, set(), "a newer image has its name, and nobody uses it"),
                *self._found(HERE, "image", [path.name for path in strays], set(), "no image has this file"),
            ],
            held=[
                f"image {one.record.name} stays: {held[one.sha256]}"
                for one in await asyncio.to_thread(formers, images)
                if one.sha256 in held
            ],
        )

    async def _look_on(self, host: Host) -> LeftoverReport:
        try:
            return await self._compare(host)
        except FluidError as error:
            return LeftoverReport(silent=[f"{host.name}: {error.message}"])

    async def _compare(self, host: Host) -> LeftoverReport:
        hypervisor, name = host.require(), host.name
        named = hypervisor.unnamed()
        domains = await hypervisor.list_ours()
        folders = await hypervisor.leftovers()
        networks = await hypervisor.our_networks()
        templates = await hypervisor.template_leftovers(self.usual_templates())
        copies = [f"{COPY}{file.name}" for file in await hypervisor.images()]
        kept = {f"{COPY}{name}" for name in self._parts.images.file_names()}
        # Rows come last: what was made meanwhile has one by now.
        named |= {host.domain_name(sandbox.id) for sandbox in await self.on(host)} | hypervisor.unnamed()
        # One that names a row's sandbox was renamed, or is somebody's copy of it.
        living = {sandbox.id for sandbox in await self.all_live()}
        named |= {one.name for one in domains if one.metadata.get("sandbox") in living}
        return LeftoverReport(
            domains=len(domains),
            files=len(domains) + len(folders),
            networks=len(networks),
            templates=len(await hypervisor.templates()),
            found=[
                *self._found(name, "domain", [one.name for one in domains], named, "no row names it"),
                *self._found(name, "files", folders, named, "no row and no domain has this name"),
                *self._found(name, "network", networks, {host.network.name}, "it is not this host's network"),
                *self._found(name, "template", templates, set(), "nothing stands on it, and it is not usual"),
                *self._found(name, "image", copies, kept, "it is a copy of what is no image any more"),
            ],
        )

    def _found(
        self, host: str, kind: str, names: Sequence[str], needed: set[str], why: str
    ) -> list[Leftover]:
        return [Leftover(host=host, kind=kind, name=name, why=why) for name in names if name not in needed]
