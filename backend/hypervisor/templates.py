"""Templates: an image booted once with its network card unconnected, frozen and saved: forks need no boot.

A template is named by everything that its memory depends on, made aside and put in place whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Collection
from typing import TypeAlias

import libvirt

from backend.hypervisor.domain_xml import DomainSpec, domain_xml, loose_nic
from backend.hypervisor.domains import BOOT_TIMEOUT_S, Domains
from backend.hypervisor.identity import new_mac
from backend.hypervisor.nouns import GuestImage, Template
from backend.hypervisor.storage import TEMPLATE_DISK, TEMPLATE_MEMORY, TemplateFacts
from backend.models.base import check_name

log = logging.getLogger(__name__)
Size: TypeAlias = tuple[int, int]

LAYOUT = 3  # of the template folder and of the domain's XML: a change makes new templates
SETTLE_TIMEOUT_S = 120.0
SAVE_TIMEOUT_S = 120.0
FREEZE_TIMEOUT_S = 5.0


class Templates:
    """The templates of one host, built when first needed and kept on disk."""

    def __init__(self, domains: Domains) -> None:
        self._domains = domains
        self._files = domains.files
        self._locks: dict[str, asyncio.Lock] = {}
        self._used: dict[str, float] = {}  # key → time.monotonic()
        self._since = time.monotonic()

    async def ensure(self, image: GuestImage, *, cpu: int, memory_mb: int) -> Template:
        """The template, built if it is missing. Callers that ask at once share one build."""
        key = await self._key(image, cpu, memory_mb)
        self._used[key] = time.monotonic()
        async with self._locks.setdefault(key, asyncio.Lock()):
            if template := await self._files.template(key):
                return template
            async with self._files.template_lock(key):
                if template := await self._files.template(key):
                    return template
                return await self._build(image, key, cpu, memory_mb)

    async def age(self, sha256: str, sizes: Collection[Size], idle_s: float) -> list[str]:
        """Remove the templates of an image that nobody asked for within ``idle_s``, but those of ``sizes``
        (cpu and memory_mb), which are needed. Their keys."""
        old = []
        for key in await self._files.templates_of(sha256):
            template = await self._files.template(key)
            idle = time.monotonic() - self._used.get(key, self._since) > idle_s
            if template and idle and (template.cpu, template.memory_mb) not in sizes:
                await self.remove(key)
                old.append(key)
        return old

    async def remove(self, key: str) -> None:
        """Forks that stand on it lose their disk: the caller knows of none."""
        async with self._locks.setdefault(key, asyncio.Lock()), self._files.template_lock(key):
            await self._files.remove_template(check_name(key, "template"))

    async def _key(self, image: GuestImage, cpu: int, memory_mb: int) -> str:
        def versions(connection: libvirt.virConnect) -> list[int]:
            return [connection.getLibVersion(), connection.getVersion()]

        facts = [
            *(
                LAYOUT,
                image.sha256,
                image.kernel and image.kernel.name,
                image.initrd and image.initrd.name,
                image.cmdline,
                cpu,
                memory_mb,
                self._domains.virt_type,
            ),
            *await self._domains.connection.call(versions, what="ask versions"),
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    async def _build(self, image: GuestImage, key: str, cpu: int, memory_mb: int) -> Template:
        started = time.monotonic()
        name = f"{self._domains.prefix}-template-{key}"
        await self._domains.destroy(name)  # of a build that was killed
        image = await self._files.ensure_image(image)
        self._domains.unnamed.add(name)
        try:
            await self._files.claim(name)
            disk, memory = (self._files.path(name, file) for file in (TEMPLATE_DISK, TEMPLATE_MEMORY))
            await self._files.create_overlay(disk, image.disk)
            spec = DomainSpec(
                name,
                str(uuid.uuid4()),
                await self._domains.machine_for(image.arch),
                cpu,
                memory_mb,
                disk,
                self._domains.console(name),
                {"role": "template", "image": image.sha256},
                loose_nic(new_mac()),
            )
            await self._boot(name, domain_xml(spec, image))
            await self._files.make_memory(memory)
            await self._domains.call(
                name, lambda domain: domain.save(str(memory)), what="save", limit_s=SAVE_TIMEOUT_S
            )
            build_s = round(time.monotonic() - started, 2)
            facts = TemplateFacts(cpu, memory_mb, build_s, image.sha256)
            template = await self._files.keep_template(name, key, facts)
        finally:
            await asyncio.shield(self._domains.destroy(name))
            self._domains.unnamed.discard(name)
        log.info("template %s of %s built in %.1f s", key, image.name, build_s)
        return template

    async def _boot(self, name: str, xml: str) -> None:
        """Boot, wait for the end of the boot, and freeze: the disk needs no replay."""
        await self._domains.connection.call(
            lambda connection: connection.createXML(xml, 0).name(), what=f"boot {name}", limit_s=60
        )
        await self._domains.ask(name, "ping", limit_s=BOOT_TIMEOUT_S, resend=True)
        await self._domains.ask(name, "settled", limit_s=SETTLE_TIMEOUT_S)
        await self._domains.ask(name, "freeze", limit_s=FREEZE_TIMEOUT_S)
