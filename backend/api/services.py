"""What the doors need from the rooms below: one Protocol a service, one container for all.

The API holds no state and decides nothing but who may knock: every rule of ownership, policy and redaction is
the service's, which is why each method takes the actor. Methods raise :mod:`backend.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from backend.audit import Audit
from backend.images import ImageImport
from backend.models import (
    Approval,
    ApprovalRequest,
    Ask,
    AskRequest,
    BranchSandbox,
    CaView,
    Changes,
    Command,
    CommandRequest,
    Component,
    CreateSandbox,
    FileState,
    HostKeyView,
    HostView,
    Identity,
    ImageView,
    Leftover,
    LeftoverReport,
    Pane,
    PaneScreen,
    PanicView,
    Playbook,
    Presence,
    Recording,
    Run,
    Sandbox,
    Snapshot,
    SnapshotRequest,
    SourceCheck,
    SourceView,
    TakeOverEnd,
    TargetView,
)
from backend.panes import Why
from backend.store import EventBus, Keys, Seen

OnOutput = Callable[[str, bytes], None]
"""Called with ``stdout`` or ``stderr`` and the bytes as they come."""


class Fleet(Protocol):
    """Sandboxes, their commands, snapshots, changes and files."""

    async def create(self, actor: Identity, request: CreateSandbox, /) -> Sandbox: ...
    async def get(self, actor: Identity, id: str, /) -> Sandbox: ...
    async def list(self, actor: Identity, /, *, limit: int = 100) -> tuple[Sequence[Sandbox], int]: ...
    async def seen(
        self,
        actor: Identity,
        /,
        *,
        agent_id: str | None = None,
        job_id: str | None = None,
        base_image: str | None = None,
        state: str | None = None,
        host_name: str | None = None,
        vm_name: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[Sequence[Seen[Sandbox]], int]:
        """The page asked for, and how many match in all. ``state`` is a public state or a phase."""
        ...

    async def start(self, actor: Identity, id: str, /) -> Sandbox: ...
    async def stop(self, actor: Identity, id: str, /) -> Sandbox: ...
    async def pause(self, actor: Identity, id: str, /) -> Sandbox: ...
    async def resume(self, actor: Identity, id: str, /) -> Sandbox: ...
    async def destroy(self, actor: Identity, id: str, /) -> Sandbox: ...
    async def extend(self, actor: Identity, id: str, seconds: int, /) -> Sandbox: ...

    async def run(
        self, actor: Identity, id: str, request: CommandRequest, on_output: OnOutput | None = None, /
    ) -> Command: ...
    async def commands(
        self, actor: Identity, id: str, limit: int, offset: int, /
    ) -> tuple[Sequence[Command], int]: ...
    async def command_log(self, actor: Identity, id: str, /) -> Sequence[Command]: ...
    async def command(self, actor: Identity, command_id: str, /) -> Command: ...

    async def snapshot(self, actor: Identity, id: str, request: SnapshotRequest, /) -> Snapshot: ...
    async def snapshots(self, actor: Identity, id: str, /) -> Sequence[Snapshot]: ...
    async def restore(self, actor: Identity, id: str, name: str, /) -> Sandbox: ...
    async def branch(self, actor: Identity, id: str, name: str, request: BranchSandbox, /) -> Sandbox: ...
    async def delete_snapshot(self, actor: Identity, id: str, name: str, /) -> int: ...
    async def diff(
        self, actor: Identity, id: str, from_snapshot: str, to_snapshot: str, to_sandbox: str = "", /
    ) -> Changes: ...
    async def changes(self, actor: Identity, changes_id: str, /) -> Changes: ...

    async def read_file(
        self, actor: Identity, id: str, path: str, /, *, offset: int = 0, length: int | None = None
    ) -> bytes:
        """Up to ``length`` bytes of the file at the wire path, from ``offset``."""
        ...

    async def write_file(
        self,
        actor: Identity,
        id: str,
        path: str,
        data: bytes,
        /,
        *,
        mode: int | None = None,
        owner: str | None = None,
    ) -> FileState:
        """Replace the file whole, or not at all. ``owner`` is ``user`` or ``user:group``."""
        ...

    async def edit_file(
        self, actor: Identity, id: str, path: str, /, *, old: str, new: str, all: bool = False
    ) -> FileState:
        """Replace exact text, which must match once unless ``all``."""
        ...

    async def list_files(self, actor: Identity, id: str, path: str, /) -> dict[str, FileState]:
        """The folder's entries by their wire path."""
        ...

    async def stat_file(self, actor: Identity, id: str, path: str, /) -> FileState: ...
    async def delete_file(self, actor: Identity, id: str, path: str, /) -> None: ...

    async def status(self, actor: Identity, status: AgentStatus, /) -> None: ...
    async def hosts(self) -> Sequence[HostView]: ...

    async def drain(self, actor: Identity, name: str, draining: bool, /) -> HostView:
        """Whether a host takes new sandboxes; those it has stay."""
        ...

    async def host_key(self, actor: Identity, address: str, port: int | None, /) -> HostKeyView:
        """The key that a host shows now, for a person to compare."""
        ...

    async def add_host(self, actor: Identity, settings: dict[str, Any], host_key: str, /) -> HostView:
        """One more host; ``host_key`` is the line that a person compared."""
        ...

    async def remove_host(self, actor: Identity, name: str, /) -> None:
        """Forget a host that was added so, and has no sandbox left."""
        ...

    async def leftovers(self, actor: Identity, /) -> LeftoverReport:
        """Domains, files and networks of ours that nothing needs; nothing is touched."""
        ...

    async def clear(self, actor: Identity, /) -> LeftoverReport:
        """Remove them; what was removed."""
        ...

    async def sources(self, actor: Identity, /) -> Sequence[SourceView]: ...


