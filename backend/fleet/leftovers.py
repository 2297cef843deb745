"""What no row names: domains, files and networks of ours that a crash, or a hand, left on a host.

Recovery removes such things by itself; this shows that it did, and clears what it could not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from backend.errors import FluidError
from backend.fleet.host import Host
from backend.fleet.recovery import Recovery
from backend.models import Identity, Leftover, LeftoverReport


class Leftovers(Recovery):
    """Looks on every host that answers."""

    async def leftovers(self, actor: Identity) -> LeftoverReport:
        """What is there and what of it nobody needs; nothing is touched."""
        reports = await asyncio.gather(*(self._look_on(host) for host in self._hosts))
        return LeftoverReport(
            domains=sum(report.domains for report in reports),
            files=sum(report.files for report in reports),
            networks=sum(report.networks for report in reports),
            found=[one for report in reports for one in report.found],
            silent=[name for report in reports for name in report.silent],
        )

    async def clear(self, actor: Identity) -> LeftoverReport:
        """Remove it; the answer is what was removed."""
        report = await self.leftovers(actor)
        for one in report.found:
            async with self._audit.step(actor, "fleet.clear", one.kind, one.name, host=one.host):
                hypervisor = self._hosts.named(one.host).require()
                if one.kind == "network":
                    await hypervisor.remove_network(one.name)
                else:
                    await hypervisor.destroy(one.name)
        return report

    async def _look_on(self, host: Host) -> LeftoverReport:
        try:
            return await self._compare(host)
        except FluidError as error:
            return LeftoverReport(silent=[f"{host.name}: {error.message}"])

    async def _compare(self, host: Host) -> LeftoverReport:
        hypervisor = host.require()
        domains = await hypervisor.list_ours()
        folders = await hypervisor.leftovers()
        networks = await hypervisor.our_networks()
        # Rows come last: what was made meanwhile has one by now.
        named = {host.domain_name(sandbox.id) for sandbox in await self.on(host)}
        named |= hypervisor.unnamed()
        return LeftoverReport(
            domains=len(domains),
            files=len(domains) + len(folders),
            networks=len(networks),
            found=[
                *self._found(host, "domain", [one.name for one in domains], named, "no row names it"),
                *self._found(host, "files", folders, named, "no row and no domain has this name"),
                *self._found(host, "network", networks, {host.network.name}, "it is not this host's network"),
            ],
        )

    def _found(
        self, host: Host, kind: str, names: Sequence[str], needed: set[str], why: str
    ) -> list[Leftover]:
        return [
            Leftover(host=host.name, kind=kind, name=name, why=why) for name in names if name not in needed
        ]
