"""Our networks and the filter of every guest's card: made when missing, started when off."""

from __future__ import annotations

import contextlib
import logging
import subprocess
from pathlib import Path

import libvirt

from backend.errors import Conflict, HypervisorFailed
from backend.hypervisor.connection import Connection, looked_up
from backend.hypervisor.domain_xml import tree
from backend.hypervisor.network_xml import (
    FILTER_FAMILY,
    FILTER_NAME,
    filter_xml,
    foreign_network,
    network_xml,
    same_network,
)
from backend.hypervisor.nouns import ForeignNetwork, NetworkSpec

log = logging.getLogger(__name__)

IP_TIMEOUT_S = 5.0
BRIDGES = Path("/sys/class/net")
SEEN_BY_IPTABLES = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
OWN_SWITCH = Path("bridge/nf_call_iptables")


async def ensure_network(connection: Connection, spec: NetworkSpec, prefix: str, *, here: bool) -> None:
    """Define and start the network and its filter; Conflict if the name stands for another network. ``here``:
    the host is this machine, where a bridge that a killed libvirtd left is removed."""
    _check_prefix(spec.name, prefix)

    def work(conn: libvirt.virConnect) -> None:
        _ensure_filter(conn)
        network = looked_up(lambda: conn.networkLookupByName(spec.name), libvirt.VIR_ERR_NO_NETWORK)
        if network is None:
            network = conn.networkDefineXML(network_xml(spec))
        if not same_network(network.XMLDesc(0), spec):
            raise Conflict(
                f"network {spec.name!r} exists with another bridge or address",
                remedy="remove it, or choose another network in the configuration",
            )
        if not network.isActive():
            _start(conn, network, spec.bridge, here)
        filter_packets(spec.bridge)

    await connection.call(work, what=f"ensure network {spec.name}")


async def find_network(connection: Connection, name: str) -> ForeignNetwork:
    """A network that is somebody else's: read, and left as it is; our filter is there for the guests' cards.

    Raises:
        Conflict: there is none of that name that runs and has an IPv4 range.
    """

    def work(conn: libvirt.virConnect) -> ForeignNetwork:
        network = looked_up(lambda: conn.networkLookupByName(name), libvirt.VIR_ERR_NO_NETWORK)
        if network is None:
            there = ", ".join(sorted(one.name() for one in conn.listAllNetworks(0))) or "none"
            raise Conflict(f"there is no network {name!r} on that host", remedy=f"it has {there}")
        if not network.isActive():
            raise Conflict(f"network {name!r} is off", remedy=f"virsh net-start {name}, on that host")
        found = foreign_network(network.XMLDesc(0))
        _ensure_filter(conn)
        return found

    return await connection.call(work, what=f"look at network {name}")


def _start(conn: libvirt.virConnect, network: libvirt.virNetwork, bridge: str, here: bool) -> None:
    """libvirt refuses a network whose bridge is there already, as a killed libvirtd leaves it."""
    try:
        network.create()
    except libvirt.libvirtError as error:
        if bridge not in error.get_error_message():
            raise
        used = not here or is_used(bridge) or any(_has_bridge(one, bridge) for one in conn.listAllNetworks(0))
        if used or not _delete(bridge):
            raise HypervisorFailed(
                f"the bridge {bridge} is there already: {error.get_error_message()}",
                remedy=f"ip link del {bridge}, as root on that host, when nothing uses it (bridge link)",
            ) from error
        log.warning("the bridge %s that a killed libvirtd left is removed", bridge)
        network.create()


def is_used(bridge: str, bridges: Path = BRIDGES) -> bool:
    """Whether the interface is anything but a bridge without ports."""
    ports = bridges / bridge / "brif"
    return not ports.is_dir() or any(ports.iterdir())


def _has_bridge(network: libvirt.virNetwork, bridge: str) -> bool:
    """Whether a network that runs has it."""
    found = tree(network.XMLDesc(0)).find("bridge")
    return bool(network.isActive()) and found is not None and found.get("name") == bridge


