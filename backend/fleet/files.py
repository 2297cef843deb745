"""Files in a guest, over the kept SSH connection. A write is remembered like a command, so that a change on
the disk can name what made it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from backend.errors import SandboxNotFound, TooLarge
from backend.fleet.core import FleetCore
from backend.models import Command, FileState, Identity, Sandbox, guest_path, new_id, now, wire_path


class Files(FleetCore):
    """Paths come in wire form; what they name in the guest is bytes."""

    async def read_file(
        self, actor: Identity, sandbox_id: str, path: str, *, offset: int = 0, length: int | None = None
    ) -> bytes:
        """Up to ``length`` bytes of the file from ``offset``."""
        sandbox = await self.running(actor, sandbox_id)
        return await self._files.read(self.guest(sandbox), guest_path(path), offset=offset, length=length)

    async def write_file(
        self,
        actor: Identity,
        sandbox_id: str,
        path: str,
        data: bytes,
        *,
        mode: int | None = None,
        owner: str | None = None,
    ) -> FileState:
        """Atomic: a reader in the guest sees the old file or the new one."""
        if len(data) > self._config.limits.file_bytes:
            raise TooLarge(
                f"{path}: {len(data)} bytes, the limit is {self._config.limits.file_bytes}",
                remedy="fetch it in the sandbox, or raise limits.file_bytes",
            )
        sandbox = await self.running(actor, sandbox_id)
        async with self._remembered(actor, "file.write", sandbox, path, size=len(data)):
            return await self._files.write(
                self.guest(sandbox), guest_path(path), data, mode=mode, owner=owner
            )

    async def edit_file(
        self, actor: Identity, sandbox_id: str, path: str, *, old: str, new: str, all: bool = False
    ) -> FileState:
        """Replace exact text, which must be there once unless ``all``."""
        sandbox = await self.running(actor, sandbox_id)
        async with self._remembered(actor, "file.edit", sandbox, path):
            return await self._files.edit(
                self.guest(sandbox), guest_path(path), old=old.encode(), new=new.encode(), all=all
            )

    async def list_files(self, actor: Identity, sandbox_id: str, path: str) -> dict[str, FileState]:
        """A folder's entries by their wire path."""
        sandbox = await self.running(actor, sandbox_id)
        found = await self._files.list(self.guest(sandbox), guest_path(path))
        return {wire_path(name): state for name, state in found.items()}

    async def stat_file(self, actor: Identity, sandbox_id: str, path: str) -> FileState:
        sandbox = await self.running(actor, sandbox_id)
        return await self._files.stat(self.guest(sandbox), guest_path(path))

    async def delete_file(self, actor: Identity, sandbox_id: str, path: str) -> None:
        sandbox = await self.running(actor, sandbox_id)
        async with self._remembered(actor, "file.delete", sandbox, path):
            await self._files.delete(self.guest(sandbox), guest_path(path))

    @asynccontextmanager
    async def _remembered(
        self, actor: Identity, action: str, sandbox: Sandbox, path: str, **data: object
    ) -> AsyncIterator[None]:
        command = Command(
            id=new_id("CMD"),
            sandbox_id=sandbox.id,
            command=f"{action} {path}",
            started_at=now(),
            metadata={"kind": "file"},
        )
        await self._store.commands.insert(command)
        async with self._audit.step(
            actor, action, "command", command.id, sandbox_id=sandbox.id, path=path, **data
        ):
            try:
                yield
                command.exit_code = 0
            finally:
                command.ended_at = now()
                await self._store.commands.save(command)
                with suppress(SandboxNotFound):  # destroyed meanwhile; what was done is answered all the same
                    await self.change(sandbox, last_activity_at=command.ended_at)
