"""Commands that ran in a guest, with the true sizes of what they printed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from backend.models.base import Answer, Request


class CommandRequest(Request):
    """POST /v1/sandboxes/{id}/command."""

    command: str
    user: str | None = None
    timeout_sec: int | None = Field(default=None, ge=1, le=86_400)
    env: dict[str, str] | None = None
    private_key_path: str | None = None  # refused: a path on our host is nobody's business
    cwd: str | None = None
    stdin: str | None = None
    stream: bool = False


class Command(Answer):
    """One command and its outcome. Output is cut at the limit; the byte counts are true."""

    id: str
    sandbox_id: str
    command: str
    env_json: str = "{}"
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    started_at: datetime
    ended_at: datetime | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    duration_ms: int | None = None
    timed_out: bool = False
    truncated: bool = False
    stdout_bytes: int = 0
    stderr_bytes: int = 0
