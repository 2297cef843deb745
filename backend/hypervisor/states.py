"""libvirt's state of a domain, and its reason for it, in our words. Where its reason says too little, the
domain's disks are asked.
"""

from __future__ import annotations

import contextlib

import libvirt

from backend.hypervisor.nouns import State, Why

STATES: dict[int, State] = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "running",
    libvirt.VIR_DOMAIN_SHUTOFF: "shutoff",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "paused",
}
OFF: dict[int, Why] = {
    libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: "shut down",
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: "switched off",
    libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: "died",
    libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED: "migrated",
    libvirt.VIR_DOMAIN_SHUTOFF_SAVED: "saved",
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: "did not start",
    libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT: "reverted",
    libvirt.VIR_DOMAIN_SHUTOFF_DAEMON: "died",
}
PAUSED: dict[int, Why] = {
    libvirt.VIR_DOMAIN_PAUSED_USER: "asked",
    libvirt.VIR_DOMAIN_PAUSED_IOERROR: "disk error",
    libvirt.VIR_DOMAIN_PAUSED_WATCHDOG: "watchdog",
    libvirt.VIR_DOMAIN_PAUSED_CRASHED: "guest crashed",
    libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT: "reverted",
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION: "at work",
    libvirt.VIR_DOMAIN_PAUSED_SAVE: "at work",
    libvirt.VIR_DOMAIN_PAUSED_DUMP: "at work",
    libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: "at work",
}


def state_of(domain: libvirt.virDomain) -> tuple[State, Why]:
    """virDomainGetState; ``""`` where libvirt does not know why."""
    number, reason = domain.state()
    state = STATES.get(number, "crashed")
    if number == libvirt.VIR_DOMAIN_PMSUSPENDED:
        return state, "asleep"
    if number == libvirt.VIR_DOMAIN_CRASHED:
        return state, "guest crashed"
    why = {"shutoff": OFF, "paused": PAUSED}.get(state, {}).get(reason, "")
    return state, "disk full" if why == "disk error" and _is_full(domain) else why


def _is_full(domain: libvirt.virDomain) -> bool:
    """virDomainGetDiskErrors: what QEMU paused it for, also long after the event that told of it."""
    with contextlib.suppress(libvirt.libvirtError):
        return libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE in domain.diskErrors().values()
    return False
