"""Switch a guest off: our daemon, else the agent, else the power button is asked; then the plug is pulled.

A guest that works at its shutdown gets the whole time. One that does nothing about it (its kernel is dead, a
process of it does not end) gets a moment only: nobody waits a minute for a machine that stands still.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import libvirt

from backend.errors import FluidError
from backend.hypervisor.domains import Domains
from backend.hypervisor.nouns import DomainEvent

log = logging.getLogger(__name__)

ANSWER_S = 5.0
AGENT_S = 3  # whole seconds: libvirt's own limit for one command of QEMU's agent
BUTTON_S = 10.0
IDLE_S = 10.0
LOOK_S = 1.0
WORKING_SHARE = 0.1  # of a processor; a guest without work takes 0.01 to 0.03, emulated
OFF = ("shutoff", "crashed")
LOOKED_AT = libvirt.VIR_DOMAIN_STATS_VCPU | libvirt.VIR_DOMAIN_STATS_BLOCK


@dataclass(frozen=True)
class Work:
    """What a guest did since its start: seconds that its processors ran or wanted to, writes to its disks."""

    processor_s: float
    writes: int

    def since(self, before: Work, seconds: float) -> bool:
        """Whether it worked in the last ``seconds``."""
        return self.writes > before.writes or self.processor_s - before.processor_s > WORKING_SHARE * seconds


async def stop(domains: Domains, name: str, timeout_s: float) -> bool:
    """Shut down; pull the plug after ``timeout_s``, or from a guest that does nothing about it. True when the
    guest went by itself."""
    async with domains.connection.listening() as events:
        state = (await domains.info(name)).state
        if state in OFF:
            return True
        if state == "running" and await _goes(domains, name, events, timeout_s):
            return True
    await domains.power_off(name)
    return False


async def _goes(domains: Domains, name: str, events: asyncio.Queue[DomainEvent], timeout_s: float) -> bool:
    """Ask it to, and wait. Whatever fails: one that is off by then went by itself."""
    try:
        try:
            await domains.ask(name, "poweroff", limit_s=ANSWER_S)
        except FluidError:
            if not await domains.call(name, _ask_agent, what="shut down"):
                timeout_s = min(timeout_s, BUTTON_S)
        async with asyncio.timeout(timeout_s):
            return await _watched(domains, name, events)
    except (TimeoutError, FluidError) as error:
        log.info("%s does not shut down in %g s: %s", name, timeout_s, error or "it is at work")
    return (await domains.info(name)).state in OFF


async def _watched(domains: Domains, name: str, events: asyncio.Queue[DomainEvent]) -> bool:
    """Wait for the end; False once the guest stood still for :data:`IDLE_S`."""
    loop = asyncio.get_running_loop()
    seen = await domains.call(name, _work, what="look at")
    looked_at = worked_at = loop.time()
    while loop.time() - worked_at < IDLE_S:
        try:
            async with asyncio.timeout(LOOK_S):
                while (event := await events.get()).domain != name or event.kind != "stopped":
                    pass
            return True
        except TimeoutError:
            before, since = seen, looked_at
            seen, looked_at = await domains.call(name, _work, what="look at"), loop.time()
            if seen.since(before, looked_at - since):
                worked_at = looked_at
    log.info("%s does nothing about its shutdown", name)
    return False


def _ask_agent(domain: libvirt.virDomain) -> bool:
    """Whether QEMU's agent in the guest took the request; the power button is pressed otherwise."""
    try:
        domain.agentSetResponseTimeout(AGENT_S, 0)
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
    except libvirt.libvirtError as error:
        log.info("the agent is not asked: %s", error)
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
        return False
    return True


def _work(domain: libvirt.virDomain) -> Work:
    """virConnectGetAllDomainStats: nanoseconds by processor, and the waiting of a crowded host among them."""
    ((_, told),) = domain.connect().domainListGetStats([domain], LOOKED_AT)
    processors, disks = range(told.get("vcpu.maximum", 0)), range(told.get("block.count", 0))
    spent = sum(told.get(f"vcpu.{one}.{kind}", 0) for one in processors for kind in ("time", "wait"))
    return Work(spent / 1e9, sum(told.get(f"block.{one}.wr.reqs", 0) for one in disks))
