"""What becomes of sandboxes by themselves: their time runs out, their host goes away and comes back, somebody
ends, pauses or renames a domain by hand. Rows follow what libvirt shows; what a crash left is undone.

An event only says that a domain is to be looked at: what is kept is what libvirt shows then.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from backend.errors import Conflict, FluidError, NotFound
from backend.fleet.core import FleetParts
from backend.fleet.host import Host
from backend.fleet.recovery import OURS, Recovery
from backend.fleet.states import Verdict, before
from backend.hypervisor import DomainEvent, DomainInfo
from backend.models import Identity, Phase, Sandbox, now

log = logging.getLogger(__name__)

FOLLOW_AGAIN_S = 2.0
LOST_AFTER_S = 10.0  # a libvirtd that is restarted is back by then
ENDED_AT_ONCE = 4  # on one host


class Following(Recovery):
    """Expire, follow, mark as lost."""

    def __init__(self, parts: FleetParts) -> None:
        super().__init__(parts)
        self._unseen: set[tuple[str, str]] = set()  # domains by their host that are to be looked at
        self._ending: dict[str, asyncio.Semaphore] = defaultdict(partial(asyncio.Semaphore, ENDED_AT_ONCE))

    async def expire(self) -> None:
        """Destroy what outlived its TTL and what could not be undone, once its host answers; each by itself,
        so that one that cannot be destroyed holds up no other. The daemon calls this every few seconds."""
        up = {host.name for host in self._hosts if host.up}
        for sandbox in await self.all_live():
            if sandbox.host_name in up and self._is_over(sandbox):
                self._parts.background.keep(f"end {sandbox.id}", partial(self._end_life, sandbox.id))

    def _is_over(self, sandbox: Sandbox) -> bool:
        outlived = sandbox.expires_at is not None and sandbox.expires_at <= now()
        return outlived or sandbox.id in self._torn

    async def _end_life(self, sandbox_id: str) -> None:
        sandbox = await self.load(sandbox_id)
        host = self._hosts.find(sandbox.host_name)
        if sandbox.phase is Phase.DESTROYED or host is None or not host.up or not self._is_over(sandbox):
            return
        async with self._ending[host.name], self.alone(sandbox):
            if sandbox.id in self._torn:
                await self.discard(sandbox)
            elif self._is_over(sandbox):  # nobody extended it meanwhile
                log.info("%s outlived its %s s", sandbox.id, sandbox.ttl_seconds)
                await self._destroy(Identity.system(), sandbox)

    # --- after a crash --------------------------------------------------------------------------------

    async def reconcile_all(self) -> None:
        """What a start begins with, on each host that answers; the others follow when they do. One where it
        fails is followed, and so reconciled again."""
        await self._lose_unlisted()
        up = [host for host in self._hosts if host.up]
        await asyncio.gather(*(self._first(host) for host in up))

    async def _first(self, host: Host) -> None:
        with self._parts.background.turn(f"reconcile {host.name}"):
            for words in await self.clear_templates(host):
                await self._recovered(host, words)
            await self.reconcile(host)

    async def reconcile(self, host: Host) -> None:
        """Make a host's rows and domains agree, after a start and whenever its libvirt is back."""
        for words in await self.agree(host):
            await self._recovered(host, words)

    # --- one host, as long as the backend runs ----------------------------------------------------------

    async def follow(self, host: Host) -> None:
        """libvirt's own events drive the state. While libvirt or the database is away they wait; a host that
        is silent holds up no other. Runs until cancelled; begun again, it misses nothing."""
        was_up = host.up
        if not was_up:
            self._miss(host)
            await host.appear()
        async with host.listening() as events:
            if host.up:
                await self._insist(host, partial(self._rejoin, host, tell=not was_up))
            self.warm_soon(host)
            async for event in events:
                await self._follow(host, event)

    async def _follow(self, host: Host, event: DomainEvent) -> None:
        if event.domain:
            self._look_soon(host, event.domain)
        elif event.kind == "lost":
            self._miss(host)
            await self._insist(host, host.revive)
        elif event.kind == "connected":
            await self._insist(host, partial(self._rejoin, host, tell=True))

    async def _rejoin(self, host: Host, *, tell: bool) -> None:
        if not host.up:
            await host.revive()
        self._parts.background.keep(f"make the network of {host.name} ready", host.settle)
        await self.reconcile(host)
        if tell:
            host.since = now()
            await self._tell_of(host)

    async def _insist(self, host: Host, work: Callable[[], Awaitable[None]]) -> None:
        """Nothing tells that all parts are back: they are asked again."""
        while True:
            try:
                await work()
            except (FluidError, OSError) as error:
                log.warning("%s is not followed yet: %s", host.name, error)
                await asyncio.sleep(FOLLOW_AGAIN_S)
            else:
                return

    # --- one domain -------------------------------------------------------------------------------------

    def _look_soon(self, host: Host, domain: str) -> None:
        """By itself, and once more for what happens meanwhile: no domain holds up another."""
        self._unseen.add((host.name, domain))
        self._parts.background.keep(f"look at {domain}", partial(self._look, host, domain))

    async def _look(self, host: Host, domain: str) -> None:
        what = (host.name, domain)
        while what in self._unseen and host.up:  # one that is away is reconciled when it is back
            self._unseen.discard(what)
            try:
                await self._look_at(host, domain)
            except BaseException:
                self._unseen.add(what)
                raise
        self._unseen.discard(what)

    async def _look_at(self, host: Host, domain: str) -> None:
        if not host.is_sandbox(domain):
            return
        sandbox = await self._store.sandboxes.find({"id": host.sandbox_id(domain)})
        info: DomainInfo | None = None
        if sandbox is None or sandbox.phase is Phase.DESTROYED:
            with suppress(NotFound, Conflict):  # Conflict: it is not ours, whatever its name
                info = await host.require().info(domain)
            if info is None or info.metadata.get("role") not in OURS:
                return
            # Somebody renamed it, or copied it; else a backend that died had asked for it.
            sandbox = await self._store.sandboxes.find({"id": info.metadata.get("sandbox", "")})
        if sandbox is None or sandbox.phase is Phase.DESTROYED:
            await host.require().destroy(domain)
            return
        if sandbox.phase is Phase.CREATING or sandbox.id in self._young:
            return
        async with self.exclusive(sandbox.id):  # whoever holds it keeps what it does itself
            stood_still = before(await self.load(sandbox.id)).phase is Phase.PAUSED
            news = await self._look_again(sandbox.id)
        if news:
            self._reach(await self.load(sandbox.id), woken=stood_still)

    # --- hosts that are away ----------------------------------------------------------------------------

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
                since = f"{host.name} is silent since {host.since:%Y-%m-%d %H:%M:%S} UTC"
                await self._lost(sandbox, f"{since}; it was {_was(sandbox)}")
        await self._tell_of(host)

    async def _lose_unlisted(self) -> None:
        """Rows of hosts that the config no longer lists. They are found again when it does."""
        for sandbox in await self.all_live():
            if self._hosts.find(sandbox.host_name) is None:
                name = sandbox.host_name
                await self._lost(
                    sandbox,
                    f"{name} is not among the hosts any more; it was {_was(sandbox)}. List {name} in "
                    f"config.yaml again and restart, or give it up: fluid sandboxes destroy {sandbox.id}",
                )

    async def _lost(self, sandbox: Sandbox, reason: str) -> None:
        with self._parts.background.turn(f"mark {sandbox.id} as lost"):
            if reason != sandbox.reason:
                await self._believe(sandbox, Verdict(Phase.LOST, reason))

    async def _tell_of(self, host: Host) -> None:
        await self._events.publish("host.changed", "host", host.name, data={"up": host.up})


def _was(sandbox: Sandbox) -> str:
    """``paused (why)``."""
    was = before(sandbox)
    return f"{was.phase} ({was.reason})" if was.reason else str(was.phase)
