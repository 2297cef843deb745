"""The hypervisors of one installation: which of them holds a sandbox, which takes the next one.

What an operator decided of a host (draining) is in the database and outlives the backend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from backend.config import Config
from backend.errors import HostNotFound
from backend.fleet.host import Host
from backend.fleet.placement import Need, Placement, place
from backend.guests import HostLink
from backend.models import HostRecord, now
from backend.paths import Paths
from backend.store import Store

OPEN_PATIENCE_S = 5.0  # a start does not wait longer for hosts that are silent; they join when they answer


class Hosts:
    """Iterates over its hosts in the order of the config."""

    def __init__(self, config: Config, paths: Paths, store: Store) -> None:
        self._config = config
        self._store = store
        self._hosts = {settings.name: Host(config, settings, paths) for settings in config.hosts}

    @property
    def links(self) -> dict[str, HostLink]:
        """The SSH connections that lead to guests of other machines, by the host's name."""
        return {host.name: host.way.link for host in self if host.way.link}

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    async def open(self) -> None:
        """Connect to all at once; the first, which is usually this machine, is waited for."""
        for record in (await self._store.hosts.list())[0]:
            if host := self._hosts.get(record.name):
                host.draining = record.draining
        first, *others = [asyncio.ensure_future(host.open()) for host in self]
        try:
            await first
            if others:
                await asyncio.wait(others, timeout=OPEN_PATIENCE_S)
        finally:
            for slow in others:
                slow.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def close(self) -> None:
        await asyncio.gather(*(host.close() for host in self))

    def named(self, name: str) -> Host:
        """Raises HostNotFound: the config does not list it (any more)."""
        host = self._hosts.get(name)
        if host is None:
            raise HostNotFound(
                f"no host {name!r}", remedy=f"`hosts:` in config.yaml has {', '.join(self._hosts)}"
            )
        return host

    async def place(self, need: Need, image: str) -> Placement:
        """The best host for one more sandbox of ``image``; see :func:`backend.fleet.placement.place`."""
        rooms = await asyncio.gather(*(host.room(image) for host in self))
        return place(rooms, need)

    async def drain(self, name: str, draining: bool) -> Host:
        """Whether it takes new sandboxes; those it has stay."""
        host = self.named(name)
        record = await self._store.hosts.find({"id": name})
        if record is None:
            await self._store.hosts.insert(HostRecord(name=name, draining=draining, created_at=now()))
        else:
            await self._store.hosts.save(record.model_copy(update={"draining": draining}))
        host.draining = draining
        return host
