"""What libvirt shows of a sandbox's domain, as its phase and the reason in words.

Where libvirt shows what the row says already, the row's own reason stays: why it was paused or stopped by us
is known to us, and to libvirt it is a request like another.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from backend.hypervisor import DomainInfo
from backend.models import Phase, Sandbox

GONE = "its virtual machine is gone"
DIED = "its virtual machine died"
BY_ITSELF: dict[str, str] = {
    "memory": "the kernel of {host} killed it for want of memory; give guests less, or {host} more",
    "not memory": "it was killed or ended by itself; not for want of memory, the kernel of {host} says",
    "unknown": "it was killed or ended by itself; the logs of {host} may say why: journalctl -k, libvirt's",
}
OFF: dict[str, str] = {
    "": "it was found off, and the libvirt of {host} does not know why",
    "shut down": "it shut down: from inside, or asked to on {host}, not by Fluid",
    "switched off": "somebody switched it off on {host}, not by Fluid",
    "saved": "somebody saved its memory and switched it off on {host}, not by Fluid",
    "reverted": "somebody reverted it on {host} to a snapshot that is not Fluid's",
}
BROKEN: dict[str, str] = {
    "migrated": "somebody migrated it away from {host}, not by Fluid; bring it back, or destroy it there",
    "did not start": "its virtual machine did not start; libvirt's log on {host} says why",
    "guest crashed": "the kernel inside crashed",
}
PAUSED: dict[str, str] = {
    "asked": "somebody paused it on {host}, not by Fluid; go on: fluid sandboxes resume {id}",
    "disk full": (
        "the disk of {host} was full when it wrote; free some there, then: fluid sandboxes resume {id}"
    ),
    "disk error": (
        "its disk on {host} failed; mend it (libvirt's log there says how), then: fluid sandboxes resume {id}"
    ),
    "watchdog": "its watchdog found it stuck; go on: fluid sandboxes resume {id}",
    "reverted": "somebody reverted it on {host} to a snapshot that is not Fluid's",
    "at work": "somebody saves, dumps or migrates it on {host}, not by Fluid",
    "asleep": "it put itself to sleep; wake it: fluid sandboxes stop {id}, then start",
}


@dataclass(frozen=True)
class Verdict:
    """Which phase a sandbox is in, and why."""

    phase: Phase
    reason: str = ""


def before(sandbox: Sandbox) -> Verdict:
    """What was last known of it; of one that is lost, from before."""
    if sandbox.phase is Phase.LOST and sandbox.lost_phase:
        return Verdict(sandbox.lost_phase, sandbox.lost_reason)
    return Verdict(sandbox.phase, sandbox.reason)


def judge(
    sandbox: Sandbox,
    info: DomainInfo | None,
    *,
    died_of: str = "unknown",
    booted_at: datetime | None = None,
) -> Verdict:
    """``info``: what libvirt shows, None where there is no domain. ``died_of``: what the host's kernel says
    of one that died. ``booted_at``: since when the host runs, None where that is unknown."""
    was = before(sandbox)
    names = {"host": sandbox.host_name, "id": sandbox.id}
    if info is None:
        return Verdict(Phase.ERROR, f"{GONE}: somebody removed it on {sandbox.host_name}, not by Fluid")
    if sandbox.domain and info.name != sandbox.domain:
        return Verdict(
            Phase.ERROR,
            f"somebody gave its virtual machine the name {info.name}; switch it off on {sandbox.host_name}, "
            f"and it is called {sandbox.domain} again",
        )
    if info.state == "running":
        return Verdict(Phase.RUNNING)
    if info.state == "paused" and info.why != "guest crashed":
        return _kept(was, Verdict(Phase.PAUSED, PAUSED.get(info.why, "").format(**names)))
    last_ran = sandbox.last_activity_at or sandbox.created_at
    is_known = was.phase not in (Phase.RUNNING, Phase.PAUSED) or info.why not in ("", "died")
    if not is_known and booted_at and last_ran < booted_at:
        return Verdict(
            Phase.STOPPED,
            f"{sandbox.host_name} was restarted at {booted_at:%Y-%m-%d %H:%M:%S} UTC; its disk is kept, "
            f"start it: fluid sandboxes start {sandbox.id}",
        )
    if was.phase is Phase.ERROR and was.reason.startswith(DIED):  # libvirt forgets why, we do not
        return was
    if info.why == "died":
        return Verdict(Phase.ERROR, f"{DIED}: {BY_ITSELF[died_of].format(**names)}")
    if words := BROKEN.get(info.why):
        return Verdict(Phase.ERROR, words.format(**names))
    return _kept(was, Verdict(Phase.STOPPED, OFF.get(info.why, "").format(**names)))


def _kept(was: Verdict, seen: Verdict) -> Verdict:
    return was if was.phase is seen.phase else seen
