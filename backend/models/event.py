"""Who calls, what happened, and what the audit keeps of it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Field

from backend.models.base import Answer, now


class Role(StrEnum):
    AGENT = "agent"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    SYSTEM = "system"


class Identity(Answer):
    """Who is at the other end of a connection: peer credentials read from the kernel."""

    uid: int
    gid: int = -1
    pid: int = -1
    name: str = ""
    role: Role = Role.AGENT
    groups: list[str] = Field(default_factory=list)

    @classmethod
    def system(cls) -> Identity:
        """The backend itself."""
        import os

        return cls(uid=os.getuid(), gid=os.getgid(), pid=os.getpid(), name="fluid", role=Role.SYSTEM)


EVENTS_MISSED = "events.gap"
"""The kind that says that some were lost: who hears it reads anew whatever it shows."""


class Event(Answer):
    """Something the console should know. ``seq`` grows by one and is the SSE id."""

    seq: int
    at: datetime
    kind: str  # <noun>.<what happened>: sandbox.changed, command.output, approval.changed, run.event …
    noun: str
    id: str
    sandbox_id: str = ""
    data: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def missed(cls, seq: int) -> Event:
        """In place of those that were lost; ``seq`` is that of the last one."""
        return cls(seq=seq, at=now(), kind=EVENTS_MISSED, noun="events", id="")


class AuditRow(Answer):
    """One link of the chain: ``hash`` is SHA-256 over the canonical JSON of all other fields, ``prev`` the
    ``hash`` of the row before."""

    seq: int
    at: datetime
    actor_uid: int
    actor_name: str = ""
    role: str = ""
    action: str  # sandbox.create, command.run, approval.approve …
    step: str = "outcome"  # intent | outcome | note
    noun: str = ""
    id: str = ""
    sandbox_id: str = ""
    data: dict[str, Any] = Field(default_factory=dict)
    prev: str = ""
    hash: str = ""
