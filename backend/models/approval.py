"""Requests for approval, the evidence behind them, decisions; and plain questions (asks)."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field, computed_field

from backend.models.base import Answer, Request
from backend.models.change import FROM_DISK
from backend.models.playbook import TargetResult

KEPT_FOR = timedelta(days=30)
"""From an apply on: what targets had before it is kept, and the image that its roll back is rehearsed on."""


class ApprovalState(StrEnum):
    DRAFTING = "drafting"
    REHEARSING = "rehearsing"
    PENDING = "pending"
    APPROVED = "approved"
    APPLYING = "applying"
    APPLIED = "applied"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    VOIDED = "voided"


APPROVAL_OVER = frozenset(
    {
        ApprovalState.APPLIED,
        ApprovalState.FAILED,
        ApprovalState.REJECTED,
        ApprovalState.EXPIRED,
        ApprovalState.WITHDRAWN,
        ApprovalState.VOIDED,
    }
)
APPROVAL_OPEN = frozenset(ApprovalState) - APPROVAL_OVER


class ApprovalRequest(Request):
    """POST /v1/approvals. The residual compares the rehearsal with what the sandbox changed between the two
    points; one that is left out is the playbook's own."""

    sandbox_id: str
    playbook: str
    targets: list[str] = Field(min_length=1, max_length=100)
    reason: str = Field(min_length=1, max_length=2000)
    from_snapshot: str | None = None
    to_snapshot: str | None = None


class ResidualRow(Answer):
    """One difference between the sandbox and the rehearsal."""

    kind: str  # missing | extra | regenerated
    noun: str  # file | package | unit | user | group
    name: str  # a wire path, or the thing's name
    reason: str = ""
    sandbox: str = ""  # the state there, in words
    rehearsal: str = ""


class TargetEvidence(Answer):
    """What the dry run said of one target."""

    target: str
    login: str = ""  # ``user@address:port`` that was tried; empty: an older version's evidence
    run_id: str = ""
    result: TargetResult = Field(default_factory=TargetResult)
    differs: list[str] = Field(default_factory=list)  # where target and rehearsal differ, a sentence each
    fingerprint: str = ""  # of every task's status and diff: drift changes it
    not_previewed: list[str] = Field(default_factory=list)  # tasks that check mode cannot try
    at: datetime | None = None
    error: str = ""


class Evidence(Answer):
    """All that an operator judges. What is not measured yet is None."""

    changes_id: str = ""  # the rehearsal's change: this is what is approved
    sandbox_changes_id: str = ""
    changes_sha256: str = ""  # what the change of that id says; empty: an older version's evidence
    sandbox_changes_sha256: str = ""
    read_from: str = FROM_DISK  # or FROM_GUEST: of both changes, the sandbox's and the rehearsal's
    quiesced: bool | None = None  # the sandbox's change; None: an older version's evidence, or a roll back
    notes: list[str] | None = None  # what both changes say of themselves; None: an older version's evidence
    counts: dict[str, int] = Field(default_factory=dict)  # files, packages, units, users, groups, hidden
    rehearsal_run: str = ""
    repeat_run: str = ""
    rehearsal: TargetResult | None = None
    again: TargetResult | None = None
    again_changed: int | None = None  # measured on the disk, not Ansible's word
    again_paths: list[str] = Field(default_factory=list)
    residual: list[ResidualRow] = Field(default_factory=list)
    # What listens and runs in one of the two only, by the guests' own word: to be seen, it blocks nothing.
    # None: they were not asked, or did not say.
    running: list[ResidualRow] | None = None
    opaque: list[str] = Field(default_factory=list)
    unrehearsed: list[str] = Field(default_factory=list)
    risk: list[str] = Field(default_factory=list)
    dry_run: dict[str, TargetEvidence] = Field(default_factory=dict)
    strategy: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    failure: str = ""

    def rows(self, kind: str) -> list[ResidualRow]:
        """The residual rows of one kind: ``missing``, ``extra`` or ``regenerated``."""
        return [row for row in self.residual if row.kind == kind]

    @property
    def unwritten(self) -> bool:
        """True where the sandbox's disk was read while the guest still held data that it had not written."""
        return self.quiesced is False and self.read_from == FROM_DISK

    def login(self, target: str) -> str:
        """``user@address:port`` of a target, as its dry run logged in; empty if that is not known."""
        seen = self.dry_run.get(target)
        return seen.login if seen else ""


class Decision(Answer):
    """One operator's word."""

    verb: str  # approve | reject
    uid: int
    name: str
    at: datetime
    digest: str = ""
    comment: str = ""
    changes_requested: bool = False


class Approval(Answer):
    id: str
    sandbox_id: str
    sandbox_name: str = ""
    source: str = ""  # image name and digest that sandbox and rehearsal are forked from
    playbook_id: str
    targets: list[str]
    groups: dict[str, str] = Field(default_factory=dict)  # target → its group
    reason: str
    requester_uid: int
    requester_name: str = ""
    agent_id: str = ""
    state: ApprovalState = ApprovalState.DRAFTING
    threshold: int = 1  # frozen when the request is made
    evidence: Evidence = Field(default_factory=Evidence)
    decisions: list[Decision] = Field(default_factory=list)
    digest: str = ""  # of the evidence as it stands; empty until it can be approved
    progress: str = ""  # what is being done now, in words
    progress_since: datetime | None = None  # and since when; None: nothing is, or an older version began it
    outcome: str = ""  # why it ended as it did
    said_by_targets: str | None = None  # of its end, for operators; None: of an older version, in the outcome
    apply_run: str = ""
    verify_run: str = ""
    verified_changed: int | None = None
    rolls_back: str = ""  # the apply's run that this takes back
    compared_with: str = ""  # the diff that the rehearsal is compared with; empty: the playbook's own
    created_at: datetime
    updated_at: datetime
    expires_at: datetime

    @computed_field  # type: ignore[prop-decorator]
    @property
    def short_id(self) -> str:
        """Four characters that an operator types to confirm."""
        return self.id.partition("-")[2][:4]

    @property
    def given(self) -> list[Decision]:
        """The approvals of the evidence as it stands: those of an earlier dry run do not count."""
        return [one for one in self.decisions if one.verb == "approve" and one.digest == self.digest]

    @property
    def ending(self) -> str:
        """Why it ended as it did, with what targets said of it: for operators."""
        return ": ".join(filter(None, (self.outcome, self.said_by_targets)))


class AskState(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class AskRequest(Request):
    """POST /v1/human/ask."""

    prompt: str = Field(min_length=1, max_length=4000)
    action_type: str = Field(pattern="^(destructive|sensitive|irreversible|question)$")
    context: str = ""
    urgency: str = Field(default="medium", pattern="^(low|medium|high)$")
    timeout_secs: int = Field(default=300, ge=1, le=86_400)
    alternatives: list[str] = Field(default_factory=list)
    sandbox_id: str | None = None


class Ask(Answer):
    """A plain question to a person, flat as API.md C wants it."""

    request_id: str
    prompt: str
    action_type: str
    context: str = ""
    urgency: str = "medium"
    alternatives: list[str] = Field(default_factory=list)
    sandbox_id: str | None = None
    requester_uid: int = -1
    requester_name: str = ""
    status: AskState = AskState.PENDING
    comment: str = ""
    alternative: str | None = None
    approved_by: str | None = None
    approved_at: datetime | None = None
    created_at: datetime
    expires_at: datetime

    @computed_field  # type: ignore[prop-decorator]
    @property
    def approved(self) -> bool:
        """True once a person said yes."""
        return self.status is AskState.APPROVED
