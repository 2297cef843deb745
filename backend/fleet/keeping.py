"""Hosts as operators keep them: seen, drained, added with the key that a person compared, removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from backend.config import HostConfig, words_of
from backend.errors import Conflict, DuplicateName, InvalidValue, WrongState
from backend.fleet.following import Following
from backend.fleet.host import Host
from backend.fleet.lifecycle import warming
from backend.fleet.stock import is_parked
from backend.guests import fetch_host_key
from backend.models import HostKeyView, HostView, Identity, Phase, Sandbox
from backend.places import Here, SshDestination

log = logging.getLogger(__name__)


class HostKeeping(Following):
    """The operators' side of the fleet's hosts."""

    async def hosts(self) -> Sequence[HostView]:
        """All hosts, asked at once: one that hangs holds up the first answer by five seconds, the others not
        at all (:meth:`Host.look`)."""
        live = await self.all_live()
        return await asyncio.gather(*(self._view(host, live) for host in self._hosts))

    async def _view(self, host: Host, live: Sequence[Sandbox], *, patient: bool = False) -> HostView:
        here = [row for row in live if row.host_name == host.name]
        stock = [row for row in here if row.purpose == "stock"]
        parked = [row for row in stock if is_parked(row)]
        suspended = sum(row.phase is Phase.STOPPED for row in parked)
        ready = [image.name for image in self._parts.images.list() if image.sha256 in host.warm]
        return await host.view(len(here) - len(stock), len(parked), suspended, ready, patient=patient)

    async def drain(self, actor: Identity, name: str, draining: bool) -> HostView:
        """Whether a host takes new sandboxes; those it has stay until they end."""
        self._hosts.named(name)
        async with self._audit.step(actor, "host.drain" if draining else "host.resume", "host", name):
            host = await self._hosts.drain(name, draining)
        await self._tell_of(host)
        return await self._view(host, await self.all_live(), patient=True)

    async def host_key(self, actor: Identity, address: str, port: int | None) -> HostKeyView:
        """The key that a host shows now, for a person to compare. Nothing believes it.

        Raises:
            InvalidValue: no host is there to be added.
        """
        _checked({"address": address, "port": port})
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
        """Forget a host that was added so, and has no sandbox left. Nothing of ours stays there, if it
        answers."""
        host = self._hosts.named(name)
        if not self._hosts.was_added(name):
            raise Conflict(f"{name} stands in config.yaml", remedy="remove it there, and start again")
        if here := await self.on(host):
            raise WrongState(
                f"{name} holds {len(here)} sandboxes", remedy="drain it, and wait or destroy them"
            )
        async with self._audit.step(actor, "host.remove", "host", name) as step:
            step.data["left"] = left = await self._taken_away(host)
        if left:
            log.warning("%s is forgotten; there stays %s", name, ", ".join(left))
        await self._events.publish("host.changed", "host", name, data={"removed": True})

    async def _taken_away(self, host: Host) -> list[str]:
        """Nothing new begins there meanwhile; a host that cannot go is followed as before."""
        was, host.draining = host.draining, True
        for work in (f"follow {host.name}", warming(host)):
            await self._parts.background.stop(work)
        try:
            return await self._hosts.remove(host.name)
        except BaseException:
            host.draining = was
            self._parts.background.start(f"follow {host.name}", partial(self.follow, host))
            raise


def _checked(settings: dict[str, Any]) -> HostConfig:
    try:
        config = HostConfig.model_validate({**settings, "known_hosts": None})
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InvalidValue(
            f"{where or 'the host'}: {words_of(error)}", remedy="fluid hosts add --help"
        ) from error
    if isinstance(config.place(), Here):
        raise InvalidValue(
            f"{config.address} is this machine", remedy="add other machines; this one stands in config.yaml"
        )
    return config
