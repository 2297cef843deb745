"""What a review reads from the backend: each part on its own, so that a slow one holds nothing up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from textual.message import Message

from backend.errors import FluidError
from backend.models import (
    EVENTS_MISSED,
    Approval,
    ApprovalState,
    Changes,
    Command,
    Event,
    Playbook,
    Run,
    how_read,
)
from backend.models.playbook import RUN_OVER
from fluid_tui.backend_port import BackendPort
from fluid_tui.copying import write_new
from fluid_tui.diff_rows import DiffDocument, document, summary
from fluid_tui.paint import Role, line, said
from fluid_tui.side_rows import DiffRow

if TYPE_CHECKING:
    from textual.screen import Screen

T = TypeVar("T")
PAGE_COMMANDS, MOST_COMMANDS = 100, 1000
GATHER_S = 0.25
"""Events of one burst lead to one reading."""


class ReviewRead(Message):
    """Another part of the review has been read."""


class ReviewData:
    """The parts of one review; ``None`` is not read yet, ``problems`` says what could not be."""

    def __init__(self, screen: Screen[None], client: BackendPort, approval_id: str) -> None:
        self._screen = screen
        self._client = client
        self._id = approval_id
        self._dry_run_asked = False
        self._wanted = self._reading = False
        self._documents: dict[tuple[str, bool], DiffDocument] = {}
        self.approval: Approval | None = None
        self.asked_before: list[Approval] | None = None  # by the same requester, until this was opened
        self.playbook: Playbook | None = None
        self.changes: Changes | None = None
        self.commands: list[Command] | None = None
        self.commands_cut = False  # there are more than are read
        self.runs: dict[str, Run] = {}
        self.problems: dict[str, str] = {}

    @property
    def problem(self) -> str:
        """Why the request itself could not be read."""
        return self.problems.get("request", "")

    def read(self, after_s: float = 0.0) -> None:
        """Read the request and then all it stands on. While it is being read, once more after that: however
        many events come, each is followed by a reading that nothing cuts off."""
        self._wanted = True
        if not self._reading:
            self._reading = True
            self._screen.run_worker(self._keep_reading(after_s), group="review")

    async def _keep_reading(self, after_s: float) -> None:
        try:
            while self._wanted:
                await asyncio.sleep(after_s)
                self._wanted = False
                await self._read_all()
                after_s = GATHER_S
        finally:
            self._reading = False

    def heard(self, event: Event) -> None:
        """Read again if the event is of this request, of one of its runs or of its agent's commands, or if
        some were missed."""
        mine = self._id in (event.id, event.data.get("approval_id")) or event.kind == EVENTS_MISSED
        if (approval := self.approval) is not None:
            mine = mine or event.id in (approval.apply_run, approval.verify_run)
            mine = mine or (event.kind == "command.ended" and event.sandbox_id == approval.sandbox_id)
        if mine:
            self.read(GATHER_S)

    def told(self, approval: Approval | None) -> None:
        """The fleet's copy of the request: read again if it is newer than what was read here."""
        if approval and self.approval and approval.updated_at > self.approval.updated_at:
            self.read(GATHER_S)

    async def _read_all(self) -> None:
        approval = await self._part("request", self._client.approval(self._id))
        if approval is None:
            return
        self.approval = approval
        self._tell()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_changes(approval))
            group.create_task(self._read_playbook(approval))
            group.create_task(self._read_commands(approval))
            group.create_task(self._read_earlier(approval))
            for run_id in self._runs_of(approval):
                group.create_task(self._read_run(run_id))

    def _runs_of(self, approval: Approval) -> list[str]:
        evidence = approval.evidence
        named = [evidence.rehearsal_run, evidence.repeat_run, approval.apply_run]
        named += [found.run_id for found in evidence.dry_run.values()]
        known = {id for id, run in self.runs.items() if run.state in RUN_OVER}
        return [id for id in dict.fromkeys(named) if id and id not in known]

    async def _read_changes(self, approval: Approval) -> None:
        wanted = approval.evidence.changes_id
        if wanted and (self.changes is None or self.changes.id != wanted):
            asked = self._client.changes(wanted, approval=approval.id)
            self.changes = await self._part("diff", asked) or self.changes
            self._tell()

    async def _read_playbook(self, approval: Approval) -> None:
        if self.playbook is None or self.playbook.id != approval.playbook_id:
            self.playbook = await self._part("playbook", self._client.playbook(approval.playbook_id))
            self._tell()

    async def _read_earlier(self, approval: Approval) -> None:
        """Once: up to hundreds, whole; of those that end meanwhile the fleet tells."""
        if self.asked_before is None:
            asked = self._client.approvals(approval.requester_uid)
            self.asked_before = await self._part("earlier requests", asked)
            self._tell()

    async def _read_commands(self, approval: Approval) -> None:
        """Page by page; what has ended is read once."""
        kept = list(takewhile(lambda one: one.ended_at is not None, self.commands or []))
        more = True
        while more and len(kept) < MOST_COMMANDS:
            asked = self._client.commands(approval.sandbox_id, limit=PAGE_COMMANDS, offset=len(kept))
            if (page := await self._part("commands", asked)) is None:
                return
            kept += page
            more = len(page) == PAGE_COMMANDS
        self.commands, self.commands_cut = kept, more
        self._tell()

    async def _read_run(self, run_id: str) -> None:
        run = await self._part(run_id, self._client.run_of(run_id))
        if run is not None:
            self.runs[run_id] = run
            self._tell()

    async def _part(self, what: str, asked: Awaitable[T]) -> T | None:
        try:
            found = await asked
        except FluidError as error:
            self.problems[what] = f"{error.message}. {error.remedy}" if error.remedy else error.message
            self._tell()
            return None
        self.problems.pop(what, None)
        return found

    def _tell(self) -> None:
        self._screen.post_message(ReviewRead())

    # --- the dry run that opening a review starts ---------------------------------------------------------

    def wants_dry_run(self, read_only: bool) -> bool:
        """True once: the request waits, and a target has no dry run yet."""
        approval = self.approval
        if (
            approval is None
            or read_only
            or self._dry_run_asked
            or approval.state is not ApprovalState.PENDING
        ):
            return False
        return any(target not in approval.evidence.dry_run for target in approval.targets)

    def start_dry_run(self) -> None:
        """Ask for it; the evidence arrives by events."""
        self._dry_run_asked = True
        self._screen.run_worker(self._dry_run(), group="dry run")

    async def _dry_run(self) -> None:
        approval = await self._part("dry run", self._client.dry_run(self._id))
        if approval is not None:
            self.read()

    # --- the diff -------------------------------------------------------------------------------------------

    def document(self, *, noise: bool) -> DiffDocument:
        """The rehearsal's change as rows: this is what is approved. The same object until it changes; made in
        a thread, and told (:class:`ReviewRead`) when it is."""
        changes = self.changes
        key = (changes.id if changes else self.problems.get("diff", ""), noise)
        if key not in self._documents:
            self._documents[key] = self._no_document()
            if changes is not None:
                self._screen.run_worker(self._lay_out(changes, key), group="document")
        return self._documents[key]

    async def _lay_out(self, changes: Changes, key: tuple[str, bool]) -> None:
        self._documents[key] = await asyncio.to_thread(document, changes, noise=key[1])
        self._tell()

    def _no_document(self) -> DiffDocument:
        if problem := self.problems.get("diff"):
            return DiffDocument(rows=[DiffRow(line(said(f"✗ {problem}", Role.BAD)))])
        words = "Laying out the change …" if self.changes else "The rehearsal's change is not read yet."
        return DiffDocument(rows=[DiffRow(line((words, Role.MUTED)))])

    def how(self) -> str:
        """What the diff shows and how it was read, for its border."""
        if self.changes is None:
            return ""
        return f"{summary(self.changes)} · {how_read(self.changes.read_from)}"

    def hidden(self, key: str) -> str:
        """How much of the diff the noise profile hides, and the key that shows it, for its title."""
        count = sum(self.changes.hidden.values()) if self.changes else 0
        return f" · {count} hidden: {key} shows" if count else ""

    # --- a file ---------------------------------------------------------------------------------------------

    async def write(self, path: Path) -> None:
        """The evidence pack, as JSON that only its owner reads. Refuses to follow or overwrite what is there.

        Raises:
            FluidError: the backend does not give it, or it cannot be written.
        """
        pack = await self._client.pack(self._id)
        try:
            await asyncio.to_thread(lambda: write_new(path, json.dumps(pack, indent=2, ensure_ascii=True)))
        except OSError as error:
            raise FluidError(f"Could not write {path}: {error.strerror}") from error
