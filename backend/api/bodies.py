"""Bodies of requests that are not nouns of their own. Unknown fields are refused."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SecretStr

from backend.models import Request


class StartBody(Request):
    wait_for_ip: bool = False


class ExtendBody(Request):
    """In how many seconds from now the sandbox ends. The policy has the last word."""

    seconds: int = Field(ge=1)


class DiffBody(Request):
    from_snapshot: str
    to_snapshot: str = Field(description='a snapshot, or "now": the sandbox as it is')
    to_sandbox: str = Field(
        default="",
        description="another sandbox of the same source, that `to_snapshot` is of; `from_snapshot` may be"
        ' "now" then, and the answer is not kept',
    )


class GenerateBody(Request):
    """Empty: from the oldest snapshot to the sandbox as it is."""

    from_snapshot: str | None = None
    to_snapshot: str | None = None


class PlaybookBody(Request):
    sandbox_id: str
    from_snapshot: str | None = None
    to_snapshot: str | None = None


class PlaybookEdit(Request):
    yaml: str


class EditBody(Request):
    """Exact text, which must match once unless ``all``."""

    path: str
    old: str = Field(min_length=1)
    new: str
    all: bool = False


class ApproveBody(Request):
    digest: str = Field(max_length=200)
    comment: str = Field(default="", max_length=2000)
    secrets: dict[str, SecretStr] = Field(default_factory=dict, max_length=100)


class RejectBody(Request):
    reason: str = Field(min_length=1, max_length=2000)
    changes_requested: bool = False


class AnswerBody(Request):
    approved: bool
    comment: str = Field(default="", max_length=2000)
    alternative: str | None = None


class PaneBody(Request):
    sandbox_id: str


class SendKeysBody(Request):
    """Literal text, or one key by its name in tmux's allowed list."""

    pane_id: str
    text: str | None = Field(default=None, max_length=65_536)
    key: str | None = Field(default=None, max_length=32)


class ReadPaneBody(Request):
    pane_id: str
    last_n_lines: int = Field(default=0, ge=0, le=100_000)


class PresenceBody(Request):
    """``console``: a random name of one running console."""

    console: str = Field(pattern=r"^[0-9a-f]{8,32}$")
    place: str = Field(default="", max_length=32, pattern=r"^[a-z]*$")
    id: str = Field(default="", max_length=64, pattern=r"^[A-Za-z0-9-]*$")


class StatusBody(Request):
    status: Literal["planning", "working", "testing", "blocked", "done", "error"]
    note: str = Field(default="", max_length=500)


class HostKeyBody(Request):
    address: str = Field(max_length=253)
    port: int | None = Field(default=None, ge=1, le=65_535)


class HostBody(Request):
    """``settings`` as below ``hosts`` in config.yaml; ``host_key`` as POST /v1/hosts/key told it."""

    settings: dict[str, Any]
    host_key: str = Field(max_length=4096, pattern=r"^\S+ ssh-\S+ \S+$|^\S+ ecdsa-\S+ \S+$")


class BuildBody(Request):
    name: str = ""
    force: bool = False


class ImportBody(Request):
    """``source``: a file of the backend's machine by its absolute path, or an http(s) URL."""

    source: str = Field(min_length=1, max_length=4096)
    format: Literal["qcow2", "raw"]
    sha256: str = Field(default="", max_length=64, description="of the file; needed for a URL")
    name: str = Field(default="", max_length=63, description="without it: the file's, made valid")


class PrepareBody(Request):
    """``as_it_is``: without a boot of ours, where the config acknowledges that."""

    as_it_is: bool = False
