"""Commands that ran in a guest, with the true sizes of what they printed."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from backend.models.base import Answer, Request


class CommandRequest(Request):
    """POST /v1/sandboxes/{id}/command."""

    command: str
    user: str | None = None
    timeout_sec: int | None = Field(default=None, ge=1, le=86_400)
    env: dict[str, str] | None = None
    private_key_path: str | None = None  # refused: a path on our host is nobody's business
    cwd: str | None = None
    stdin: str | None = Field(default=None, description="text that the command reads, as UTF-8")
    stdin_base64: str | None = Field(
        default=None,
        description="bytes that the command reads, in base64 (RFC 4648 §4); instead of `stdin`",
        json_schema_extra={"contentEncoding": "base64"},
    )
    stream: bool = False

    @field_validator("stdin_base64")
    @classmethod
    def _is_base64(cls, value: str | None) -> str | None:
        base64.b64decode(value or "", validate=True)
        return value

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if self.stdin is not None and self.stdin_base64 is not None:
            raise ValueError("`stdin` and `stdin_base64` are both given")
        return self

    @property
    def input(self) -> bytes | None:
        """What the command finds on its standard input; None: nothing, and its end at once."""
        if self.stdin_base64 is not None:
            return base64.b64decode(self.stdin_base64)
        return None if self.stdin is None else self.stdin.encode()


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
