"""The hypervisors of one installation: which of them holds a sandbox, which takes the next one.

What an operator decided of a host (draining) is in the database and outlives the backend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from backend.config import Config, HostConfig
from backend.errors import HostNotFound
from backend.fleet.host import Host
from backend.fleet.placement import Need, Placement, place, refusal
from backend.guests import HostLink
from backend.models import HostRecord, now
from backend.paths import Paths
from backend.store import Store

OPEN_PATIENCE_S = 5.0  # a start does not wait longer for hosts that are silent; they join when they answer


class Hosts:
    """Iterates over its hosts in the order of the config."""

    def __init__(self, config: Config, paths: Paths, store: Store) -> None:
        self._config = config
        self._paths = paths
        self._store = store
        self._hosts: dict[str, Host] = {}
        self._added: set[str] = set()
        self.links: dict[str, HostLink] = {}
        """The SSH connections that lead to guests of other machines, by the host's name."""
        for settings in config.hosts:
            self._join(settings)

    def __iter__(self) -> Iterator[Host]:
        return iter(list(self._hosts.values()))

    def _join(self, settings: HostConfig) -> Host:
        host = self._hosts[settings.name] = Host(self._config, settings, self._paths)
        if host.way.link:
            self.links[host.name] = host.way.link
        return host

    async def open(self) -> None:
        """Connect to all at once; only this machine, whose libvirtd we may have to start, is waited for."""
        for record in (await self._store.hosts.list())[0]:
            if record.settings and record.name not in self._hosts:
                self._join_added(record)
            if host := self._hosts.get(record.name):
                host.draining = record.draining
        opening = {host: asyncio.ensure_future(host.open()) for host in self}
        here = [opened for host, opened in opening.items() if host.is_here]
        try:
            await asyncio.wait(opening.values(), timeout=OPEN_PATIENCE_S)
            await asyncio.gather(*here)
        finally:
            for slow in opening.values():
                slow.cancel()
            await asyncio.gather(*opening.values(), return_exceptions=True)

    async def close(self) -> None:
        await asyncio.gather(*(host.close() for host in self))

    def find(self, name: str) -> Host | None:
        """None: it is not listed (any more)."""
        return self._hosts.get(name)

    def named(self, name: str) -> Host:
        """Raises HostNotFound: the config does not list it (any more)."""
        host = self._hosts.get(name)
        if host is None:
            raise HostNotFound(
                f"no host {name!r}", remedy=f"`fluid hosts list` shows them: {', '.join(self._hosts)}"
            )
        return host

    async def place(self, need: Need, image: str) -> Placement:
        """The best host for one more sandbox of the image with that SHA-256: see
        :func:`backend.fleet.placement.place`.

        The chosen one is asked again: it may have hung, or filled up, since it showed how it is.
        """
        rooms = {room.name: room for room in await asyncio.gather(*(host.room(image) for host in self))}
        while True:
            best = place(list(rooms.values()), need)
            rooms[best.name] = await self.named(best.name).room(image, max_age_s=0)
            if refusal(rooms[best.name], need) is None:
                return best

    def was_added(self, name: str) -> bool:
        """Whether an operator added it, and not the config."""
        return name in self._added

    async def add(self, settings: HostConfig, host_key: str) -> Host:
        """Keep it, and the one key that it may show; connecting is the follower's."""
        record = HostRecord(
            name=settings.name,
            settings=settings.model_dump(mode="json", exclude_unset=True),
            host_key=host_key,
            created_at=now(),
        )
        await self._store.hosts.insert(record)
        return self._join_added(record)

    def _join_added(self, record: HostRecord) -> Host:
        known = self._known_hosts(record.name)
        known.write_text(f"{record.host_key}\n")
        self._added.add(record.name)
        return self._join(HostConfig.model_validate({**(record.settings or {}), "known_hosts": str(known)}))

    def _known_hosts(self, name: str) -> Path:
        """The file with the one key that a host which was added may show."""
        return self._paths.links / f"{name}.known_hosts"

    async def remove(self, name: str) -> list[str]:
        """Take away what is ours there, hang up and forget it. What had to stay: all, if it is silent.

        Raises:
            WrongState: a machine of ours is there; nothing was done.
        """
        left = await self._hosts[name].vanish()
        await self._store.hosts.delete(name)
        await self._hosts[name].close()
        self._known_hosts(name).unlink(missing_ok=True)
        del self._hosts[name]
        self.links.pop(name, None)
        self._added.discard(name)
        return left

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
