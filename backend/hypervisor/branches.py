"""A new domain from a snapshot of another one, which goes on undisturbed.

The restored memory begins with the other's MAC and address. Its card's filter knows the new ones only and
stands before its processors run: nothing of the old identity reaches the bridge, so no switch port or
neighbour ever takes the branch for the first.
"""

from __future__ import annotations

from backend.errors import WrongState
from backend.hypervisor.domain_xml import Rebase, nic_element
from backend.hypervisor.domains import Domains
from backend.hypervisor.forks import IDENTITY_TIMEOUT_S, identity_message, whole_or_nothing
from backend.hypervisor.memories import restore_memory
from backend.hypervisor.network_xml import FILTER_NAME
from backend.hypervisor.nouns import DomainInfo, Identity, SnapshotFiles
from backend.hypervisor.snapshots import must_be_there
from backend.steps import reached


async def branch(
    domains: Domains, snapshot: SnapshotFiles, identity: Identity, network: str, metadata: dict[str, str]
) -> DomainInfo:
    """Run a snapshot's memory as a domain of its own; neither needs the other's files from then on."""
    if snapshot.memory_file is None:
        raise WrongState("a snapshot without memory cannot be branched", remedy="take one with memory")
    files = domains.files
    await must_be_there(files, snapshot)
    async with whole_or_nothing(domains, identity.name):
        frozen = await files.share_layers(snapshot.disk_layers, identity.name)
        reached("layers")
        disk = await files.next_disk(identity.name)
        await files.create_overlay(disk, frozen)
        reached("overlay")
        nic = nic_element(identity, network, FILTER_NAME)
        to = Rebase(identity.name, identity.uuid, disk, domains.console(identity.name), metadata, nic)
        await restore_memory(domains, snapshot.memory_file, to)
        await domains.ask(identity.name, "identity", limit_s=IDENTITY_TIMEOUT_S, **identity_message(identity))
        reached("identity")
    return await domains.info(identity.name)
