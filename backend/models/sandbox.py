"""Sandboxes and their snapshots (DESIGN §5, API.md B)."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field, computed_field

from backend.models.base import Answer, Request
from backend.models.change import FROM_DISK, RunningState


class Phase(StrEnum):
    """Our states: finer than the published six."""

    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    DESTROYED = "destroyed"
    ERROR = "error"
    LOST = "lost"


class PublicState(StrEnum):
    """The published SDK's six states."""

    CREATED = "CREATED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    DESTROYED = "DESTROYED"
    ERROR = "ERROR"


PUBLIC: dict[Phase, PublicState] = {
    Phase.CREATING: PublicState.STARTING,
    Phase.RUNNING: PublicState.RUNNING,
    Phase.PAUSED: PublicState.STOPPED,
    Phase.STOPPED: PublicState.STOPPED,
    Phase.DESTROYED: PublicState.DESTROYED,
    Phase.ERROR: PublicState.ERROR,
    Phase.LOST: PublicState.ERROR,
}


STANDING_ON = "fluid.snapshot"
"""The label that names the point a sandbox was last at."""


class QueuePlace(Answer):
    """Where a create stands that waits for its turn on a host: how many are before it, about how long."""

    before: int
    about_s: float


class Sandbox(Answer):
    """One disposable VM. ``purpose`` tells an agent's sandbox from a rehearsal fork."""

    id: str
    job_id: str = ""
    agent_id: str = ""
    sandbox_name: str
    base_image: str
    image_sha256: str = ""  # of the disk of the image that it was forked from; the name may mean another now
    network: str = ""
    ip_address: str | None = None
    ttl_seconds: int | None = None
    host_name: str = "local"
    host_address: str = ""
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None

    phase: Phase = Phase.CREATING
    # Why it is in `error` or `lost`, or was paused or stopped by anybody but its users, and what to do; in
    # `creating`, its place in the queue, in words.
    reason: str = ""
    lost_phase: Phase | None = None  # of one that is lost: what it was, and why
    lost_reason: str = ""
    queue: QueuePlace | None = None
    doing: str = ""  # written ahead of what changes its disk: "destroy", "snapshot NAME", "restore NAME" …
    purpose: str = "agent"  # agent | rehearsal | stock
    memory_file: str = ""  # on its host: the memory of stock that is suspended to disk
    owner_uid: int = -1
    owner_name: str = ""
    domain: str = ""  # the libvirt domain's name
    uuid: str = ""
    mac: str = ""
    host_key: str = ""  # public: what SSH must meet
    ca: str = ""  # the mark of the SSH CA keys that it trusts
    machine_id: str = ""
    created_by: str = ""  # fork | stock | branch | cold
    placement: str = ""  # why this host
    steps: dict[str, float] = Field(default_factory=dict)  # when each step of its making was done, in seconds
    ready_s: float | None = None  # create → root's first command worked
    cpu: int = 1
    memory_mb: int = 512
    disk_gb: int | None = None  # None: as its source
    labels: dict[str, str] = Field(default_factory=dict)
    expires_at: datetime | None = None
    expiry_told_s: int | None = None  # the last warning before that end: so many seconds
    last_command: str = ""
    last_exit: int | None = None  # of that command; None: it did not end by itself
    last_activity_at: datetime | None = None
    commands: int = 0
    status: str = "unknown"  # what its agent said: planning, working, testing, blocked, done, error
    status_note: str = ""
    status_at: datetime | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def state(self) -> PublicState:
        """The published SDK's word for :attr:`phase`."""
        return PUBLIC[self.phase]

    @property
    def stands_on(self) -> str | None:
        """The name of the snapshot that it was last at: made then, or restored."""
        return self.labels.get(STANDING_ON)


class CreateSandbox(Request):
    """POST /v1/sandboxes."""

    source_vm_name: str
    agent_id: str
    vm_name: str | None = None
    cpu: int | None = Field(default=None, ge=1, le=64)
    memory_mb: int | None = Field(default=None, ge=256, le=1_048_576)
    disk_gb: int | None = Field(default=None, ge=1, le=65_536)
    ttl_seconds: int | None = Field(default=None, ge=60)
    auto_start: bool = False
    wait_for_ip: bool = False
    from_snapshot: str | None = None  # SNP-…: a branch of that point
    labels: dict[str, str] = Field(default_factory=dict)


class BranchSandbox(Request):
    """POST /v1/sandboxes/{id}/snapshots/{name}/branch; the first sandbox's own where left out."""

    vm_name: str | None = None
    agent_id: str | None = None
    ttl_seconds: int | None = Field(default=None, ge=60)
    labels: dict[str, str] = Field(default_factory=dict)


class SnapshotRequest(Request):
    """POST /v1/sandboxes/{id}/snapshots."""

    name: str
    external: bool = False
    note: str = ""


class Snapshot(Answer):
    """A point in time: memory, frozen disk layer, manifest."""

    id: str
    sandbox_id: str
    name: str
    kind: str = "EXTERNAL"
    ref: str = ""
    created_at: datetime
    meta_json: str = "{}"

    note: str = ""
    auto: bool = False  # made by policy: before a dangerous command, at a task's start or end
    parent: str | None = None  # name of the snapshot it stands on
    quiesced: bool = False  # the guest froze its file systems
    has_memory: bool = True
    disk_layers: list[str] = Field(default_factory=list)
    """Files on the host, base first; of those below the last one, its own, some may be merged since."""
    memory_file: str = ""
    read_from: str = FROM_DISK  # or FROM_GUEST: where its disk could not be read, the guest told the manifest
    manifest_sha256: str = ""  # its name in the store
    files: int = 0  # entries of the manifest
    running: RunningState | None = None  # told by the guest as soon as it went on; None: it was not asked
    took_s: float = 0.0
