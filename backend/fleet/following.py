"""What becomes of sandboxes by themselves: their time runs out, their host goes away and comes back, somebody
ends a domain by hand. Rows follow what libvirt shows; what a crash left half done is undone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from functools import partial

from backend.errors import FluidError
from backend.fleet.host import Host
from backend.fleet.lifecycle import Lifecycle
from backend.hypervisor import DomainEvent, DomainInfo
from backend.hypervisor.nouns import EventKind, State
from backend.models import Identity, Phase, Sandbox, now

log = logging.getLogger(__name__)

FOLLOW_AGAIN_S = 2.0
LOST_AFTER_S = 10.0  # a libvirtd that is restarted is back by then
OURS = ("sandbox", "rehearsal", "stock")  # roles of domains that a row must name
DOMAIN_STATES: dict[EventKind, State] = {
    "started": "running",
    "resumed": "running",
    "paused": "paused",
    "stopped": "shutoff",
    "crashed": "crashed",
}


class Following(Lifecycle):
    """Expire, follow, reconcile."""

    async def expire(self) -> None:
        """Destroy what outlived its TTL and what could not be undone, once its host answers. The daemon calls
        this every few seconds."""
        for sandbox in await self.all_live():
            if not self.host_of(sandbox).up:
                continue
            if sandbox.id in self._torn:
                await self.discard(sandbox)
            elif sandbox.expires_at and sandbox.expires_at <= now():
                log.info("%s outlived its %s s", sandbox.id, sandbox.ttl_seconds)
                await self.destroy(Identity.system(), sandbox.id)

    # --- after a crash --------------------------------------------------------------------------------

    async def reconcile_all(self) -> None:
        """What a start begins with, on each host that answers; the others follow when they do."""
        await asyncio.gather(*(self.reconcile(host) for host in self._hosts if host.up))

    async def reconcile(self, host: Host) -> None:
        """Make a host's rows and domains agree, after a start and whenever its libvirt is back. What was half
        made is undone; the log and the audit say what was done."""
        hypervisor = host.require()
        said: deque[str] = deque()
        domains = {info.name: info for info in await hypervisor.list_ours()}
        for sandbox in await self._on(host):
            info = domains.pop(host.domain_name(sandbox.id), None)
            if sandbox.id not in self._young and not self.exclusive(sandbox.id).locked():
                said += await self._reconcile_one(sandbox, info)
        for info in domains.values():
            if info.metadata.get("role") in OURS:
                await hypervisor.destroy(info.name)
                said.append(f"destroyed {info.name}: no row names it")
        for words in said:
            log.info("recovered on %s: %s", host.name, words)
            await self._audit.note(Identity.system(), "fleet.reconcile", "host", host.name, data_said=words)

    async def _on(self, host: Host) -> list[Sandbox]:
        return [sandbox for sandbox in await self.all_live() if sandbox.host_name == host.name]

    async def _reconcile_one(self, sandbox: Sandbox, info: DomainInfo | None) -> Sequence[str]:
        name, was = sandbox.sandbox_name, sandbox.phase
        unfit_stock = sandbox.purpose == "stock" and (info is None or info.state != "paused")
        if sandbox.purpose == "rehearsal" or was is Phase.CREATING or unfit_stock:
            doing = "it was being made" if was is Phase.CREATING else "the rehearsal ran"
            await self.discard(sandbox)
            return [f"discarded {name}: the backend died while {doing}"]
        if not await self.see(sandbox, info.state if info else None):
            said = []
        else:
            said = [f"{name} was {was}, is {sandbox.phase} {sandbox.reason}".rstrip()]
        if sandbox.phase is Phase.RUNNING and not self._parts.forwards.keeps(sandbox.id):
            self._parts.background.start(f"egress {sandbox.id}", partial(self.open_egress, sandbox))
        return said

    # --- one host, as long as the backend runs ----------------------------------------------------------

    async def follow(self, host: Host) -> None:
        """libvirt's own events drive the state. While libvirt or the database is away they wait; a host that
        is silent holds up no other. Runs until cancelled."""
        if not host.up:
            self._miss(host)
            await host.appear()
            await self._follow(host, DomainEvent("", "connected"))
        self._parts.background.start(f"warm the templates of {host.name}", partial(self.warm, host))
        async for event in host.events():
            await self._follow(host, event)

    async def _follow(self, host: Host, event: DomainEvent) -> None:
        if event.kind == "lost":
            self._miss(host)
        while not await self._followed(host, event):  # noqa: ASYNC110 - nothing tells that all parts are back
            await asyncio.sleep(FOLLOW_AGAIN_S)

    async def _followed(self, host: Host, event: DomainEvent) -> bool:
        try:
            if not host.up:
                await host.revive()
            if event.domain:
                await self._follow_domain(host, event)
            elif event.kind == "connected":
                host.since = now()
                await self.reconcile(host)
                await self._tell_of(host)
        except (FluidError, OSError) as error:
            log.warning("%s %s is not followed yet: %s", event.domain or host.name, event.kind, error)
            return False
        return True

    async def _follow_domain(self, host: Host, event: DomainEvent) -> None:
        state = DOMAIN_STATES.get(event.kind)
        sandbox = await self._store.sandboxes.find({"id": host.sandbox_id(event.domain)})
        if sandbox is None or sandbox.phase in (Phase.CREATING, Phase.DESTROYED):
            return
        if state and not self.exclusive(sandbox.id).locked():
            await self.see(sandbox, state)

    def _miss(self, host: Host) -> None:
        host.since = now()
        self._parts.background.start(f"miss {host.name}", partial(self._lose, host))

    async def _lose(self, host: Host) -> None:
        """A host that stays away takes its sandboxes with it; they are found again when it is back."""
        await asyncio.sleep(LOST_AFTER_S)
        if host.up:
            return
        for sandbox in await self._on(host):
            if sandbox.phase in (Phase.RUNNING, Phase.PAUSED, Phase.STOPPED):
                was, sandbox.phase = sandbox.phase, Phase.LOST
                sandbox.reason = f"{host.name} is silent since {host.since:%H:%M:%S} UTC; it was {was}"
                await self.save(sandbox)
        await self._tell_of(host)

    async def _tell_of(self, host: Host) -> None:
        await self._events.publish("host.changed", "host", host.name, data={"up": host.up})
