"""New guests: forked from a template, or booted cold as the last resort. Either whole, or nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import libvirt

from backend.hypervisor.domain_xml import DomainSpec, Rebase, domain_xml, nic_element, rebased_xml
from backend.hypervisor.domains import BOOT_TIMEOUT_S, START_TIMEOUT_S, Domains, fresh_moment
from backend.hypervisor.network_xml import FILTER_NAME
from backend.hypervisor.nouns import DomainInfo, GuestImage, Identity, Template
from backend.hypervisor.sizes import share_processors
from backend.steps import reached

IDENTITY_TIMEOUT_S = 60.0
SECURE_XML = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


Login = Callable[[], Awaitable[object]]


async def fork(
    domains: Domains,
    template: Template,
    identity: Identity,
    network: str,
    metadata: dict[str, str],
    login: Login | None,
) -> DomainInfo:
    """Restore the template's memory on a fresh overlay and give it its identity; then ``login``, if any.

    Programming the card's filter takes libvirt some ninety commands: all that goes on meanwhile. Nobody but
    us has been inside the guest yet, and it is handed out only when the filter stands.
    """
    files = domains.files
    async with whole_or_nothing(domains, identity.name):
        disk = await files.next_disk(identity.name)
        await files.create_overlay(disk, template.disk)
        reached("overlay")
        nic = nic_element(identity, network, None)
        to = Rebase(identity.name, identity.uuid, disk, domains.console(identity.name), metadata, nic)
        await restore_memory(domains, template.memory, to)
        await _together(
            _introduce(domains, identity, login),
            _put_filter(domains, identity, network),
            share_processors(domains, identity.name, template.cpu),
        )
    return await domains.info(identity.name)


async def restore_memory(domains: Domains, source: Path, to: Rebase) -> None:
    """Run a saved memory, by a copy for the meantime, as the domain that ``to`` names."""
    copy = domains.files.path(to.name, "restore.save")

    def restore(connection: libvirt.virConnect) -> None:
        connection.restoreFlags(str(copy), None, libvirt.VIR_DOMAIN_SAVE_RUNNING)

    try:
        await domains.files.copy_memory(source, copy, lambda xml: rebased_xml(xml, to))
        reached("memory")
        await domains.connection.call(restore, what=f"restore {to.name}", limit_s=START_TIMEOUT_S)
        reached("running")
    finally:
        await asyncio.shield(domains.files.remove(copy))
    await domains.call(to.name, _persist, what="keep")
    reached("defined")


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
            await domains.virt_type_for(image.arch),
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


async def _introduce(domains: Domains, identity: Identity, login: Login | None) -> None:
    await domains.ask(identity.name, "identity", limit_s=IDENTITY_TIMEOUT_S, **identity_message(identity))
    reached("identity")
    if login:
        await login()


async def _put_filter(domains: Domains, identity: Identity, network: str) -> None:
    filtered = ET.tostring(nic_element(identity, network, FILTER_NAME), encoding="unicode")
    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
    await domains.call(
        identity.name, lambda domain: domain.updateDeviceFlags(filtered, flags), what="put the filter on"
    )
    reached("filter")


def _persist(domain: libvirt.virDomain) -> None:
    """A restored domain is transient until its XML is defined."""
    domain.connect().defineXML(domain.XMLDesc(SECURE_XML))


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


async def _together(*work: Coroutine[Any, Any, Any]) -> None:
    """Run all at once; the first failure ends the others and is the one that is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
