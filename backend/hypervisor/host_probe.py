"""Whether KVM works on a host where we can start nothing but a domain: only a guest that executed proves it.

The guest is one sector (or one small kernel) that switches its machine off; libvirt tells when. Nothing of it
outlives the connection: libvirtd destroys the domain with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt

from backend.errors import FluidError, NotFound
from backend.hypervisor.domain_xml import WITH_BIOS, machine_of, metadata_element
from backend.hypervisor.domains import Domains
from backend.hypervisor.machines import capabilities
from backend.hypervisor.nouns import DomainEvent, EventKind, KvmProbe
from backend.hypervisor.probe import KERNEL, PLAUSIBLE_S, boot_sector

CREATE_TIMEOUT_S = 90.0  # a libvirtd that cannot use the KVM it sees asks its QEMU again and again
MEMORY_MB = 64
# mov dx, 0x604; mov ax, 0x2000; out dx, ax: the power-off bit of the PIIX4's PM1a control register, where
# SeaBIOS puts it.
SECTOR = boot_sector(bytes.fromhex("66ba0406 66b80020 66ef"))
PROGRAMS = {"x86_64": SECTOR, "aarch64": KERNEL}


async def probe_host(domains: Domains, timeout_s: float = 8.0) -> KvmProbe:
    """Boot the probe with KVM; where that is suspiciously slow, compare with emulation."""
    host = await capabilities(domains.connection)
    if "kvm" not in host.virt_types.get(host.arch, ()):
        return KvmProbe(False, f"the host's libvirt offers no KVM for {host.arch}")
    if host.arch not in PROGRAMS:
        return KvmProbe(False, f"there is no probe for {host.arch}")
    took_s, probe = await boot(domains, host.arch, "kvm", timeout_s)
    if not probe.works or took_s < PLAUSIBLE_S:
        return probe
    emulated_s, emulated = await boot(domains, host.arch, "qemu", timeout_s)
    if emulated.works and emulated_s < took_s:
        return KvmProbe(False, f"a guest took {took_s:.1f} s, and {emulated_s:.1f} s emulated")
    return probe


async def boot(
    domains: Domains, arch: str, virt_type: str, timeout_s: float, program: bytes | None = None
) -> tuple[float, KvmProbe]:
    """Run the probe once; how long the guest took to switch itself off, in seconds, and whether it did."""
    name = f"{domains.prefix}-probe"
    await domains.destroy(name)
    await domains.files.claim(name)
    try:
        file = domains.files.path(name, "probe.img")
        await domains.files.put(file, program or PROGRAMS[arch])
        xml = probe_xml(name, arch, virt_type, file)
        async with domains.connection.listening() as events:
            await domains.connection.call(
                lambda conn: conn.createXML(xml, libvirt.VIR_DOMAIN_START_AUTODESTROY).name(),
                what="boot the probe",
                limit_s=CREATE_TIMEOUT_S,
            )
            began = time.monotonic()
            async with asyncio.timeout(timeout_s):
                kind = await _fate(events, name)
        if kind != "stopped":
            return 0.0, KvmProbe(False, f"a guest did not execute: {kind}")
        return time.monotonic() - began, KvmProbe(True, "a guest executed")
    except TimeoutError:
        return timeout_s, KvmProbe(False, f"a guest did not execute within {timeout_s:g} s")
    except FluidError as error:
        return 0.0, KvmProbe(False, error.message[:200])
    finally:
        with contextlib.suppress(NotFound):
            await asyncio.shield(domains.destroy(name))


async def _fate(events: asyncio.Queue[DomainEvent], name: str) -> EventKind:
    """How the probe ends, an earlier one of the name aside. A processor that KVM cannot run pauses it."""
    started = False
    while True:
        event = await events.get()
        if event.kind == "lost":
            return event.kind
        if event.domain == name:
            if started and event.kind != "resumed":
                return event.kind
            started = started or event.kind == "started"


def probe_xml(name: str, arch: str, virt_type: str, program: Path) -> str:
    """A machine of the kind that our guests have, with nothing in it but the probe."""
    root = ET.Element("domain", type=virt_type)
    for tag, text in (("name", name), ("vcpu", "2")):
        ET.SubElement(root, tag).text = text
    ET.SubElement(root, "metadata").append(metadata_element({"role": "probe"}))
    ET.SubElement(root, "memory", unit="MiB").text = str(MEMORY_MB)
    system = ET.SubElement(root, "os")
    ET.SubElement(system, "type", arch=arch, machine=machine_of(arch)).text = "hvm"
    devices = ET.Element("devices")
    if arch in WITH_BIOS:
        ET.SubElement(ET.SubElement(root, "features"), "acpi")
        disk = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(disk, "driver", name="qemu", type="raw")
        ET.SubElement(disk, "source", file=str(program))
        ET.SubElement(disk, "target", dev="hda", bus="ide")  # SeaBIOS boots no virtio disk so small
    else:
        ET.SubElement(system, "kernel").text = str(program)
    # The processor is the one that our guests ask for: where it cannot be had, they cannot run.
    ET.SubElement(root, "cpu", mode="host-passthrough" if virt_type == "kvm" else "maximum")
    for event in ("poweroff", "reboot", "crash"):
        ET.SubElement(root, f"on_{event}").text = "destroy"
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")
    root.append(devices)
    return ET.tostring(root, encoding="unicode")
