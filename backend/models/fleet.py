"""Hosts, images, sources, targets, panes, and the one view the console draws."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field, computed_field

from backend.models.approval import Approval, Ask
from backend.models.base import Answer
from backend.models.sandbox import Sandbox


class Component(Answer):
    """A part of the backend and how it is: ``ok``, ``degraded`` or ``down``."""

    name: str
    status: str
    message: str = ""
    remedy: str = ""


class HostView(Answer):
    name: str
    address: str = ""
    uri: str = ""
    status: str = "unknown"  # up | lost | draining
    draining: bool = False  # it takes no new sandboxes, also once it is back
    since: datetime | None = None
    cpus: int = 0
    busy_percent: int | None = None  # of the time of all cpus, lately, with whose work ever; None: unknown
    memory_mb: int = 0
    memory_free_mb: int = 0
    disk_free_mb: int = 0
    sandboxes: int = 0
    stock: int = 0  # parked forks without an owner
    stock_suspended: int = 0  # of them: those whose memory lies on the disk
    templates: list[str] = Field(default_factory=list)  # images whose forks are ready in a second
    creating: int = 0
    waiting: int = 0  # creates in its queue
    isolated: bool = True  # its guests are on a network of ours, which shuts them in
    virt_type: str = ""  # kvm | qemu (emulated)
    virt_reason: str = ""  # what a probe that was booted there showed
    fork_way: str = ""  # save image | snapshot copy | cold boot
    fork_reason: str = ""
    clock_skew_s: float | None = None  # how far its clock is ahead of ours; None: it is ours, or unknown
    libvirt_version: str = ""
    qemu_version: str = ""
    last_error: str = ""


class HostRecord(Answer):
    """What is kept of a host beside the config: what operators decided."""

    name: str
    draining: bool = False
    settings: dict[str, Any] | None = None  # of one that is not in the config, as it would stand there
    host_key: str = ""  # its line for a file of known hosts
    created_at: datetime


class HostKeyView(Answer):
    """What a host shows of itself: ``line`` as files of known hosts have it."""

    address: str
    line: str
    fingerprint: str


class CaKey(Answer):
    """A public key of the SSH user CA, as ``TrustedUserCAKeys`` has it (sshd_config(5))."""

    public_key: str
    fingerprint: str
    since: datetime | None = None  # of the one that signs
    trusted_until: datetime | None = None  # of the one before


class CaView(Answer):
    """The key that signs, one that is about to, one that is still trusted; and by name the running guests
    that do not trust exactly these."""

    current: CaKey
    pending: CaKey | None = None
    old: CaKey | None = None
    behind: list[str] = Field(default_factory=list)


class Leftover(Answer):
    """A thing of ours that nothing needs. ``kind``: domain | files | network | template | image | recording.
    ``host``: where it lies, ``control node`` for files of images and recordings."""

    host: str
    kind: str
    name: str
    why: str


class LeftoverReport(Answer):
    """What was looked at, what of it is left over, what stays though it looks so, and which hosts did not
    answer."""

    domains: int = 0
    files: int = 0
    networks: int = 0
    templates: int = 0
    images: int = 0
    found: list[Leftover] = Field(default_factory=list)
    held: list[str] = Field(default_factory=list)
    silent: list[str] = Field(default_factory=list)


class ImageView(Answer):
    """A guest image: content-addressed, never changed in place."""

    name: str
    sha256: str
    size_bytes: int
    arch: str
    built_at: datetime
    build_s: float = 0.0
    packages: int = 0
    path: str = ""
    kind: str = "built"  # built | imported | domain
    origin: str = ""  # the file or URL of an imported one
    used_by: int = 0
    sandboxes: list[str] = Field(default_factory=list)  # by name, as far as the caller may see them
    stock: list[str] = Field(default_factory=list)
    templates: list[str] = Field(default_factory=list)


class SourceView(Answer):
    """What a sandbox may be forked from."""

    name: str
    kind: str = "image"  # image | domain
    arch: str = ""
    template_ready: bool = False
    ready: bool = True  # agents see no other
    host: str = ""  # of a domain
    state: str = ""  # of a domain, as libvirt has it
    problem: str = ""  # why a domain can be no source


class SourceFinding(Answer):
    """One line of a pre-flight. ``status``: ok | warn | bad | unknown; ``remedy`` is the command that mends
    it."""

    name: str
    status: str
    message: str
    remedy: str = ""


class SourceSecret(Answer):
    """A file on the disk that a clone would carry along, by its wire path; never what is in it."""

    path: str
    kind: str


class SourceCheck(Answer):
    """The pre-flight of a domain. ``changes``: what preparing does to the copy; ``secrets_cut``: there may be
    more of them, ``secrets_known``: the disk could be looked into."""

    name: str
    domain: str
    host: str
    state: str
    can_prepare: bool
    can_clone: bool
    findings: list[SourceFinding] = Field(default_factory=list)
    changes: list[str] = Field(default_factory=list)
    secrets: list[SourceSecret] = Field(default_factory=list)
    secrets_known: bool = False
    secrets_cut: bool = False


class TargetView(Answer):
    """A production machine, by name. Address and key are for operators only."""

    name: str
    group: str
    address: str = ""
    approvals: int = 1
    reachable: bool | None = None
    problem: str = ""


class Pane(Answer):
    """A terminal of an agent, a shell in its guest. ``taken_by`` is the operator who types into it now: its
    agent's keys are refused meanwhile."""

    pane_id: str
    session: str
    window: str = ""
    sandbox_id: str
    sandbox_name: str = ""
    owner_uid: int = -1
    title: str = ""
    width: int = 80
    height: int = 24
    created_at: datetime
    last_output_at: datetime | None = None
    alive: bool = True
    taken_by: str = ""
    taken_at: datetime | None = None


