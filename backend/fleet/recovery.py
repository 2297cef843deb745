"""After a crash: what was written ahead and not done is finished or undone, before anybody else touches it.

A sandbox that was being made goes, and so does a rehearsal's twin. A snapshot that has no row yet is undone;
a restore, a deletion and a destruction are finished: they had begun to replace what was there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from backend.fleet.host import Host
from backend.fleet.lifecycle import Lifecycle
from backend.fleet.snapshots import Snapshots
from backend.hypervisor import DomainInfo, Hypervisor
from backend.models import Phase, Sandbox

OURS = ("sandbox", "rehearsal", "stock")  # roles of domains that a row must name
TEMPLATE = "template"


class Recovery(Lifecycle, Snapshots):
    """Makes the rows, the domains and the files of a host agree."""

    async def clear_templates(self, host: Host) -> list[str]:
        """At a start nobody builds one: the domain of a build that was cut off goes. Says what was done."""
        hypervisor, said = host.require(), []
        for info in await hypervisor.list_ours():
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
        for sandbox in await self.on(host):
            info = domains.pop(host.domain_name(sandbox.id), None)
            if sandbox.id not in self._young and not self.exclusive(sandbox.id).locked():
                said += await self._agree_on(sandbox, info)
        for info in domains.values():
            if info.metadata.get("role") in OURS:
                await hypervisor.destroy(info.name)
                said.append(f"destroyed {info.name}: no row names it")
        return said + await self._clear_files(host, hypervisor)

    async def on(self, host: Host) -> list[Sandbox]:
        """The live rows of a host."""
        return [sandbox for sandbox in await self.all_live() if sandbox.host_name == host.name]

    async def _clear_files(self, host: Host, hypervisor: Hypervisor) -> list[str]:
        named = {host.domain_name(sandbox.id) for sandbox in await self.on(host)}
        said = []
        for name in await hypervisor.leftovers():
            if host.is_sandbox(name) and name not in named:
                await hypervisor.destroy(name)
                said.append(f"removed the files of {name}: no row names it")
        return said

    async def _agree_on(self, sandbox: Sandbox, info: DomainInfo | None) -> Sequence[str]:
        name, was = sandbox.sandbox_name, sandbox.phase
        unfit_stock = sandbox.purpose == "stock" and (info is None or info.state != "paused")
        if sandbox.purpose == "rehearsal" or was is Phase.CREATING or unfit_stock:
            doing = "it was being made" if was is Phase.CREATING else "the rehearsal ran"
            await self.discard(sandbox)
            return [f"discarded {name}: the backend died while {doing}"]
        if sandbox.doing:
            return [await self._end(sandbox)]
        said = []
        if await self.see(sandbox, info.state if info else None):
            said = [f"{name} was {was}, is {sandbox.phase} {sandbox.reason}".rstrip()]
        self._reach(sandbox)
        return said

    def _reach(self, sandbox: Sandbox) -> None:
        if sandbox.phase is Phase.RUNNING and not self._parts.forwards.keeps(sandbox.id):
            self._parts.background.start(f"egress {sandbox.id}", partial(self.open_egress, sandbox))

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
        fresh = await self.load(sandbox.id)
        fresh.doing = ""
        await self.save(fresh)
        await self._look_again(sandbox.id)
        return done
