"""The nouns. What the API answers, the client returns, the database keeps and the console draws.

Requests refuse unknown fields; answers ignore them, so that an older client reads a newer backend.
"""

from backend.models.approval import (
    Approval,
    ApprovalRequest,
    ApprovalState,
    Ask,
    AskRequest,
    AskState,
    Decision,
    Evidence,
    ResidualRow,
    TargetEvidence,
)
from backend.models.base import Answer, Request, check_name, new_id, now
from backend.models.change import (
    Changes,
    ChangeVerb,
    FileChange,
    FileKind,
    FileState,
    GroupChange,
    PackageChange,
    UnitChange,
    UnitState,
    UserChange,
    guest_path,
    wire_path,
)
from backend.models.command import Command, CommandRequest
from backend.models.event import AuditRow, Event, Identity, Role
from backend.models.fleet import Component, FleetView, HostView, ImageView, Pane, SourceView, TargetView
from backend.models.playbook import Playbook, PlaybookTask, Run, RunEvent, RunKind, RunState, TargetResult
from backend.models.sandbox import CreateSandbox, Phase, PublicState, Sandbox, Snapshot, SnapshotRequest

__all__ = [
    "Answer",
    "Approval",
    "ApprovalRequest",
    "ApprovalState",
    "Ask",
    "AskRequest",
    "AskState",
    "AuditRow",
    "ChangeVerb",
    "Changes",
    "Command",
    "CommandRequest",
    "Component",
    "CreateSandbox",
    "Decision",
    "Event",
    "Evidence",
    "FileChange",
    "FileKind",
    "FileState",
    "FleetView",
    "GroupChange",
    "HostView",
    "Identity",
    "ImageView",
    "PackageChange",
    "Pane",
    "Phase",
    "Playbook",
    "PlaybookTask",
    "PublicState",
    "Request",
    "ResidualRow",
    "Role",
    "Run",
    "RunEvent",
    "RunKind",
    "RunState",
    "Sandbox",
    "Snapshot",
    "SnapshotRequest",
    "SourceView",
    "TargetEvidence",
    "TargetResult",
    "TargetView",
    "UnitChange",
    "UnitState",
    "UserChange",
    "check_name",
    "guest_path",
    "new_id",
    "now",
    "wire_path",
]
