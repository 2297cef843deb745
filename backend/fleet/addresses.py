"""Addresses for guests: a /24 that nobody on this host uses, and the lowest free number in it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Collection

from backend.errors import LimitReached, NoSpace

POOL = ipaddress.IPv4Network("10.231.0.0/16")
FIRST_GUEST = 10  # .1 is the host; below ten is room for by-hand work
IP_TIMEOUT_S = 5


ROUTES = ("ip", "-j", "-4", "route", "show", "table", "all")


async def taken_networks() -> list[ipaddress.IPv4Network]:
    """The IPv4 networks that this host has an address in or a route to (``ip -j route show table all``)."""
    program = await asyncio.create_subprocess_exec(*ROUTES, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(IP_TIMEOUT_S):
        out, _ = await program.communicate()
    return networks_of(out)


def networks_of(told: bytes) -> list[ipaddress.IPv4Network]:
    """What :data:`ROUTES` prints, as networks."""
    found = []
    for route in json.loads(told or b"[]"):
        destination = route.get("dst", "default")
        if destination != "default":
            found.append(ipaddress.IPv4Network(destination, strict=False))
    return found


def free_network(taken: Collection[ipaddress.IPv4Network], pool: ipaddress.IPv4Network = POOL) -> str:
    """The first /24 of ``pool`` that overlaps nothing taken, as CIDR."""
    for network in pool.subnets(new_prefix=24):
        if not any(network.overlaps(other) for other in taken):
            return str(network)
    raise NoSpace(f"no free /24 in {pool}", remedy="set guests.network_cidr in config.yaml")


def free_address(
    cidr: str, used: Collection[str], reserved: Collection[tuple[str, str]] = (), *, name: str = ""
) -> str:
    """The lowest guest address of ``cidr`` that is neither in ``used`` nor in a ``reserved`` range (its first
    and its last). ``name``: of a network that is somebody else's."""
    kept = [tuple(ipaddress.IPv4Address(end) for end in both) for both in reserved]
    for number, address in enumerate(ipaddress.IPv4Network(cidr).hosts(), start=1):
        if number < FIRST_GUEST or str(address) in used:
            continue
        if not any(first <= address <= last for first, last in kept):
            return str(address)
    if not name:
        raise LimitReached(
            f"every address of {cidr} is used", remedy="destroy a sandbox, or widen guests.network_cidr"
        )
    given = ", ".join("-".join(dict.fromkeys(both)) for both in reserved) or "nothing"
    raise LimitReached(
        f"network {name!r} has no address of {cidr} left for a guest; its DHCP has {given}",
        remedy=f"virsh net-edit {name}: leave more of it out of the DHCP range; or destroy a sandbox",
    )
