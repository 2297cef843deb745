"""One repository a noun: its table, its key columns, its own error, and what is special about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from psycopg import sql
from psycopg.rows import TupleRow

from backend.errors import (
    ApprovalNotFound,
    HostNotFound,
    NotFound,
    PlaybookNotFound,
    RunNotFound,
    SandboxNotFound,
    SnapshotNotFound,
)
from backend.models import Approval, Ask, Changes, Command, HostRecord, Playbook, Run, Sandbox, Snapshot
from backend.store.documents import Documents

LOG_LIMIT = 10_000

Columns = Mapping[str, str]


class Sandboxes(Documents[Sandbox]):
    """A name is taken until its sandbox is destroyed. State column: ``phase``."""

    table = "sandboxes"
    model = Sandbox
    state_column = "phase"
    missing = SandboxNotFound
    columns: ClassVar[Columns] = {
        "name": "sandbox_name",
        "phase": "phase",
        "purpose": "purpose",
        "owner_uid": "owner_uid",
        "agent_id": "agent_id",
        "job_id": "job_id",
        "base_image": "base_image",
        "host_name": "host_name",
        "created_at": "created_at",
    }


class Snapshots(Documents[Snapshot]):
    """Unique by sandbox and name."""

    table = "snapshots"
    model = Snapshot
    missing = SnapshotNotFound
    columns: ClassVar[Columns] = {
        "sandbox_id": "sandbox_id",
        "name": "name",
        "created_at": "created_at",
    }

    async def named(self, sandbox_id: str, name: str) -> Snapshot:
        """One sandbox's snapshot by name. Raises :class:`SnapshotNotFound`."""
        found = await self.find({"sandbox_id": sandbox_id, "name": name})
        if found is None:
            raise SnapshotNotFound(
                f"{sandbox_id} has no snapshot {name!r}", remedy=f"see `fluid snapshots list {sandbox_id}`"
            )
        return found

    async def forget(self, sandbox_id: str) -> None:
        """All of a sandbox that is gone: their files are, too."""
        statement = sql.SQL("DELETE FROM {} WHERE sandbox_id = %s").format(self._name)
        async with self._database.transaction() as connection:
            await connection.execute(statement, (sandbox_id,))


class Commands(Documents[Command]):
    """Output is kept as the bytes it was, beside the document; ``Command.stdout`` is its text for reading."""

    table = "commands"
    model = Command
    columns: ClassVar[Columns] = {
        "sandbox_id": "sandbox_id",
        "created_at": "started_at",
        "ended_at": "ended_at",
    }
    outside_doc: ClassVar[frozenset[str]] = frozenset({"stdout", "stderr"})

    async def finish(self, command: Command, stdout: bytes, stderr: bytes) -> Command:
        """Save the outcome with its output (already cut at the limit); the command as it reads back."""
        statement = sql.SQL(
            "UPDATE {} SET ended_at = %s, doc = %s, stdout = %s, stderr = %s WHERE id = %s"
        ).format(self._name)
        values = (command.ended_at, self._doc(command), stdout, stderr, command.id)
        async with self._database.transaction() as connection:
            if (await connection.execute(statement, values)).rowcount == 0:
                raise self._not_found(command.id)
        return command.model_copy(update={"stdout": _text(stdout), "stderr": _text(stderr)})

    async def output(self, id: str) -> tuple[bytes, bytes]:
        """stdout and stderr as the guest wrote them."""
        statement = sql.SQL("SELECT stdout, stderr FROM {} WHERE id = %s").format(self._name)
        async with self._database.transaction() as connection:
            row = await (await connection.execute(statement, (id,))).fetchone()
        if row is None:
            raise self._not_found(id)
        return row[0], row[1]

    async def log(self, sandbox_id: str, limit: int = LOG_LIMIT) -> list[Command]:
        """The last ones of a sandbox, in the order in which they began, with empty output: a timeline does
        not carry megabytes."""
        newest, _ = await _CommandHeaders(self._database).list({"sandbox_id": sandbox_id}, limit=limit)
        return newest[::-1]

    def _selected(self) -> sql.Composable:
        return sql.SQL("doc::text, stdout, stderr")

    def _read(self, row: TupleRow) -> Command:
        return super()._read(row).model_copy(update={"stdout": _text(row[1]), "stderr": _text(row[2])})


class _CommandHeaders(Commands):
    """The same table, read without its output."""

    def _selected(self) -> sql.Composable:
        return sql.SQL("doc::text, ''::bytea, ''::bytea")


class ChangesTable(Documents[Changes]):
    """Differences by their two points; ``find`` gives the newest of a pair."""

    table = "changes"
    model = Changes
    columns: ClassVar[Columns] = {
        "sandbox_id": "sandbox_id",
        "from_snapshot": "from_snapshot",
        "to_snapshot": "to_snapshot",
        "created_at": "created_at",
    }


class Playbooks(Documents[Playbook]):
    """Unique by owner and name."""

    table = "playbooks"
    model = Playbook
    missing = PlaybookNotFound
    columns: ClassVar[Columns] = {
        "name": "name",
        "sandbox_id": "sandbox_id",
        "owner_uid": "owner_uid",
        "created_at": "created_at",
    }


class Approvals(Documents[Approval]):
    """Terminal states are terminal: move them by ``transition`` only."""

    table = "approvals"
    model = Approval
    missing = ApprovalNotFound
    columns: ClassVar[Columns] = {
        "sandbox_id": "sandbox_id",
        "playbook_id": "playbook_id",
        "requester_uid": "requester_uid",
        "state": "state",
        "created_at": "created_at",
        "expires_at": "expires_at",
    }


class Asks(Documents[Ask]):
    """Plain questions. State column: ``status``; id: ``request_id``."""

    table = "asks"
    model = Ask
    state_column = "status"
    id_field = "request_id"
    missing = NotFound
    columns: ClassVar[Columns] = {
        "sandbox_id": "sandbox_id",
        "requester_uid": "requester_uid",
        "status": "status",
        "created_at": "created_at",
        "expires_at": "expires_at",
    }


class Runs(Documents[Run]):
    """Rehearsals, dry runs, applies, roll backs."""

    table = "runs"
    model = Run
    missing = RunNotFound
    columns: ClassVar[Columns] = {
        "kind": "kind",
        "state": "state",
        "approval_id": "approval_id",
        "playbook_id": "playbook_id",
        "created_at": "started_at",
    }


class HostRecords(Documents[HostRecord]):
    """By the host's name."""

    table = "hosts"
    model = HostRecord
    id_field = "name"
    missing = HostNotFound
    columns: ClassVar[Columns] = {"created_at": "created_at"}


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")
