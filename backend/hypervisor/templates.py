"""Templates: an image booted once with its network card unconnected, frozen and saved: forks need no boot.

A template is named by everything that its memory depends on, made aside and put in place whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import libvirt

from backend.errors import FluidError
from backend.hypervisor.domain_xml import DomainSpec, domain_xml, loose_nic
from backend.hypervisor.domains import BOOT_TIMEOUT_S, Domains
from backend.hypervisor.identity import new_mac
from backend.hypervisor.nouns import GuestImage, Template
from backend.hypervisor.overlays import create_overlay
from backend.hypervisor.save_image import read_header

log = logging.getLogger(__name__)

LAYOUT = 3  # of the template folder and of the domain's XML: a change makes new templates
SETTLE_TIMEOUT_S = 120.0
SAVE_TIMEOUT_S = 120.0
FREEZE_TIMEOUT_S = 5.0
DISK, MEMORY, FACTS = "disk.qcow2", "memory.save", "template.json"


class Templates:
    """The templates of one host, built when first needed and kept on disk."""

    def __init__(self, domains: Domains, folder: Path) -> None:
        self._domains = domains
        self._folder = folder
        self._locks: dict[str, asyncio.Lock] = {}

    async def ensure(self, image: GuestImage, *, cpu: int, memory_mb: int) -> Template:
        """The template, built if it is missing. Callers that ask at once share one build."""
        key = await self._key(image, cpu, memory_mb)
        async with self._locks.setdefault(key, asyncio.Lock()):
            if template := await asyncio.to_thread(self._load, key):
                return template
            self._folder.mkdir(parents=True, exist_ok=True)
            self._domains.seal(self._folder)
            async with _file_lock(self._folder / f"{key}.lock"):
                if template := await asyncio.to_thread(self._load, key):
                    return template
                return await self._build(image, key, cpu, memory_mb)

    async def _key(self, image: GuestImage, cpu: int, memory_mb: int) -> str:
        def versions(connection: libvirt.virConnect) -> list[int]:
            return [connection.getLibVersion(), connection.getVersion()]

        facts = [
            *(
                LAYOUT,
                image.sha256,
                image.kernel.name,
                image.initrd.name,
                image.cmdline,
                cpu,
                memory_mb,
                self._domains.virt_type,
            ),
            *await self._domains.connection.call(versions, what="ask versions"),
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def _load(self, key: str) -> Template | None:
        folder = self._folder / key
        try:
            facts = json.loads((folder / FACTS).read_text())
            read_header(folder / MEMORY)
            return Template(
                key,
                folder / DISK,
                folder / MEMORY,
                int(facts["cpu"]),
                int(facts["memory_mb"]),
                float(facts["build_s"]),
            )
        except (OSError, ValueError, KeyError, TypeError, FluidError):
            return None

    async def _build(self, image: GuestImage, key: str, cpu: int, memory_mb: int) -> Template:
        started = time.monotonic()
        name = f"{self._domains.prefix}-template-{key}"
        await self._domains.destroy(name)  # of a build that was killed
        work = self._domains.make_folder(name)
        try:
            await create_overlay(work / DISK, image.disk)
            spec = DomainSpec(
                name,
                str(uuid.uuid4()),
                self._domains.virt_type,
                cpu,
                memory_mb,
                work / DISK,
                work / "console.log",
                {"role": "template", "image": image.sha256},
                loose_nic(new_mac()),
            )
            await self._boot(name, domain_xml(spec, image))
            memory = work / MEMORY
            await asyncio.to_thread(_make_file, memory)
            await self._domains.call(
                name, lambda domain: domain.save(str(memory)), what="save", limit_s=SAVE_TIMEOUT_S
            )
            build_s = round(time.monotonic() - started, 2)
            facts = {"cpu": cpu, "memory_mb": memory_mb, "build_s": build_s, "image": image.sha256}
            await asyncio.to_thread((work / FACTS).write_text, json.dumps(facts))
            await asyncio.to_thread(self._put, work, key)
        finally:
            await asyncio.shield(self._domains.destroy(name))
        log.info("template %s of %s built in %.1f s", key, image.name, build_s)
        folder = self._folder / key
        return Template(key, folder / DISK, folder / MEMORY, cpu, memory_mb, build_s)

    async def _boot(self, name: str, xml: str) -> None:
        """Boot, wait for the end of the boot, and freeze: the disk needs no replay."""
        await self._domains.connection.call(
            lambda connection: connection.createXML(xml, 0).name(), what=f"boot {name}", limit_s=60
        )
        await self._domains.ask(name, "ping", limit_s=BOOT_TIMEOUT_S, resend=True)
        await self._domains.ask(name, "settled", limit_s=SETTLE_TIMEOUT_S)
        await self._domains.ask(name, "freeze", limit_s=FREEZE_TIMEOUT_S)

    def _put(self, work: Path, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (work / "console.log").unlink()
        final = self._folder / key
        shutil.rmtree(final, ignore_errors=True)  # a broken one
        work.rename(final)


def _make_file(path: Path) -> None:
    """Made by us, so that it stays ours: libvirtd keeps the owner of a file that exists."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


@contextlib.asynccontextmanager
async def _file_lock(path: Path) -> AsyncIterator[None]:
    """Hold a lock against other processes (flock(2)); its end is the end of the descriptor."""
    with path.open("w") as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield
