"""What becomes of sandboxes by themselves: their time runs out, their host goes away and comes back, somebody
ends a domain by hand. Rows follow what libvirt shows; what a crash left half done is undone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from backend.errors import FluidError
from backend.fleet.host import Host
from backend.fleet.recovery import Recovery
from backend.hypervisor import DomainEvent
from backend.hypervisor.nouns import EventKind, State
from backend.models import Identity, Phase, now

log = logging.getLogger(__name__)

FOLLOW_AGAIN_S = 2.0
LOST_AFTER_S = 10.0  # a libvirtd that is restarted is back by then
DOMAIN_STATES: dict[EventKind, State] = {
    "started": "running",
    "resumed": "running",
    "paused": "paused",
    "stopped": "shutoff",
    "crashed": "crashed",
}


class Following(Recovery):
    """Expire, follow, mark as lost."""

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
        up = [host for host in self._hosts if host.up]
        await asyncio.gather(*(self._first(host) for host in up))

    async def _first(self, host: Host) -> None:
        await self._recovered(host, await self.clear_templates(host))
        await self.reconcile(host)

    async def reconcile(self, host: Host) -> None:
        """Make a host's rows and domains agree, after a start and whenever its libvirt is back."""
        await self._recovered(host, await self.agree(host))

    async def _recovered(self, host: Host, said: Sequence[str]) -> None:
        """The log and the audit say what was done."""
        for words in said:
            log.info("recovered on %s: %s", host.name, words)
            await self._audit.note(Identity.system(), "fleet.reconcile", "host", host.name, data_said=words)

    # --- one host, as long as the backend runs ----------------------------------------------------------

    async def follow(self, host: Host) -> None:
        """libvirt's own events drive the state. While libvirt or the database is away they wait; a host that
        is silent holds up no other. Runs until cancelled."""
        if not host.up:
            self._miss(host)
            await host.appear()
            await self._follow(host, DomainEvent("", "connected"))
        self.warm_soon(host)
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
        if state is None or not host.is_sandbox(event.domain):
            return
        sandbox = await self._store.sandboxes.find({"id": host.sandbox_id(event.domain)})
        if sandbox is None or sandbox.phase is Phase.DESTROYED:
            if state in ("running", "paused"):
                # What a backend that died had asked for and libvirt did afterwards.
                await host.require().destroy(event.domain)
        elif sandbox.phase is not Phase.CREATING and not self.exclusive(sandbox.id).locked():
            await self.see(sandbox, state)

    def _miss(self, host: Host) -> None:
        host.since = now()
        self._parts.background.start(f"miss {host.name}", partial(self._lose, host))

    async def _lose(self, host: Host) -> None:
        """A host that stays away takes its sandboxes with it; they are found again when it is back."""
        await asyncio.sleep(LOST_AFTER_S)
        if host.up:
            return
        for sandbox in await self.on(host):
            if sandbox.phase in (Phase.RUNNING, Phase.PAUSED, Phase.STOPPED):
                was, sandbox.phase = sandbox.phase, Phase.LOST
                sandbox.reason = f"{host.name} is silent since {host.since:%H:%M:%S} UTC; it was {was}"
                await self.save(sandbox)
        await self._tell_of(host)

    async def _tell_of(self, host: Host) -> None:
        await self._events.publish("host.changed", "host", host.name, data={"up": host.up})
