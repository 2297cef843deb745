"""Every error a user can meet: its stable code, HTTP status and exit code, in one tree.

A message names the value that was wrong; a remedy says what to do next. No traceback reaches a user.
"""

from __future__ import annotations

from typing import Any, ClassVar

EXIT_OK = 0
EXIT_BUG = 1
EXIT_USAGE = 2
ASK_LATER = "ask again later, and if it stays so, ask an operator: the backend's log has the whole of it"


class FluidError(Exception):
    """Base of all errors. Subclasses fix ``code``, ``status`` (HTTP) and ``exit_code``, and ``usual_remedy``
    where the same is to be done whatever the message. ``agents_hear`` stands, before agents, for a message
    that may name hosts, addresses and files of ours."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = EXIT_BUG
    usual_remedy: ClassVar[str] = ""
    agents_hear: ClassVar[str] = ""

    def __init__(self, message: str, *, remedy: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy or self.usual_remedy
        self.details = details

    def for_agents(self) -> FluidError:
        """Itself, or what is told in its place: never a 500, since what an operator must mend is no bug."""
        if not self.agents_hear:
            return self
        kind = type(self) if isinstance(self, Unavailable) else Unavailable
        return kind(self.agents_hear, remedy=ASK_LATER)

    def body(self, request_id: str = "") -> dict[str, Any]:
        """The error body of API.md: ``error, code, error_code, remedy, request_id, details``."""
        body: dict[str, Any] = {
            "error": self.message,
            "code": self.status,
            "error_code": self.code,
            "remedy": self.remedy,
            "request_id": request_id,
        }
        if self.details:
            body["details"] = self.details
        return body


# --- what the caller wrote -----------------------------------------------------------------------------


class BadRequest(FluidError):
    """The request is malformed."""

    code, status, exit_code = "bad_request", 400, EXIT_USAGE


class InvalidName(FluidError):
    """A name does not match ``[a-z0-9][a-z0-9-]{0,62}``."""

    code, status, exit_code = "invalid_name", 422, EXIT_USAGE


class InvalidValue(FluidError):
    """Well formed, and without meaning here."""

    code, status, exit_code = "invalid_value", 422, EXIT_USAGE


class ConfigError(FluidError):
    """The configuration cannot be used; the message names file and line."""

    code, status, exit_code = "config_invalid", 500, EXIT_USAGE
    agents_hear = "the backend is not set up for this"
    usual_remedy = "`fluid help config` describes the file"


class TooLarge(FluidError):
    """Over a size limit."""

    code, status, exit_code = "too_large", 413, 8


class LimitReached(FluidError):
    """Over a rate or a count."""

    code, status, exit_code = "limit_reached", 429, 8


class UpgradeRequired(FluidError):
    """A stream that a plain GET cannot carry; or an answer that an older client does not understand."""

    code, status, exit_code = "upgrade_required", 426, EXIT_USAGE


# --- who may ------------------------------------------------------------------------------------------


class NoIdentity(FluidError):
    """Nobody known."""

    code, status, exit_code = "no_identity", 401, 5


class RoleDenied(FluidError):
    """The caller's role does not hold this right."""

    code, status, exit_code = "role_denied", 403, 5


class PolicyDenied(FluidError):
    """A policy rule refused; the message names it."""

    code, status, exit_code = "policy_denied", 403, 5


class SelfApproval(RoleDenied):
    """The requester's uid tried to approve its own request."""

    code = "self_approval"


class PlaybookRefused(FluidError):
    """A playbook breaks the grammar; ``details`` hold the task and the rule (P1 … P8)."""

    code, status, exit_code = "playbook_refused", 422, 5


class ImageRefused(FluidError):
    """A disk image that somebody else made is not taken; the message says what is wrong with it."""

    code, status, exit_code = "image_refused", 422, 5


# --- what is not there ----------------------------------------------------------------------------------


class NotFound(FluidError):
    """No such thing, or not the caller's."""

    code, status, exit_code = "not_found", 404, 3
    usual_remedy = "check the id: it may be gone, or not yours"


class SandboxNotFound(NotFound):
    code = "sandbox_not_found"


class SnapshotNotFound(NotFound):
    code = "snapshot_not_found"


class ImageNotFound(NotFound):
    code = "image_not_found"


class SourceNotFound(NotFound):
    code = "source_not_found"


class TargetNotFound(NotFound):
    code = "target_not_found"


class HostNotFound(NotFound):
    code = "host_not_found"


class PlaybookNotFound(NotFound):
    code = "playbook_not_found"


class ApprovalNotFound(NotFound):
    code = "approval_not_found"


class RunNotFound(NotFound):
    code = "run_not_found"


class PaneNotFound(NotFound):
    code = "pane_not_found"


class RecordingNotFound(NotFound):
    code = "recording_not_found"


class FileNotFoundInGuest(NotFound):
    code = "file_not_found"


class NoRoute(NotFound):
    """No route has this path on this door."""

    code = "route_not_found"


class MethodNotAllowed(FluidError):
    """The path is known, the method is not."""

    code, status, exit_code = "method_not_allowed", 405, EXIT_USAGE


# --- what state it is in ----------------------------------------------------------------------------------


