"""After a crash: what was written ahead and not done is finished or undone, before anybody else touches it.

A sandbox that was being made goes, and so does a rehearsal's twin. A snapshot that has no row yet is undone;
a restore, a deletion and a destruction are finished: they had begun to replace what was there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from backend.errors import Conflict, DatabaseDown, HypervisorDown, NotFound
from backend.fleet.host import Host
from backend.fleet.lifecycle import Lifecycle
from backend.fleet.snapshots import Snapshots
from backend.fleet.states import before
from backend.hypervisor import DomainInfo, Hypervisor, is_suspended
from backend.models import Identity, Phase, Sandbox

log = logging.getLogger(__name__)

OURS = ("sandbox", "rehearsal", "stock")  # roles of domains that a row must name
TEMPLATE = "template"


class Recovery(Lifecycle, Snapshots):
    """Makes the rows, the domains and the files of a host agree."""

    async def clear_templates(self, host: Host) -> list[str]:
        """At a start nobody builds one: the domain of a build that was cut off goes. Says what was done."""
        hypervisor, said = host.require(), []
        for info in await hypervisor.list_ours(TEMPLATE):
            if info.metadata.get("role") == TEMPLATE:
                await hypervisor.destroy(info.name)
                said.append(f"destroyed {info.name}: its build was cut off")
        cut_off = await hypervisor.sweep_preparations()
        return said + [f"destroyed {name}: the import of its image was cut off" for name in cut_off]

    async def agree(self, host: Host) -> list[str]:
        """Every row of the host against its domain, then domains and files without a row."""
        hypervisor = host.require()
        said: list[str] = []
        domains = {info.name: info for info in await hypervisor.list_ours()}
        rows = await self.all_live()
        for sandbox in rows:
            if not self._is_here(host, sandbox, domains):
                continue
            info = domains.pop(host.domain_name(sandbox.id), None)
            if sandbox.host_name != host.name:
                said.append(await self._adopt(host, sandbox))
            if sandbox.id not in self._young and not self.exclusive(sandbox.id).locked():
                said += await self._settled(host, sandbox, info)
        living = {sandbox.id for sandbox in rows}
        for info in domains.values():
            # One that names a row's sandbox was renamed, or is somebody's copy of it.
            if info.metadata.get("role") in OURS and info.metadata.get("sandbox") not in living:
                with self._parts.background.turn(f"destroy {info.name}, which no row names"):
                    await hypervisor.destroy(info.name)
                    said.append(f"destroyed {info.name}: no row names it")
        return said + await self._clear_files(host, hypervisor)

    def _is_here(self, host: Host, sandbox: Sandbox, domains: Mapping[str, DomainInfo]) -> bool:
        """Also one of a host that is not listed, when its machine is found here: the host has a new name."""
        if sandbox.host_name == host.name:
            return True
        info = domains.get(host.domain_name(sandbox.id))
        unlisted = self._hosts.find(sandbox.host_name) is None
        return unlisted and info is not None and info.uuid == sandbox.uuid

    async def _adopt(self, host: Host, sandbox: Sandbox) -> str:
        was = sandbox.host_name
        await self.change(sandbox, host_name=host.name, host_address=host.address)
        return f"found {sandbox.sandbox_name} of {was}, which is not listed, on {host.name}"

    async def _settled(self, host: Host, sandbox: Sandbox, info: DomainInfo | None) -> Sequence[str]:
        """One row that cannot be settled holds up no other: it is tried again by itself."""
        try:
            return await self._agree_on(host, sandbox, info)
        except (HypervisorDown, DatabaseDown):
            raise
        except Exception as error:
            log.warning("%s is not settled yet: %r", sandbox.id, error)
            self._parts.background.keep(f"settle {sandbox.id}", partial(self._settle_later, sandbox.id))
            return []

    async def _settle_later(self, sandbox_id: str) -> None:
        sandbox = await self.load(sandbox_id)
        host, info = self._hosts.find(sandbox.host_name), None
        if sandbox.phase is Phase.DESTROYED or host is None or not host.up:  # its host's return settles it
            return
        if (
            sandbox.id in self._young or self.exclusive(sandbox.id).locked()
        ):  # somebody is at work on it again
            return
        with suppress(NotFound, Conflict):
            info = await host.require().info(host.domain_name(sandbox.id))
        for words in await self._agree_on(host, sandbox, info):
            await self._recovered(host, words)

    async def _recovered(self, host: Host, words: str) -> None:
        """The log and the audit say what was done."""
        log.info("recovered on %s: %s", host.name, words)
        await self._audit.note(Identity.system(), "fleet.reconcile", "host", host.name, data_said=words)

    async def on(self, host: Host) -> list[Sandbox]:
        """The live rows of a host."""
        return [sandbox for sandbox in await self.all_live() if sandbox.host_name == host.name]

    async def _clear_files(self, host: Host, hypervisor: Hypervisor) -> list[str]:
        said, found = [], await hypervisor.leftovers()
        named = {host.domain_name(sandbox.id) for sandbox in await self.all_live()}  # last: one may be new
        for name in found:
            if host.is_sandbox(name) and name not in named:
                with self._parts.background.turn(f"remove the files of {name}, which no row names"):
                    await hypervisor.destroy(name)
                    said.append(f"removed the files of {name}: no row names it")
        return said

    async def _agree_on(self, host: Host, sandbox: Sandbox, info: DomainInfo | None) -> Sequence[str]:
        """``sandbox`` and ``info`` were read a while ago: what is no news is believed, and else both are read
        again before anything is done."""
        name, was = sandbox.sandbox_name, before(sandbox).phase
        if why := _needless(sandbox, info):
            info = await self.domain_of(host, sandbox)
            if not await self._is_as_read(sandbox) or not _needless(sandbox, info):
                return []
            await self.discard(sandbox)
            return [f"discarded {name}: {why}"]
        if sandbox.doing:
            return [await self._end(sandbox)] if await self._is_as_read(sandbox) else []
        stood_still, shown = was is Phase.PAUSED, sandbox.phase
        async with self.exclusive(sandbox.id):
            if info and info.persistent and await self._judged(sandbox, info) == before(sandbox):
                news = await self.see(sandbox, info)
            else:
                sandbox = await self.load(sandbox.id)
                if sandbox.phase in (Phase.CREATING, Phase.DESTROYED):
                    return []
                news = await self.see(sandbox, await self.domain_of(host, sandbox))
        self._reach(sandbox, woken=stood_still)
        return [f"{name} was {shown}, is {sandbox.phase} {sandbox.reason}".rstrip()] if news else []

    async def _is_as_read(self, sandbox: Sandbox) -> bool:
        """Whether nobody has taken it up since."""
        fresh = await self.load(sandbox.id)
        same = (fresh.phase, fresh.purpose, fresh.doing) == (sandbox.phase, sandbox.purpose, sandbox.doing)
        return same and sandbox.id not in self._young and not self.exclusive(sandbox.id).locked()

    def _reach(self, sandbox: Sandbox, *, woken: bool = False) -> None:
        """Hold the connection to one that runs; ``woken``: it stood still, and nobody set its clock."""
        if sandbox.phase is not Phase.RUNNING:
            return
        if woken or not self._parts.forwards.keeps(sandbox.id):
            work = partial(self._hold, sandbox.id, woken)
            self._parts.background.keep(f"reach {sandbox.id}", work)

    async def _hold(self, sandbox_id: str, woken: bool) -> None:
        """As long as it runs, this is tried again."""
        sandbox = await self.load(sandbox_id)
        if sandbox.phase is not Phase.RUNNING or self._hosts.find(sandbox.host_name) is None:
            return
        if woken:
            self._guests.release(sandbox.id)
            await self.machine(sandbox).trust(sandbox.domain, self._parts.authority.trusted.text)
        if not self._parts.forwards.keeps(sandbox.id):
            await self.open_egress(sandbox)

    async def _end(self, sandbox: Sandbox) -> str:
        """Finish or undo what the row says was under way."""
        what, _, point = sandbox.doing.partition(" ")
        if what == "destroy":
            await self.discard(sandbox)
            return f"finished the destruction of {sandbox.sandbox_name}"
        async with self.exclusive(sandbox.id):
            await self.machine(sandbox).settle(sandbox.domain)
            done = await self._end_of_point(sandbox, what, point)
        self._reach(await self.load(sandbox.id))
        return f"{done} of {sandbox.sandbox_name}"

    async def _end_of_point(self, sandbox: Sandbox, what: str, point: str) -> str:
        snapshot = await self._store.snapshots.find({"sandbox_id": sandbox.id, "name": point})
        if what == "restore" and snapshot:
            done = f"finished the restore to {point}"
            async with self.ahead(sandbox, what, point):
                await self._put_back(sandbox, snapshot)
                await self._standing_on(sandbox, point)
            return done
        if what == "forget" and snapshot:
            done = f"finished the deletion of snapshot {point}"
            async with self.ahead(sandbox, what, point):
                await self._drop_point(sandbox, snapshot)
        elif what == "snapshot" and snapshot:
            done = f"kept the snapshot {point}"
            await self._standing_on(sandbox, point)
        else:
            done = f"undid the snapshot {point}"
            await self._forget(sandbox, point)
        await self.machine(sandbox).tidy(sandbox.domain)
        await self.change(sandbox, doing="")
        await self._look_again(sandbox.id)
        return done


def _needless(sandbox: Sandbox, info: DomainInfo | None) -> str:
    """Why nobody waits for it any more; empty for what is somebody's."""
    if before(sandbox).phase is Phase.CREATING:
        return "the backend died while it was being made"
    if sandbox.purpose == "rehearsal":
        return "the backend died while the rehearsal ran"
    if sandbox.purpose != "stock":
        return ""
    fit = info is not None and (is_suspended(info) if sandbox.memory_file else info.state == "paused")
    return "" if fit else "it stood in stock, and is not as it was parked"
