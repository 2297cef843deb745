"""One boot of a disk that somebody else made, beside a seed that it reads, until it powers itself off.

The guest is hostile already: it has a card whose cable ends in the air, its console goes to a file, and all
that is known of the outcome is what is on its disk afterwards. Nothing but the disk, a file of this machine,
is left. On a host whose folders are not ours the guest has a copy of it, which is fetched when it is off.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import uuid
from collections.abc import Callable
from pathlib import Path

from backend.errors import HypervisorDown, TimedOut
from backend.hypervisor.domain_xml import DomainSpec, domain_xml, loose_nic
from backend.hypervisor.domains import START_TIMEOUT_S, Domains
from backend.hypervisor.identity import new_mac
from backend.hypervisor.nouns import GuestImage
from backend.hypervisor.storage import HostFiles

ROLE = "import"
LOOK_EVERY_S = 1.0  # nothing tells that a file has grown
CONSOLE_BYTES_MAX = 4 << 20

OnConsole = Callable[[bytes], None]


async def boot_once(
    domains: Domains,
    image: GuestImage,
    seed: bytes,
    *,
    cpu: int,
    memory_mb: int,
    limit_s: float,
    on_console: OnConsole,
) -> None:
    """Boot ``image.disk`` itself, not an overlay (elsewhere: a whole copy of it), with the seed as a second
    disk; return when it is off, and the file here holds what the guest left.

    ``on_console`` gets what the guest writes to its serial line. Raises TimedOut after ``limit_s``.
    """
    name = f"{domains.prefix}-{ROLE}-{secrets.token_hex(4)}"
    domains.unnamed.add(name)
    try:
        await domains.files.claim(name)
        seed_disk, console = domains.files.path(name, "seed.img"), domains.console(name)
        await domains.files.put(seed_disk, seed)
        spec = DomainSpec(
            name,
            str(uuid.uuid4()),
            await domains.machine_for(image.arch),
            cpu,
            memory_mb,
            await domains.files.lend(image.disk, name),
            console,
            {"role": ROLE, "image": image.sha256},
            loose_nic(new_mac()),
            seed_disk,
        )
        heard = _Console(domains.files, console, on_console)
        await _run(domains, name, domain_xml(spec, image), heard, limit_s)
        await domains.files.take_back(spec.disk, image.disk)
    finally:
        await asyncio.shield(domains.destroy(name))
        domains.unnamed.discard(name)


async def sweep(domains: Domains) -> list[str]:
    """Remove what a backend that died left of such boots: domains and their folders, by name."""
    known = [info.name for info in await domains.list_ours(ROLE) if info.metadata.get("role") == ROLE]
    left = [name for name in await domains.leftovers() if name.startswith(f"{domains.prefix}-{ROLE}-")]
    for name in (*known, *left):
        await domains.destroy(name)
    return [*known, *left]


async def _run(domains: Domains, name: str, xml: str, console: _Console, limit_s: float) -> None:
    async with domains.connection.listening() as events:
        await domains.connection.call(
            lambda connection: connection.createXML(xml, 0).name(),
            what=f"boot {name}",
            limit_s=START_TIMEOUT_S,
        )
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_EVERY_S):
                            event = await events.get()
                            if event.domain == name and event.kind in ("stopped", "crashed"):
                                break
                            if event.kind == "lost":
                                raise HypervisorDown(
                                    "libvirt went away while the image booted", remedy="fluid doctor"
                                )
                    await console.look()
        except TimeoutError:
            await console.look()
            raise TimedOut(
                f"the image did not power off within {limit_s:g} s", remedy="look at the end of its console"
            ) from None
        await console.look()


class _Console:
    """A guest's serial line as a file that grows; a flood is cut at a limit."""

    def __init__(self, files: HostFiles, path: Path, on_console: OnConsole) -> None:
        self._files = files
        self._path = path
        self._on_console = on_console
        self._at = 0

    async def look(self) -> None:
        new = await self._files.grown(self._path, self._at, CONSOLE_BYTES_MAX - self._at)
        self._at += len(new)
        if new:
            self._on_console(new)
