"""New guests: forked from a template, or booted cold as the last resort. Either whole, or nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import libvirt

from backend.hypervisor.domain_xml import DomainSpec, Rebase, domain_xml, nic_element
from backend.hypervisor.domains import BOOT_TIMEOUT_S, START_TIMEOUT_S, Domains, fresh_moment
from backend.hypervisor.fork_ways import ForkWays, WayClosed
from backend.hypervisor.network_xml import FILTER_NAME
from backend.hypervisor.nouns import DomainInfo, GuestImage, Identity, Template
from backend.hypervisor.sizes import share_processors
from backend.steps import reached
from backend.together import together

IDENTITY_TIMEOUT_S = 60.0

Login = Callable[[], Awaitable[object]]


async def fork(
    domains: Domains,
    ways: ForkWays,
    template: Template,
    identity: Identity,
    network: str,
    metadata: dict[str, str],
    login: Login | None,
) -> DomainInfo:
    """Run the template's memory on a disk of its own and give it its identity; then ``login``, if any.

    Programming the card's filter takes libvirt some ninety commands: all that goes on meanwhile. Nobody but
    us has been inside the guest yet, and it is handed out only when the filter stands.
    """
    nic = nic_element(identity, network, None)
    while True:  # as often as there are ways
        with contextlib.suppress(WayClosed):
            async with whole_or_nothing(domains, identity.name):
                disk = await domains.files.next_disk(identity.name)
                to = Rebase(identity.name, identity.uuid, disk, domains.console(identity.name), metadata, nic)
                booted = await ways.run(template, to) == "cold boot"
                await together(
                    _introduce(domains, identity, booted=booted),
                    _put_filter(domains, identity, network),
                    share_processors(domains, identity.name, template.cpu),
                )
                # Not beside the filter: what is connected while its rules change was seen to stand still.
                if login:
                    await login()
            return await domains.info(identity.name)


async def cold_boot(
    domains: Domains,
    image: GuestImage,
    identity: Identity,
    network: str,
    *,
    cpu: int,
    memory_mb: int,
    metadata: dict[str, str],
) -> DomainInfo:
    """Boot an overlay of the image and give it its identity as soon as the daemon inside answers."""
    files = domains.files
    async with whole_or_nothing(domains, identity.name):
        image = await files.ensure_image(image)
        disk = await files.next_disk(identity.name)
        await files.create_overlay(disk, image.disk)
        reached("overlay")
        spec = DomainSpec(
            identity.name,
            identity.uuid,
            await domains.machine_for(image.arch),
            cpu,
            memory_mb,
            disk,
            domains.console(identity.name),
            metadata,
            nic_element(identity, network, FILTER_NAME),
        )
        xml = domain_xml(spec, image)
        await domains.connection.call(
            lambda connection: connection.defineXML(xml).create(),
            what=f"boot {identity.name}",
            limit_s=START_TIMEOUT_S,
        )
        reached("running")
        await share_processors(domains, identity.name, cpu)
        await domains.ask(identity.name, "ping", limit_s=BOOT_TIMEOUT_S, resend=True)
        await domains.ask(identity.name, "identity", limit_s=IDENTITY_TIMEOUT_S, **identity_message(identity))
        await domains.ask(identity.name, "ready", limit_s=BOOT_TIMEOUT_S)
        reached("identity")
    return await domains.info(identity.name)


def identity_message(identity: Identity) -> dict[str, Any]:
    """What the daemon inside needs to become this guest."""
    return {
        "hostname": identity.hostname,
        "machine_id": identity.machine_id,
        "host_key": identity.host_key,
        "host_key_public": identity.host_key_public,
        "ca_public": identity.ca_public,
        "mac": identity.mac,
        "address": identity.address,
        "prefix": identity.prefix,
        **fresh_moment(),
    }


async def _introduce(domains: Domains, identity: Identity, *, booted: bool) -> None:
    await domains.ask(identity.name, "identity", limit_s=IDENTITY_TIMEOUT_S, **identity_message(identity))
    if booted:
        await domains.ask(identity.name, "ready", limit_s=BOOT_TIMEOUT_S)
    reached("identity")


async def _put_filter(domains: Domains, identity: Identity, network: str) -> None:
    filtered = ET.tostring(nic_element(identity, network, FILTER_NAME), encoding="unicode")
    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
    await domains.call(
        identity.name, lambda domain: domain.updateDeviceFlags(filtered, flags), what="put the filter on"
    )
    reached("filter")


@contextlib.asynccontextmanager
async def whole_or_nothing(domains: Domains, name: str) -> AsyncIterator[None]:
    """A new domain's files; when the block fails, domain and files go."""
    await domains.files.claim(domains.check_name(name))
    reached("claimed")
    try:
        yield
    except BaseException:
        await asyncio.shield(domains.destroy(name))
        raise