class AgentStatus(Protocol):
    """What an agent says of itself: ``planning, working, testing, blocked, done, error`` and a note."""

    @property
    def status(self) -> str: ...
    @property
    def note(self) -> str: ...


class Playbooks(Protocol):
    """Generated playbooks and their files."""

    async def generate(
        self,
        actor: Identity,
        sandbox_id: str,
        from_snapshot: str | None = None,
        to_snapshot: str | None = None,
        /,
    ) -> Playbook: ...
    async def get(self, actor: Identity, id: str, /) -> Playbook: ...
    async def list(self, actor: Identity, /) -> Sequence[Playbook]: ...
    async def update(self, actor: Identity, id: str, yaml: str, /) -> Playbook: ...
    async def delete(self, actor: Identity, id: str, /) -> None: ...
    async def file(self, actor: Identity, id: str, sha256: str, /) -> bytes: ...


class Approvals(Protocol):
    """Requests for approval and plain questions. Redaction for agents is done here."""

    async def request(self, actor: Identity, request: ApprovalRequest, /) -> Approval: ...
    async def get(self, actor: Identity, id: str, /) -> Approval: ...
    async def wait(self, actor: Identity, id: str, seconds: float, /) -> Approval:
        """The approval once its state differs from the one it has now, or after ``seconds``."""
        ...

    async def list(
        self, actor: Identity, /, *, over: int = ..., requester_uid: int | None = ...
    ) -> Sequence[Approval]:
        """Those that are open, then the last ``over`` that ended, of one requester or of all."""
        ...

    async def changes(self, actor: Identity, id: str, changes_id: str, /) -> Changes:
        """A change that its evidence names, as long as it is what the evidence was made of."""
        ...

    async def withdraw(self, actor: Identity, id: str, /) -> Approval: ...
    async def request_rollback(self, actor: Identity, run_id: str, target: str = "", /) -> Approval: ...
    async def void_edited(self, actor: Identity, playbook_id: str, edited: Playbook, /) -> None:
        """End the requests that were made with a playbook before this edit of it."""
        ...

    async def dry_run(self, actor: Identity, id: str, /) -> Approval: ...
    async def approve(
        self, actor: Identity, id: str, digest: str, comment: str, secrets: Mapping[str, str], /
    ) -> Approval: ...
    async def reject(self, actor: Identity, id: str, reason: str, changes_requested: bool, /) -> Approval: ...
    async def pack(self, actor: Identity, id: str, /) -> dict[str, Any]: ...


class Asks(Protocol):
    """Plain questions to a person."""

    async def ask(self, actor: Identity, request: AskRequest, /) -> Ask: ...
    async def wait(self, actor: Identity, id: str, seconds: float, /) -> Ask:
        """The question once it is answered or over, or as it stands after ``seconds``."""
        ...

    async def list(self, actor: Identity, /) -> Sequence[Ask]: ...
    async def answer(
        self, actor: Identity, request_id: str, approved: bool, comment: str, alternative: str | None, /
    ) -> Ask: ...
    async def withdraw(self, actor: Identity, id: str, /) -> Ask: ...


class Runs(Protocol):
    """Rehearsals, dry runs, applies."""

    async def get(self, actor: Identity, id: str, /) -> Run: ...
    async def cancel(self, actor: Identity, id: str, /) -> Run: ...