def _delete(bridge: str) -> bool:
    argv = ["ip", "link", "delete", "dev", bridge, "type", "bridge"]
    try:
        return subprocess.run(argv, capture_output=True, timeout=IP_TIMEOUT_S, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def filter_packets(bridge: str, bridges: Path = BRIDGES, everywhere: Path = SEEN_BY_IPTABLES) -> None:
    """Make sure that iptables sees what crosses our bridge; half of the guests' filter is there.

    Many hosts turn that off for all bridges (sysctl), so it is turned on for ours alone. A bridge that is
    not here is another host's. Raises HypervisorFailed where guests would not be held.
    """
    switch = bridges / bridge / OWN_SWITCH
    if not switch.exists():
        return
    try:
        switch.write_text("1")
    except OSError as error:
        if not everywhere.exists() or everywhere.read_text().strip() == "0":
            raise not_held(bridge) from error


def switches(bridge: str) -> list[str]:
    """The files that say whether iptables sees a bridge, on its host: one that holds 1 is enough."""
    return [str(BRIDGES / bridge / OWN_SWITCH), str(SEEN_BY_IPTABLES)]


def not_held(bridge: str) -> HypervisorFailed:
    """Half of the guests' filter would be without effect."""
    return HypervisorFailed(
        f"iptables does not see the bridge {bridge}, so guests are not held",
        remedy="as root, on that host, once: echo br_netfilter > /etc/modules-load.d/fluid.conf; echo "
        "net.bridge.bridge-nf-call-iptables=1 > /etc/sysctl.d/90-fluid.conf; modprobe br_netfilter; "
        "sysctl --system",
    )


async def our_networks(connection: Connection, prefix: str) -> list[str]:
    """The names of the networks that bear our prefix."""

    def work(conn: libvirt.virConnect) -> list[str]:
        names = [network.name() for network in conn.listAllNetworks(0)]
        return [name for name in names if name.startswith(f"{prefix}-")]

    return await connection.call(work, what="list networks")


async def remove_network(connection: Connection, name: str, prefix: str) -> None:
    """Remove a network of ours, and the filter when no other network of ours is left."""
    _check_prefix(name, prefix)

    def work(conn: libvirt.virConnect) -> None:
        network = looked_up(lambda: conn.networkLookupByName(name), libvirt.VIR_ERR_NO_NETWORK)
        if network is not None:
            if network.isActive():
                network.destroy()
            network.undefine()
        if not any(network.name().startswith(f"{prefix}-") for network in conn.listAllNetworks(0)):
            for known in conn.listAllNWFilters(0):
                # In use by a domain of another installation on this host: libvirt refuses, and it stays.
                with contextlib.suppress(libvirt.libvirtError):
                    if known.name().startswith(FILTER_FAMILY):
                        known.undefine()

    await connection.call(work, what=f"remove network {name}")


def _ensure_filter(conn: libvirt.virConnect) -> None:
    uuid = None
    with contextlib.suppress(libvirt.libvirtError):
        known = conn.nwfilterLookupByName(FILTER_NAME)
        uuid = known.UUIDString()
        if _rules(known.XMLDesc(0)) == _rules(filter_xml()):
            return
    conn.nwfilterDefineXML(filter_xml(uuid=uuid))


def _rules(xml: str) -> list[tuple[object, ...]]:
    """What makes two filters the same, without what libvirt adds by itself."""
    return [
        (*(rule.get(key) for key in ("action", "direction", "priority")), child.tag, *sorted(child.items()))
        for rule in tree(xml).findall("rule")
        for child in rule
    ]


def _check_prefix(name: str, prefix: str) -> None:
    if not name.startswith(f"{prefix}-"):
        raise Conflict(f"network {name!r} is not ours", remedy=f"our networks begin with '{prefix}-'")
