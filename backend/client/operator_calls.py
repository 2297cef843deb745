"""The calls that only the operator door answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.client.call import WORK_S, Call, as_is, nothing, noun, nouns, path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.models import (
        Approval,
        Ask,
        AuditRow,
        CaView,
        FleetView,
        HostKeyView,
        HostView,
        ImageView,
        LeftoverReport,
        Pane,
        PanicView,
        PresenceView,
        Recording,
        Run,
        SourceCheck,
        TargetView,
    )


def fleet() -> Call[FleetView]:
    """Everything that the console draws."""
    return Call("GET", path("fleet"), noun("FleetView"))


def status() -> Call[dict[str, Any]]:
    """Counts and parts, as data."""
    return Call("GET", path("status"), as_is)


def panic() -> Call[PanicView]:
    """Every sandbox stands still, and no apply starts."""
    return Call("POST", path("panic"), noun("PanicView"), timeout_s=WORK_S)


def release_panic() -> Call[PanicView]:
    """Thaw what the panic paused; applies may start again."""
    return Call("POST", path("panic", "release"), noun("PanicView"), timeout_s=WORK_S)


def hosts() -> Call[list[HostView]]:
    return Call("GET", path("hosts"), nouns("HostView", "hosts"))


def drain_host(name: str) -> Call[HostView]:
    """It takes no new sandboxes; those it has stay."""
    return Call("POST", path("hosts", name, "drain"), noun("HostView"))


def resume_host(name: str) -> Call[HostView]:
    return Call("POST", path("hosts", name, "resume"), noun("HostView"))


def host_key(address: str, port: int | None = None) -> Call[HostKeyView]:
    """The key that a host shows now, for a person to compare."""
    body = {"address": address, "port": port}
    return Call("POST", path("hosts", "key"), noun("HostKeyView"), body=body)


def add_host(settings: dict[str, Any], host_key: str) -> Call[HostView]:
    """``settings`` as below ``hosts`` in config.yaml; ``host_key`` is the line that a person compared."""
    body = {"settings": settings, "host_key": host_key}
    return Call("POST", path("hosts"), noun("HostView"), body=body)


def remove_host(name: str) -> Call[None]:
    """Forget a host that was added so."""
    return Call("DELETE", path("hosts", name), nothing)


def ca() -> Call[CaView]:
    """The SSH CA's keys, and which guests do not trust exactly these yet."""
    return Call("GET", path("ca"), noun("CaView"))


def rotate_ca() -> Call[CaView]:
    """A new key signs from now on."""
    return Call("POST", path("ca", "rotate"), noun("CaView"), timeout_s=WORK_S)


def leftovers() -> Call[LeftoverReport]:
    """Domains, files and networks of ours that nothing needs."""
    return Call("GET", path("leftovers"), noun("LeftoverReport"), timeout_s=WORK_S)


def clear_leftovers() -> Call[LeftoverReport]:
    """Remove them; the answer is what was removed."""
    return Call("DELETE", path("leftovers"), noun("LeftoverReport"), timeout_s=WORK_S)


def dry_run(approval_id: str) -> Call[Approval]:
    """Check mode on each target, now."""
    return Call("POST", path("approvals", approval_id, "dry-run"), noun("Approval"), timeout_s=WORK_S)


def approve(
    approval_id: str, digest: str, comment: str = "", secrets: Mapping[str, str] | None = None
) -> Call[Approval]:
    """Yes to exactly the evidence of this digest; ``secrets`` are those that its playbook names."""
    body = {"digest": digest, "comment": comment, "secrets": dict(secrets or {})}
    return Call("POST", path("approvals", approval_id, "approve"), noun("Approval"), body=body)


def reject(approval_id: str, reason: str, changes_requested: bool = False) -> Call[Approval]:
    """No, with the reason; ``changes_requested`` tells the agent to mend it and come back."""
    body = {"reason": reason, "changes_requested": changes_requested}
    return Call("POST", path("approvals", approval_id, "reject"), noun("Approval"), body=body)


def pack(approval_id: str) -> Call[dict[str, Any]]:
    """The evidence pack."""
    return Call("GET", path("approvals", approval_id, "pack"), as_is, timeout_s=WORK_S)


def answer(request_id: str, approved: bool, comment: str = "", alternative: str | None = None) -> Call[Ask]:
    body = {"approved": approved, "comment": comment, "alternative": alternative}
    return Call("POST", path("asks", request_id, "answer"), noun("Ask"), body=body)


def asks() -> Call[list[Ask]]:
    return Call("GET", path("human", "pending"), nouns("Ask", "pending"))


def run_of(id: str) -> Call[Run]:
    """A rehearsal, dry run or apply."""
    return Call("GET", path("runs", id), noun("Run"))


