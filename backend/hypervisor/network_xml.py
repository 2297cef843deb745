"""XML of our networks and of the filter that each guest's card goes through.

A guest may answer and may open nothing: not to the host, not to another guest, not with another's address.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from backend.hypervisor.domain_xml import tree
from backend.hypervisor.nouns import NetworkSpec

FILTER_NAME = "fluid-guest"
# Lower priorities are applied first (formatnwfilter, "priority").
FIRST, ARP, LAST = "-900", "-700", "900"


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


def filter_xml(name: str = FILTER_NAME, uuid: str | None = None) -> str:
    """The filter. ``$MAC`` is libvirt's own variable, ``$IP`` a parameter of the card."""
    root = ET.Element("filter", name=name, chain="root")
    if uuid:
        ET.SubElement(root, "uuid").text = uuid

    def rule(action: str, direction: str, priority: str, protocol: str, **match: str) -> None:
        element = ET.SubElement(root, "rule", action=action, direction=direction, priority=priority)
        ET.SubElement(element, protocol, match)

    rule("drop", "out", FIRST, "mac", match="no", srcmacaddr="$MAC")
    rule("drop", "out", FIRST, "arp", match="no", arpsrcmacaddr="$MAC")
    rule("drop", "out", FIRST, "arp", match="no", arpsrcipaddr="$IP")
    rule("drop", "out", FIRST, "ip", match="no", srcipaddr="$IP")
    rule("drop", "inout", FIRST, "mac", protocolid="ipv6")
    rule("accept", "inout", ARP, "mac", protocolid="arp")
    # An accepted direction lets its answers back through connection tracking; nothing else leaves the guest.
    rule("accept", "in", "0", "tcp")
    rule("accept", "in", "0", "icmp")
    rule("drop", "inout", LAST, "all")
    return ET.tostring(root, encoding="unicode")
