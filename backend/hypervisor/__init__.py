"""Hypervisors: the only room that imports libvirt. Connections, domains, networks, templates, snapshots.

Nothing here believes a guest, blocks the event loop, or alters a domain that does not carry our mark.
"""

from __future__ import annotations

from backend.hypervisor.domain_xml import AGENT_PORT, WITH_BIOS
from backend.hypervisor.hypervisor import Hypervisor
from backend.hypervisor.identity import make_identity, new_mac
from backend.hypervisor.layers import beyond_source
from backend.hypervisor.nouns import (
    DiskUse,
    DomainEvent,
    DomainInfo,
    ForeignNetwork,
    ForkWay,
    GuestImage,
    HostFacts,
    Identity,
    KvmProbe,
    NetworkSpec,
    Pool,
    SnapshotFiles,
    Template,
)
from backend.hypervisor.overlays import virtual_size
from backend.hypervisor.private import PrivateLibvirt, system_libvirt
from backend.hypervisor.probe import kvm_works
from backend.hypervisor.source_xml import SourceDisk, SourceDomain
from backend.hypervisor.sources import LATE_S, SOURCE_ROLE, Backup, BackupLimits, Copying
from backend.hypervisor.stock import is_suspended
from backend.hypervisor.storage import HELD_SUFFIX
from backend.hypervisor.templates import Wanted

__all__ = [
    "AGENT_PORT",
    "HELD_SUFFIX",
    "LATE_S",
    "SOURCE_ROLE",
    "WITH_BIOS",
    "Backup",
    "BackupLimits",
    "Copying",
    "DiskUse",
    "DomainEvent",
    "DomainInfo",
    "ForeignNetwork",
    "ForkWay",
    "GuestImage",
    "HostFacts",
    "Hypervisor",
    "Identity",
    "KvmProbe",
    "NetworkSpec",
    "Pool",
    "PrivateLibvirt",
    "SnapshotFiles",
    "SourceDisk",
    "SourceDomain",
    "Template",
    "Wanted",
    "beyond_source",
    "is_suspended",
    "kvm_works",
    "make_identity",
    "new_mac",
    "system_libvirt",
    "virtual_size",
]
