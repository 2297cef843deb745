"""Playbooks and their runs (PLAYBOOKS.md, DESIGN §5)."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Field

from backend.models.base import Answer


class PlaybookTask(Answer):
    """A task as a reader sees it."""

    name: str
    module: str
    opaque: bool = False  # a command: flagged, skipped in a dry run
    commands: list[str] = Field(default_factory=list)  # ids of the agent's commands it comes from
    paths: list[str] = Field(default_factory=list)  # wire paths it manages


class Playbook(Answer):
    """A directory: ``playbook.yml`` and ``files/<sha256>``. ``digest`` covers both."""

    id: str
    name: str
    sandbox_id: str
    owner_uid: int = -1
    from_snapshot: str = ""
    to_snapshot: str = ""
    changes_id: str = ""
    yaml: str
    files: dict[str, int] = Field(default_factory=dict)  # sha256 → size in bytes
    tasks: list[PlaybookTask] = Field(default_factory=list)
    variables: dict[str, str] = Field(default_factory=dict)
    secrets: list[str] = Field(default_factory=list)  # names of the variables the operator must give
    kept: str = ""  # of a roll-back: the run before which the values of its secrets were kept
    notes: list[str] = Field(default_factory=list)  # what was left out, with the reason
    digest: str = ""
    edited: bool = False
    created_at: datetime

    @property
    def asked(self) -> list[str]:
        """The secrets whose values an operator gives; those of a roll-back are the target's own."""
        return [] if self.kept else self.secrets


class RunKind(StrEnum):
    REHEARSAL = "rehearsal"
    REPEAT = "repeat"  # the rehearsal's second run
    DRY_RUN = "dry_run"
    APPLY = "apply"
    VERIFY = "verify"  # check mode after the apply
    ROLLBACK = "rollback"


class RunState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    SUCCESSFUL = "successful"
    FAILED = "failed"
    CANCELED = "canceled"
    TIMEOUT = "timeout"
    LOST = "lost"


RUN_OVER = frozenset(
    {RunState.SUCCESSFUL, RunState.FAILED, RunState.CANCELED, RunState.TIMEOUT, RunState.LOST}
)


class TargetResult(Answer):
    """Ansible's recap of one host."""

    ok: int = 0
    changed: int = 0
    failed: int = 0
    skipped: int = 0
    unreachable: int = 0


class RunEvent(Answer):
    """One result of one task on one host. ``diff`` is Ansible's own, made text by the sanitiser."""

    at: datetime
    host: str = ""
    task: str = ""
    task_index: int = -1
    module: str = ""  # empty: of an older version
    status: str = ""  # ok | changed | failed | skipped | unreachable | note
    message: str = ""
    diff: str = ""
    packages: dict[str, str] = Field(default_factory=dict)  # what apt would bring, by version; "": take away


class Run(Answer):
    id: str
    kind: RunKind
    state: RunState = RunState.STARTING
    approval_id: str = ""
    playbook_id: str = ""
    targets: list[str] = Field(default_factory=list)
    results: dict[str, TargetResult] = Field(default_factory=dict)
    events: list[RunEvent] = Field(default_factory=list)
    left_out: int = 0  # events that are too many to be kept
    strategy: str = "linear"
    runner_pid: int | None = None
    started_at: datetime
    ended_at: datetime | None = None
    reason: str = ""
    detail: dict[str, Any] = Field(default_factory=dict)