def roll_back(id: str, target: str = "") -> Call[Approval]:
    """Ask to take an apply back, on all of its targets or on one: a request of its own, with a rehearsal of
    its own. Targets are asked what they have now."""
    query = {"target": target or None}
    return Call("POST", path("runs", id, "rollback"), noun("Approval"), query=query, timeout_s=WORK_S)


def cancel_run(id: str) -> Call[Run]:
    """End it cleanly; it says what was done where."""
    return Call("POST", path("runs", id, "cancel"), noun("Run"), timeout_s=WORK_S)


def take_over(pane_id: str, force: bool = False) -> Call[None]:
    """Its body is what is typed: :func:`backend.client.taking.taken_pane` sends it."""
    query = {"force": True} if force else {}
    return Call("POST", path("panes", pane_id, "take-over"), nothing, query=query)


def hand_back(pane_id: str) -> Call[Pane]:
    """An agent's terminal is its own again, whoever typed there."""
    return Call("POST", path("panes", pane_id, "hand-back"), noun("Pane"))


def presence() -> Call[PresenceView]:
    """Which operators look at what."""
    return Call("GET", path("presence"), noun("PresenceView"))


def look(console: str, place: str, id: str = "") -> Call[PresenceView]:
    """Say what this console shows; who else looks at what."""
    body = {"console": console, "place": place, "id": id}
    return Call("POST", path("presence"), noun("PresenceView"), body=body)


def audit(
    *, sandbox_id: str | None = None, action: str | None = None, after: int = 0, limit: int = 200
) -> Call[list[AuditRow]]:
    query = {"sandbox_id": sandbox_id, "action": action, "after": after, "limit": limit}
    return Call("GET", path("audit"), nouns("AuditRow", "rows"), query=query)


def verify_audit(head: str | None = None) -> Call[dict[str, Any]]:
    """``ok``, ``rows``, and the first bad row. ``head``: the text of an ``audit.head`` that was kept
    elsewhere; its row must still be there."""
    return Call("GET", path("audit", "verify"), as_is, query={"head": head}, timeout_s=WORK_S)


def export_audit() -> Call[bytes]:
    """Every row, one JSON object a line."""
    return Call("GET", path("audit", "export"), bytes, binary=True, timeout_s=WORK_S)


def recordings(sandbox_id: str | None = None) -> Call[list[Recording]]:
    """What agents' terminals showed, newest first, of one sandbox or of all."""
    return Call("GET", path("recordings"), nouns("Recording", "recordings"), query={"sandbox_id": sandbox_id})


def recording(id: str) -> Call[Recording]:
    return Call("GET", path("recordings", id), noun("Recording"))


def recording_cast(id: str) -> Call[bytes]:
    """The whole as an asciicast of version 2. Its events are a guest's raw output: only
    :class:`backend.replay.Replay`, or a player, draws them."""
    return Call("GET", path("recordings", id, "cast"), bytes, binary=True, timeout_s=WORK_S)


def check_targets(name: str | None = None) -> Call[list[TargetView]]:
    """Try the targets over SSH."""
    return Call(
        "POST",
        path("targets", "check"),
        nouns("TargetView", "targets"),
        query={"name": name},
        timeout_s=WORK_S,
    )


def build_image(name: str, *, force: bool = False) -> Call[ImageView]:
    """Unless it is there already; ``force`` builds it from nothing."""
    body = {"name": name, "force": force}
    return Call("POST", path("images"), noun("ImageView"), body=body, timeout_s=WORK_S)


def import_image(source: str, format: str, *, sha256: str = "", name: str = "") -> Call[ImageView]:
    """A cloud image becomes a source. ``source``: an absolute path on the backend's machine, or a URL;
    ``format``: ``qcow2`` or ``raw``."""
    body = {"source": source, "format": format, "sha256": sha256, "name": name}
    return Call("POST", path("images", "import"), noun("ImageView"), body=body, timeout_s=2 * WORK_S)


def remove_image(name: str) -> Call[int]:
    """One that no sandbox stands on; the bytes that this gave back."""
    return Call("DELETE", path("images", name), lambda told: int(told["freed_bytes"]), timeout_s=WORK_S)


def check_source(name: str) -> Call[SourceCheck]:
    """The pre-flight of a libvirt domain that is to become a source."""
    return Call("POST", path("sources", name, "check"), noun("SourceCheck"), timeout_s=WORK_S)


def prepare_source(name: str, *, as_it_is: bool = False) -> Call[ImageView]:
    """Copy the domain's disk and prepare the copy, which sandboxes are then forked from."""
    body = {"as_it_is": as_it_is}
    where = path("sources", name, "prepare")
    return Call("POST", where, noun("ImageView"), body=body, timeout_s=2 * WORK_S)
