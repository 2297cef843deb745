"""Stock: forks made ahead, with an identity of their own and no owner, paused in memory.

A fork of stock bears ``role: stock`` in its metadata; one that runs is still being made, one that is paused
waits, and so does one that is off with its memory in a file beside its disk. Handing out changes the metadata
before the guest runs again: who reads the domains after a crash sees which it is, and what is no longer stock
is never handed out.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt

from backend.errors import Conflict
from backend.hypervisor.domain_xml import NAMESPACE, PREFIX, metadata_element
from backend.hypervisor.domains import START_TIMEOUT_S, Domains, info_of
from backend.hypervisor.nouns import DomainInfo
from backend.models.base import check_name
from backend.steps import reached

ROLE = "stock"
SUSPENDED = "parked.save"


async def hand_out(
    domains: Domains, name: str, hostname: str, metadata: dict[str, str], ca_public: str
) -> DomainInfo:
    """Give a parked fork to its owner: ``metadata`` with another role, then running, with the time of now,
    new randomness, the CA keys of now and ``hostname``. Conflict when it is not parked. When it fails later,
    it is stock no more: destroy it.
    """
    check_name(hostname, "host name")
    text = ET.tostring(metadata_element(metadata, space=""), encoding="unicode")
    taking = domains.taking(name)

    def work(domain: libvirt.virDomain) -> None:
        with taking:
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


async def suspend(domains: Domains, name: str) -> Path:
    """Move a parked fork's memory to the disk; the domain is off then. The file that holds it."""
    memory = domains.files.path(name, SUSPENDED)
    await domains.save(name, memory)
    reached("suspended")
    return memory


def is_suspended(info: DomainInfo) -> bool:
    """Whether a domain whose memory lies on the disk has not run since: its disk would be another one by now.
    After a restart libvirt does not know why a domain is off."""
    return info.state == "shutoff" and info.why in ("saved", "")


async def recall(domains: Domains, name: str, memory: Path) -> None:
    """Park a suspended fork in memory again: paused, as it was. Conflict when it ran meanwhile."""
    if not is_suspended(await domains.info(name)):
        raise Conflict(f"domain {name!r} ran since it was suspended", remedy="take another one")

    def restore(connection: libvirt.virConnect) -> None:
        connection.restoreFlags(str(memory), None, libvirt.VIR_DOMAIN_SAVE_PAUSED)

    limit_s = await domains.memory_limit_s(name, START_TIMEOUT_S)
    await domains.connection.call(restore, what=f"recall {name}", limit_s=limit_s)
    reached("recalled")
    await domains.files.remove(memory)
