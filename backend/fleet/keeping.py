"""Hosts as operators keep them: seen, drained, added with the key that a person compared, removed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from backend.config import HostConfig
from backend.errors import Conflict, DuplicateName, InvalidValue, WrongState
from backend.fleet.following import Following
from backend.fleet.host import Host
from backend.guests import fetch_host_key
from backend.models import HostKeyView, HostView, Identity, Phase, Sandbox
from backend.places import Here, SshDestination

log = logging.getLogger(__name__)

AGE_EVERY_S = 60.0


class HostKeeping(Following):
    """The operators' side of the fleet's hosts."""

    _aged_at = 0.0

    async def hosts(self) -> Sequence[HostView]:
        """All hosts, asked at once: one that hangs holds up the answer by five seconds at most."""
        live = await self.all_live()
        return await asyncio.gather(*(self._view(host, live) for host in self._hosts))

    async def _view(self, host: Host, live: Sequence[Sandbox]) -> HostView:
        here = [row for row in live if row.host_name == host.name]
        stock = [row for row in here if row.purpose == "stock"]
        parked = sum(row.phase is Phase.PAUSED for row in stock)
        return await host.view(len(here) - len(stock), parked)

    async def drain(self, actor: Identity, name: str, draining: bool) -> HostView:
        """Whether a host takes new sandboxes; those it has stay until they end."""
        self._hosts.named(name)
        async with self._audit.step(actor, "host.drain" if draining else "host.resume", "host", name):
            host = await self._hosts.drain(name, draining)
        await self._tell_of(host)
        return await self._view(host, await self.all_live())

    async def age_templates(self) -> None:
        """Templates of sizes that nobody asks for any more go, once no sandbox of that size is left."""
        if time.monotonic() - self._aged_at < AGE_EVERY_S:
            return
        self._aged_at = time.monotonic()
        guests, live = self._config.guests, await self.all_live()
        for host in [host for host in self._hosts if host.up]:
            for image in self._parts.images.list():
                here = [row for row in live if (row.host_name, row.base_image) == (host.name, image.name)]
                sizes = {(guests.cpu, guests.memory_mb), *((row.cpu, row.memory_mb) for row in here)}
                for key in await host.require().age_templates(image.sha256, sizes, guests.template_idle_s):
                    log.info("template %s of %s left %s: nobody asked for it", key, image.name, host.name)

    async def host_key(self, actor: Identity, address: str, port: int | None) -> HostKeyView:
        """The key that a host shows now, for a person to compare. Nothing believes it."""
        key = await fetch_host_key(SshDestination(address, port=port))
        return HostKeyView(address=address, line=key.line, fingerprint=key.fingerprint)

    async def add_host(self, actor: Identity, settings: dict[str, Any], host_key: str) -> HostView:
        """One more host, behind SSH. ``host_key`` is the line that a person compared: no other is believed.

        Raises:
            InvalidValue, DuplicateName: the settings mean no such host.
        """
        config = _checked(settings)
        if any(host.name == config.name for host in self._hosts):
            raise DuplicateName(f"there is a host {config.name!r}", remedy="choose another name")
        async with self._audit.step(actor, "host.add", "host", config.name, address=config.address):
            host = await self._hosts.add(config, host_key)
        self._parts.background.keep(f"follow {host.name}", partial(self.follow, host))
        return await self._view(host, await self.all_live())

    async def remove_host(self, actor: Identity, name: str) -> None:
        """Forget a host that was added so, and has no sandbox left."""
        host = self._hosts.named(name)
        if not self._hosts.was_added(name):
            raise Conflict(f"{name} stands in config.yaml", remedy="remove it there, and start again")
        if here := await self.on(host):
            raise WrongState(
                f"{name} holds {len(here)} sandboxes", remedy="drain it, and wait or destroy them"
            )
        async with self._audit.step(actor, "host.remove", "host", name):
            await self._parts.background.stop(f"follow {name}")
            await self._hosts.remove(name)
        await self._events.publish("host.changed", "host", name, data={"removed": True})


def _checked(settings: dict[str, Any]) -> HostConfig:
    try:
        config = HostConfig.model_validate({**settings, "known_hosts": None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidValue(
            f"{where or 'the host'}: {first['msg']}", remedy="fluid hosts add --help"
        ) from error
    if isinstance(config.place(), Here):
        raise InvalidValue(
            f"{config.address} is this machine", remedy="add other machines; this one stands in config.yaml"
        )
    return config