class PaneChange(Answer):
    """What a pane shows else than before: whole rows by their number, and its cursor."""

    rows: dict[int, str]
    cursor: tuple[int, int] | None = None


class PaneScreen(Answer):
    """What a pane shows: rows of a guest's text whose only control is SGR, by the sanitiser, which draws them
    too. ``cursor`` is its column and row; None: hidden."""

    rows: list[str]
    cursor: tuple[int, int] | None = None

    def since(self, before: PaneScreen) -> PaneChange | None:
        """What differs from a screen with as many rows; None of one with others."""
        if len(before.rows) != len(self.rows):
            return None
        pairs = enumerate(zip(before.rows, self.rows, strict=True))
        return PaneChange(rows={at: row for at, (old, row) in pairs if row != old}, cursor=self.cursor)

    def then(self, change: PaneChange) -> PaneScreen:
        """The screen after a change that is of as many rows."""
        rows = [change.rows.get(at, row) for at, row in enumerate(self.rows)]
        return PaneScreen(rows=rows, cursor=change.cursor)


class TakeOverEnd(Answer):
    """Why an operator no longer types into a pane. ``why``: handed_back | taken | cut | closed | destroyed |
    stopping; ``by``: who else did it; ``words`` are for the operator."""

    why: str
    by: str = ""
    words: str = ""


class Presence(Answer):
    """An operator's console looks at a ``place`` (review, ask, terminal …), of this ``id``."""

    uid: int
    name: str
    console: str
    place: str
    id: str = ""
    since: datetime


class PresenceView(Answer):
    """Who asks, and where everybody looks now."""

    uid: int
    name: str
    here: list[Presence] = Field(default_factory=list)


class PanicView(Answer):
    """A panic: ``paused`` are the ids of the sandboxes that it stopped, ``failed`` says by name why not.
    ``revoked``: no certificate of before opens a guest that has learnt the CA key of now."""

    since: datetime
    by: str = ""
    paused: list[str] = Field(default_factory=list)
    failed: dict[str, str] = Field(default_factory=dict)
    revoked: bool = False


class FleetView(Answer):
    """GET /v1/fleet: everything the home screen draws, at one event number."""

    seq: int = 0
    at: datetime
    hosts: list[HostView] = Field(default_factory=list)
    sandboxes: list[Sandbox] = Field(default_factory=list)
    approvals: list[Approval] = Field(default_factory=list)
    asks: list[Ask] = Field(default_factory=list)
    panes: list[Pane] = Field(default_factory=list)
    components: list[Component] = Field(default_factory=list)
    audit_ok: bool = True
    audit_rows: int = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def isolated(self) -> bool:
        """Whether the guests of every host are shut in."""
        return all(host.isolated for host in self.hosts)
