"""Two libvirtds on one machine, one of which dies with its guest and comes back: run in a network of its own.

Prints whether the other one's guest is filtered before and after, as JSON. libvirt only; no guest executes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt

from backend.hypervisor import NetworkSpec, PrivateLibvirt
from backend.hypervisor.domain_xml import nic_element
from backend.hypervisor.identity import make_identity
from backend.hypervisor.network_xml import FILTER_NAME, filter_xml, network_xml

DEAD_S = 5.0


def own_network(aside: Path) -> None:
    """/sys shows this network's bridges, and the control groups as before."""
    aside.mkdir()
    for argv in (
        ("mount", "--rbind", "/sys/fs/cgroup", aside),
        ("mount", "-t", "sysfs", "sysfs", "/sys"),
        ("mount", "--rbind", aside, "/sys/fs/cgroup"),
        ("ip", "link", "set", "lo", "up"),
    ):
        subprocess.run(argv, check=True)


def is_filtered(domain: libvirt.virDomain) -> bool:
    """Whether the chain of its tap, as libvirt names it, is there."""
    tap = ET.fromstring(domain.XMLDesc()).find("devices/interface/target").get("dev")
    listed = subprocess.run(
        ["ebtables", "-t", "nat", "-L"], capture_output=True, text=True, check=True
    ).stdout
    return f"libvirt-I-{tap}" in listed.replace(",", " ").split()


async def guest(connection: libvirt.virConnect, name: str, address: str) -> libvirt.virDomain:
    """A paused domain with nothing but our card."""
    identity = await make_identity(name, address=address, prefix=24, ca_public="ssh-ed25519 AAAA")
    domain = ET.fromstring(
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os><devices/></domain>"
    )
    domain.find("devices").append(nic_element(identity, "guests", FILTER_NAME))
    return connection.createXML(ET.tostring(domain, encoding="unicode"), libvirt.VIR_DOMAIN_START_PAUSED)


async def host(folder: Path, number: int) -> tuple[PrivateLibvirt, libvirt.virConnect]:
    daemon = PrivateLibvirt(folder, hide_kvm=True)
    connection = libvirt.open(await daemon.start())
    connection.nwfilterDefineXML(filter_xml())
    spec = NetworkSpec(name="guests", bridge=f"br{number}", cidr=f"10.9{number}.0.0/24")
    connection.networkDefineXML(network_xml(spec)).create()
    return daemon, connection


async def main(folder: Path) -> None:
    own_network(folder / "cgroup")
    (daemon_a, a), (daemon_b, b) = await host(folder / "a", 0), await host(folder / "b", 1)
    try:
        await guest(b, "victim-b", "10.91.0.10")
        qemu = int((folder / "b" / "run" / "qemu" / "victim-b.pid").read_text())
        for pid in (daemon_b.pids()["libvirtd"], qemu):
            handle = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(DEAD_S):
                while Path(f"/proc/{pid}/stat").exists() and not _zombie(pid):
                    await asyncio.sleep(0.02)
            os.close(handle)
        running = await guest(a, "a", "10.90.0.10")
        before = is_filtered(running)
        b = libvirt.open(await daemon_b.start())
        b.listAllDomains(0)  # answered once it has looked at what it left
        print(json.dumps({"before": before, "after": is_filtered(running)}))
        running.destroy()
    finally:
        await daemon_a.stop()
        await daemon_b.stop()


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
