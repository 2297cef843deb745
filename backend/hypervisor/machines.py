"""What a host can run, asked of its libvirt: its own architecture on KVM or emulated, others emulated.

Where the machine has no BIOS, the firmware is what libvirt names first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import libvirt

from backend.errors import ArchitectureUnsupported
from backend.hypervisor.connection import Connection
from backend.hypervisor.domain_xml import WITH_BIOS, libvirt_arch, machine_of, tree
from backend.hypervisor.nouns import Machine

CAPABILITIES_TIMEOUT_S = 60.0  # the first question starts each QEMU there is


@dataclass(frozen=True)
class HostCapabilities:
    """The host's own architecture, and by which means it runs guests of each."""

    arch: str
    virt_types: dict[str, frozenset[str]]


def parse_capabilities(xml: str) -> HostCapabilities:
    """libvirt's capabilities (formatcaps): only ``hvm`` guests count."""
    root = tree(xml)
    found: dict[str, frozenset[str]] = {}
    for guest in root.findall("guest"):
        arch = guest.find("arch")
        if guest.findtext("os_type") == "hvm" and arch is not None:
            found[arch.get("name", "")] = frozenset(
                domain.get("type", "") for domain in arch.findall("domain")
            )
    return HostCapabilities(root.findtext("host/cpu/arch", ""), found)


async def capabilities(connection: Connection) -> HostCapabilities:
    """What the host of ``connection`` says of itself."""
    return parse_capabilities(
        await connection.call(
            lambda conn: str(conn.getCapabilities()),
            what="ask for capabilities",
            limit_s=CAPABILITIES_TIMEOUT_S,
        )
    )


def parse_firmware(xml: str) -> Path | None:
    """The first firmware that libvirt's domain capabilities (formatdomaincaps) name."""
    found = tree(xml).findtext("os/loader/value")
    return Path(found) if found else None


async def machine_for(connection: Connection, image_arch: str, own: str) -> Machine:
    """How guests of an image's architecture run there; ``own`` is how those of the host's own do.

    Raises ArchitectureUnsupported where they cannot.
    """
    arch = libvirt_arch(image_arch)
    machine = machine_of(arch)
    host = await capabilities(connection)
    virt_type = own if arch == host.arch else "qemu"

    def ask(conn: libvirt.virConnect) -> str:
        try:
            return str(conn.getDomainCapabilities(None, arch, machine, virt_type, 0))
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_CONFIG_UNSUPPORTED):
                return ""
            raise

    told = ""
    if virt_type in host.virt_types.get(arch, ()):
        told = await connection.call(ask, what="ask for machines", limit_s=CAPABILITIES_TIMEOUT_S)
    if not told:
        raise ArchitectureUnsupported(
            f"the host ({host.arch}) runs no {arch} guests of machine {machine}",
            remedy=f"install QEMU for {arch} there, or use an image for {host.arch}",
        )
    return Machine(virt_type, None if arch in WITH_BIOS else parse_firmware(told))