class Panes(Protocol):
    """Agents' terminals, each a shell in a guest of its owner."""

    async def open(self, actor: Identity, sandbox_id: str, /) -> Pane: ...
    async def list(self, actor: Identity, /) -> Sequence[Pane]: ...
    async def send(
        self, actor: Identity, pane_id: str, /, *, text: str | None = None, key: str | None = None
    ) -> None: ...
    async def read(self, actor: Identity, pane_id: str, last_n_lines: int = 0, /) -> Sequence[str]: ...
    async def close(self, actor: Identity, pane_id: str, /) -> None: ...
    def screens(self, actor: Identity, pane_id: str, /) -> AsyncIterator[PaneScreen]:
        """The screen now and after each change: at most 4 a second, more often where an operator types."""
        ...

    def take_over(
        self, actor: Identity, pane_id: str, force: bool, /
    ) -> AbstractAsyncContextManager[TakeOver]:
        """The operator's hands on the pane until the block ends."""
        ...

    async def hand_back(self, actor: Identity, pane_id: str, /) -> Pane: ...


class TakeOver(Protocol):
    """An operator types into a pane."""

    async def type(self, data: bytes, /) -> None: ...
    def end(self, why: Why, /) -> None: ...
    async def over(self) -> TakeOverEnd: ...


class Onlookers(Protocol):
    """Which operators look at what."""

    def here(self) -> Sequence[Presence]: ...
    async def look(self, actor: Identity, console: str, place: str, id: str, /) -> Sequence[Presence]: ...


class Recordings(Protocol):
    """What agents' terminals showed. For operators alone, its secrets withheld."""

    async def list(self, actor: Identity, sandbox_id: str | None = None, /) -> Sequence[Recording]: ...
    async def get(self, actor: Identity, id: str, /) -> Recording: ...
    async def cast(self, actor: Identity, id: str, /) -> str:
        """The whole as an asciicast of version 2: a guest's bytes, escape sequences included."""
        ...

    async def leftovers(self, actor: Identity, /) -> Sequence[Leftover]:
        """Those past their time."""
        ...

    async def clear(self, actor: Identity, /) -> Sequence[Leftover]:
        """Remove them; what was removed."""
        ...


class Panic(Protocol):
    """Stop everything, and release it."""

    def refuse_agent(self, actor: Identity, /) -> None: ...
    async def start(self, actor: Identity, /) -> PanicView: ...
    async def release(self, actor: Identity, /) -> PanicView: ...


class AuditReport(Protocol):
    """What a verification of the chain found."""

    @property
    def ok(self) -> bool: ...
    @property
    def rows(self) -> int: ...


class Images(Protocol):
    async def list(self, actor: Identity, /) -> Sequence[ImageView]: ...
    async def build(self, actor: Identity, name: str, force: bool, /) -> ImageView: ...
    async def import_image(self, actor: Identity, wanted: ImageImport, /) -> ImageView: ...
    async def remove(self, actor: Identity, name: str, /) -> int:
        """How many bytes that gave back."""
        ...


class Trust(Protocol):
    """The SSH user CA."""

    def public_key(self) -> str: ...
    async def view(self, actor: Identity, /) -> CaView: ...
    async def rotate(self, actor: Identity, /) -> CaView: ...


class Sources(Protocol):
    """What sandboxes may be forked from: images, and existing domains that become images."""

    async def list(self, actor: Identity, /) -> Sequence[SourceView]:
        """Agents see what they may fork; operators also the domains that are no source yet."""
        ...

    async def check(self, actor: Identity, name: str, /) -> SourceCheck:
        """The pre-flight of a domain; nothing of it is changed."""
        ...

    async def prepare(self, actor: Identity, name: str, as_it_is: bool, /) -> ImageView:
        """Copy a domain's disk and prepare the copy."""
        ...


class Targets(Protocol):
    async def list(self, actor: Identity, /) -> Sequence[TargetView]:
        """Agents see the names they may ask for, operators address and state too."""
        ...

    async def check(self, actor: Identity, name: str | None = None, /) -> Sequence[TargetView]:
        """The same after trying each over SSH with its group's key."""
        ...


@dataclass(frozen=True)
class Services:
    """All that the doors serve. ``components`` tells how each part is, ``policy`` what a caller may do,
    ``audit_seen`` what the last verification of the chain found."""

    fleet: Fleet
    playbooks: Playbooks
    approvals: Approvals
    asks: Asks
    runs: Runs
    panes: Panes
    onlookers: Onlookers
    recordings: Recordings
    panic: Panic
    audit: Audit
    events: EventBus
    images: Images
    sources: Sources
    targets: Targets
    trust: Trust
    keys: Keys
    components: Callable[[], Awaitable[list[Component]]]
    audit_seen: Callable[[], AuditReport]
    policy: Callable[[Identity], dict[str, Any]]
