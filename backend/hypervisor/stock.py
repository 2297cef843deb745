"""Stock: forks made ahead, with an identity of their own and no owner, paused in memory.

A fork of stock bears ``role: stock`` in its metadata; one that runs is still being made, one that is paused
waits. Handing out changes the metadata before the guest runs again: who reads the domains after a crash sees
which it is, and what is no longer stock is never handed out.
"""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET

import libvirt

from backend.errors import Conflict
from backend.hypervisor.domain_xml import NAMESPACE, PREFIX, metadata_element
from backend.hypervisor.domains import Domains, info_of
from backend.hypervisor.nouns import DomainInfo
from backend.models.base import check_name

ROLE = "stock"

_taking = threading.Lock()  # calls run on threads: looking and taking are one step


async def hand_out(
    domains: Domains, name: str, hostname: str, metadata: dict[str, str], ca_public: str
) -> DomainInfo:
    """Give a parked fork to its owner: ``metadata`` with another role, then running, with the time of now,
    new randomness, the CA keys of now and ``hostname``. Conflict when it is not parked. When it fails later,
    it is stock no more: destroy it.
    """
    check_name(hostname, "host name")
    text = ET.tostring(metadata_element(metadata, space=""), encoding="unicode")

    def work(domain: libvirt.virDomain) -> None:
        with _taking:
            found = info_of(domain)
            if found.metadata.get("role") != ROLE or found.state != "paused":
                raise Conflict(f"domain {name!r} is not parked in stock", remedy="take another one")
            domain.setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                text,
                PREFIX,
                NAMESPACE,
                libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG,
            )
        domain.resume()

    await domains.call(name, work, what="hand out")
    await domains.wake(name, ca_public, hostname=hostname)
    return await domains.info(name)