class Conflict(FluidError):
    """The thing is in the wrong state for this."""

    code, status, exit_code = "conflict", 409, 4


class DuplicateName(Conflict):
    code = "duplicate_name"


class WrongState(Conflict):
    code = "wrong_state"


class PanicActive(Conflict):
    code = "panic_active"


class AlreadyDecided(Conflict):
    code = "approval_already_decided"
    usual_remedy = "nothing is left to decide; the agent must ask again for anything else"


class StaleDigest(Conflict):
    """The digest sent is not the digest of the evidence as it stands."""

    code = "stale_digest"


class EvidenceIncomplete(Conflict):
    """Approval is not possible yet: a rehearsal, residual or dry run stands in the way."""

    code = "evidence_incomplete"


class ImageInUse(Conflict):
    """Sandboxes stand on it; ``details`` name them."""

    code = "image_in_use"


class TargetLocked(Conflict):
    code = "target_locked"


class AlreadyRunning(Conflict):
    code = "already_running"


class PortBusy(Conflict):
    code = "port_busy"


class PaneTaken(Conflict):
    """An operator types into the terminal now; ``details`` name the pane, who, and since when."""

    code = "pane_taken"


# --- what is down -----------------------------------------------------------------------------------------


class Unavailable(FluidError):
    """A part is down; the message names it. Agents hear the whole message only of what is their own."""

    code, status, exit_code = "unavailable", 503, 6
    agents_hear = "a part of the backend is down"
    retry_after_s: ClassVar[int] = 5


class BackendDown(Unavailable):
    code = "backend_down"
    agents_hear = ""


class DatabaseDown(Unavailable):
    code = "database_down"
    agents_hear = "the database is down"


class DatabaseNewer(Unavailable):
    """The database was migrated by a newer program."""

    code = "database_newer"
    agents_hear = "the database is down"


class HypervisorDown(Unavailable):
    code = "hypervisor_down"
    agents_hear = "the host of the sandboxes does not answer"


class HypervisorFailed(Unavailable):
    """libvirt refused or failed; the message carries its words."""

    code = "hypervisor_failed"
    agents_hear = "the host of the sandboxes refused or failed"


class ArchitectureUnsupported(HypervisorFailed):
    """A host runs no guests of an image's architecture."""

    code = "architecture_unsupported"


class GuestDown(Unavailable):
    code = "guest_down"
    agents_hear = ""


class TargetDown(Unavailable):
    """A target does not answer, or not as it must."""

    code = "target_down"
    agents_hear = ""


class CommandLost(GuestDown):
    """The guest went away under a running command; ``outcome`` (:class:`backend.guests.Outcome`) holds what
    had come, and is not sent on."""

    code = "command_lost"
    outcome: Any = None


class TmuxDown(Unavailable):
    code = "tmux_down"
    agents_hear = "the terminals are down"


class NoSpace(Unavailable):
    code = "no_space"
    agents_hear = "there is no room for this: less of it may fit"


class GuestFull(NoSpace):
    """A guest's own disk is full."""

    code = "guest_full"
    agents_hear = ""


class NoRoom(Unavailable):
    """No host takes one more; the message holds each one's reason."""

    code = "no_room"
    agents_hear = "no host has room for this: less of it may fit"


class MissingProgram(Unavailable):
    code = "missing_program"
    agents_hear = "a program that the backend needs is missing"


class ImageBroken(Unavailable):
    code = "image_broken"
    agents_hear = "the image is not whole"


class PreparationFailed(Unavailable):
    """An imported image did not become a guest of ours; ``details`` hold the end of its console."""

    code = "preparation_failed"


class DiskUnreadable(Unavailable):
    """A file system that cannot be read exactly: strange, damaged or over a limit."""

    code = "disk_unreadable"
    agents_hear = ""
    usual_remedy = "the sandbox runs on; what cannot be read exactly is not compared: try it in a fresh one"


class RunnerFailed(Unavailable):
    code = "runner_failed"
    agents_hear = "the runner of playbooks failed"


class TimedOut(FluidError):
    """A time limit ran out; the message says which and how long."""

    code, status, exit_code = "timed_out", 504, 7


class AuditBroken(FluidError):
    """The chain of the audit does not verify; the message names the first bad row."""

    code, status, exit_code = "audit_broken", 500, 9


class EvidenceFailed(FluidError):
    """A run of the demo or of a proof did not hold what it promises."""

    code, status, exit_code = "evidence_failed", 500, 9
    usual_remedy = "read what is told above it; `fluid demo --clean` removes what is left"


def all_errors() -> list[type[FluidError]]:
    """The whole tree, for the table in the manual and for the test that keeps codes unique."""
    found: list[type[FluidError]] = []
    stack: list[type[FluidError]] = [FluidError]
    while stack:
        kind = stack.pop()
        found.append(kind)
        stack.extend(kind.__subclasses__())
    return sorted(found, key=lambda kind: (kind.status, kind.code))


def by_code(code: str) -> type[FluidError]:
    """The class of a stable code; :class:`FluidError` for an unknown one (a newer backend)."""
    return next((kind for kind in all_errors() if kind.code == code), FluidError)
