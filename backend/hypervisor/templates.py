"""Templates: an image booted once with its network card unconnected, frozen and saved: forks need no boot.

A template is named by everything that its memory depends on, made aside and put in place whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeAlias

import libvirt

from backend.hypervisor.domain_xml import DomainSpec, domain_xml, loose_nic
from backend.hypervisor.domains import BOOT_TIMEOUT_S, Domains
from backend.hypervisor.identity import new_mac
from backend.hypervisor.nouns import GuestImage, Template
from backend.hypervisor.storage import TEMPLATE_DISK, TEMPLATE_MEMORY, TemplateFacts
from backend.models.base import check_name

log = logging.getLogger(__name__)
Wanted: TypeAlias = tuple[GuestImage, int, int]
"""A template as it is asked for: its image, processors and MiB of memory."""

Before: TypeAlias = Callable[[], Awaitable[object]]

LAYOUT = 4  # of the template folder and of the domain's XML: a change makes new templates
SETTLE_TIMEOUT_S = 120.0
FREEZE_TIMEOUT_S = 5.0
UNDER_WAY_S = 900.0  # within it a fork stands on the template that it asked for


class Templates:
    """The templates of one host, built when first needed and kept on disk."""

    def __init__(self, domains: Domains) -> None:
        self._domains = domains
        self._files = domains.files
        self._locks: dict[str, asyncio.Lock] = {}
        self._used: dict[str, float] = {}  # key → time.monotonic()
        self._since = time.monotonic()

    async def ensure(
        self, image: GuestImage, *, cpu: int, memory_mb: int, before: Before | None = None
    ) -> Template:
        """The template, built if it is missing, ``before`` which whoever asks may refuse it. Callers that ask
        at once share one build."""
        key = await self._key(image, cpu, memory_mb)
        self._used[key] = time.monotonic()
        async with self._locks.setdefault(key, asyncio.Lock()):
            if template := await self._files.template(key):
                return template
            async with self._files.template_lock(key):
                if template := await self._files.template(key):
                    return template
                if before:
                    await before()
                return await self._build(image, key, cpu, memory_mb)

    async def of(self, sha256: str) -> list[str]:
        """The keys of the whole ones that stand on the image with this disk."""
        found = [await self._files.template(key) for key in await self._files.template_keys()]
        return [one.key for one in found if one and one.image == sha256]

    async def has(self, wanted: Wanted) -> bool:
        """Whether it is there, as this host would make it now."""
        return await self._files.template(await self._key(*wanted)) is not None

    async def age(self, wanted: Iterable[Wanted], idle_s: float) -> list[str]:
        """Remove those that are neither wanted nor stood on and that nobody asked for within ``idle_s``, nor
        while this was under way. Their keys."""

        def is_old(key: str) -> bool:
            return self._idle_s(key, self._since) > idle_s

        gone = []
        for key in filter(is_old, await self._needless(wanted)):
            async with self._alone(key):
                if await self.is_free(key) and is_old(key):
                    await self._files.remove_template(key)
                    gone.append(key)
        return gone

    async def leftovers(self, wanted: Iterable[Wanted]) -> list[str]:
        """The keys of those that are neither wanted nor stood on, nor made for a fork that is under way."""
        return [key for key in await self._needless(wanted) if self._idle_s(key, -math.inf) > UNDER_WAY_S]

    def _idle_s(self, key: str, since: float) -> float:
        return time.monotonic() - self._used.get(key, since)

    async def is_free(self, key: str) -> bool:
        """Whether no disk stands on it."""
        return key in await self._files.free_templates()

    async def _needless(self, wanted: Iterable[Wanted]) -> list[str]:
        """A template stands on what its host was when it was made: its key tells it from that of now."""
        needed = {await self._key(*one) for one in wanted}
        return [key for key in await self._files.free_templates() if key not in needed]

    async def remove(self, key: str) -> None:
        """Forks that stand on it lose their disk: the caller knows of none."""
        async with self._alone(key):
            await self._files.remove_template(check_name(key, "template"))

    @contextlib.asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        """Nobody takes it meanwhile."""
        async with self._locks.setdefault(key, asyncio.Lock()), self._files.template_lock(key):
            yield

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
        with self._domains.at_work_on(name):
            await self._domains.destroy(name)  # of a build that was killed
            image = await self._files.ensure_image(image)
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
                await self._domains.save(name, memory)
                build_s = round(time.monotonic() - started, 2)
                facts = TemplateFacts(cpu, memory_mb, build_s, image.sha256)
                template = await self._files.keep_template(name, key, facts)
            finally:
                await asyncio.shield(self._domains.destroy(name))
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
