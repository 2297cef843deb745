"""XML of our networks and of the filter that each guest's card goes through.

A guest may answer its host and may open nothing: not to the host, not to another guest, not with another's
address. What is not said to be allowed is dropped.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from ipaddress import IPv4Interface

from backend.errors import Conflict
from backend.hypervisor.domain_xml import tree
from backend.hypervisor.nouns import ForeignNetwork, NetworkSpec

# Another number with other parameters: a guest that runs keeps the filter that its card has values for.
FILTER_FAMILY = "fluid-guest"
FILTER_NAME = f"{FILTER_FAMILY}-2"
# Lower priorities are applied first (formatnwfilter, "priority").
ARP, IP, OTHER_FRAMES, LAST = "-700", "-500", "-100", "900"
ANSWERED = ("tcp", "icmp")


def network_xml(spec: NetworkSpec) -> str:
    """An isolated bridge: no DHCP, no DNS (so no dnsmasq), no forwarding, no spanning-tree delay."""
    root = ET.Element("network")
    ET.SubElement(root, "name").text = spec.name
    ET.SubElement(root, "bridge", name=spec.bridge, stp="off", delay="0")
    ET.SubElement(root, "dns", enable="no")
    ET.SubElement(root, "ip", address=spec.host_address, netmask=spec.netmask)
    return ET.tostring(root, encoding="unicode")


def same_network(xml: str, spec: NetworkSpec) -> bool:
    """Whether a network that exists is the one that the spec describes."""
    root = tree(xml)
    bridge, address = root.find("bridge"), root.find("ip")
    return (
        bridge is not None
        and address is not None
        and bridge.get("name") == spec.bridge
        and address.get("address") == spec.host_address
        and address.get("netmask") == spec.netmask
        and root.find("forward") is None
    )


def foreign_network(xml: str) -> ForeignNetwork:
    """A network of somebody else's, from the XML of one that runs (formatnetwork(5)).

    Raises:
        Conflict: guests cannot have an IPv4 address of ours there.
    """
    root = tree(xml)
    name, bridge = root.findtext("name", ""), root.find("bridge")
    ranges = [one for one in root.findall("ip") if one.get("family", "ipv4") == "ipv4"]
    if not ranges or bridge is None:
        raise Conflict(
            f"network {name!r} has no IPv4 range of its own",
            remedy="name another one in config.yaml, or none",
        )
    first = ranges[0]
    own = IPv4Interface(f"{first.get('address')}/{first.get('netmask') or first.get('prefix')}")
    given = [(one.get("start", ""), one.get("end", "")) for one in first.findall("dhcp/range")]
    given += [(ip, ip) for one in first.findall("dhcp/host") if (ip := one.get("ip"))]
    return ForeignNetwork(name, bridge.get("name", ""), str(own.network), str(own.ip), tuple(given))


def filter_xml(name: str = FILTER_NAME, uuid: str | None = None) -> str:
    """The filter. ``$MAC`` is libvirt's own variable, ``$IP`` and ``$HOST`` are parameters of the card.

    Frames first (ebtables, which remembers nothing): only the host hears this guest, by ARP about itself and
    by IPv4; tagged frames and whatever else the kernel might understand are none of these. Then packets
    (iptables): who speaks first is the host.
    """
    root = ET.Element("filter", name=name, chain="root")
    if uuid:
        ET.SubElement(root, "uuid").text = uuid

    def rule(action: str, direction: str, priority: str, kind: str, **match: str) -> None:
        element = ET.SubElement(root, "rule", action=action, direction=direction, priority=priority)
        ET.SubElement(element, kind, match)

    own_arp = {"srcmacaddr": "$MAC", "arpsrcmacaddr": "$MAC", "arpsrcipaddr": "$IP"}
    rule("accept", "out", ARP, "arp", **own_arp, arpdstipaddr="$HOST")
    rule("accept", "in", ARP, "arp", arpsrcipaddr="$HOST", arpdstipaddr="$IP")
    for protocol in ANSWERED:
        own_ip = {"srcmacaddr": "$MAC", "srcipaddr": "$IP"}
        rule("accept", "out", IP, "ip", **own_ip, dstipaddr="$HOST", protocol=protocol)
        rule("accept", "in", IP, "ip", srcipaddr="$HOST", dstipaddr="$IP", protocol=protocol)
    rule("drop", "inout", OTHER_FRAMES, "mac")
    # An accepted direction lets its answers back through connection tracking; nothing else leaves the guest.
    for protocol in ANSWERED:
        rule("accept", "in", "0", protocol, srcipaddr="$HOST", dstipaddr="$IP")
    rule("drop", "inout", LAST, "all")
    return ET.tostring(root, encoding="unicode")
