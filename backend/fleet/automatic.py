"""Snapshots by policy: before a command that it calls dangerous, and where an agent says that it begins or
ends a task. The oldest of them go when there are many.
"""

from __future__ import annotations

import logging

from backend.errors import FluidError
from backend.fleet.commands import Commands, OutputHandler
from backend.fleet.lifecycle import AgentStatus, Lifecycle
from backend.fleet.snapshots import Snapshots
from backend.models import Command, CommandRequest, Identity, Phase, Sandbox, SnapshotRequest, now

log = logging.getLogger(__name__)

SHOWN_CHARS = 120
AT_WORK = frozenset({"working", "testing"})
ENDED = frozenset({"done", "error"})


class AutoSnapshots(Lifecycle, Commands, Snapshots):
    """Made as the system, beside the caller's own."""

    async def run(
        self,
        actor: Identity,
        sandbox_id: str,
        request: CommandRequest,
        on_output: OutputHandler | None = None,
    ) -> Command:
        """See :meth:`Commands.run`; a dangerous command has a snapshot before it."""
        danger = self._policy.danger(request.command)
        if (
            danger
            and self._config.snapshots.before_dangerous
            and not self._policy.check_command(request.command)
        ):
            sandbox = await self.running(actor, sandbox_id)
            await self._keep_point(sandbox, "auto", f"before `{request.command[:SHOWN_CHARS]}`: {danger}")
        return await super().run(actor, sandbox_id, request, on_output)

    async def before_typing(self, actor: Identity, sandbox_id: str, text: str) -> None:
        """The same for what is typed into a terminal, as far as one piece of it shows. What it is stands
        nowhere: it may be a password."""
        danger = self._policy.danger(text)
        if danger and self._config.snapshots.before_dangerous:
            sandbox = await self.running(actor, sandbox_id)
            await self._keep_point(sandbox, "auto", f"before something was typed: {danger}")

    async def status(self, actor: Identity, said: AgentStatus) -> None:
        """See :meth:`Lifecycle.status`; ``pre`` and ``post`` snapshots where a task begins and ends."""
        before = await self._mine(actor)
        await super().status(actor, said)
        if not self._config.snapshots.at_task:
            return
        for sandbox in before:
            was_at_work = sandbox.status in AT_WORK
            if said.status in AT_WORK and not was_at_work:
                await self._keep_point(sandbox, "pre", f"a task begins: {said.note[:SHOWN_CHARS]}")
            elif said.status in ENDED and was_at_work:
                await self._keep_point(
                    sandbox, "post", f"the task is {said.status}: {said.note[:SHOWN_CHARS]}"
                )

    async def _mine(self, actor: Identity) -> list[Sandbox]:
        live = await self.all_live()
        return [
            row
            for row in live
            if row.owner_uid == actor.uid and row.purpose == "agent" and row.phase is Phase.RUNNING
        ]

    async def _keep_point(self, sandbox: Sandbox, kind: str, note: str) -> None:
        """What cannot be kept holds nobody up: a full disk may be why the command is run."""
        system = Identity.system()
        name = f"{kind}-{now():%Y%m%d-%H%M%S-%f}"
        try:
            await self.snapshot(system, sandbox.id, SnapshotRequest(name=name, note=note), auto=True)
            await self._prune(system, sandbox)
        except FluidError as error:
            log.warning("no snapshot %s of %s: %s", name, sandbox.id, error.message)
            await self._audit.note(
                system, "snapshot.missed", "sandbox", sandbox.id, sandbox_id=sandbox.id, why=error.message
            )

    async def _prune(self, system: Identity, sandbox: Sandbox) -> None:
        automatic = [point for point in await self._points(sandbox) if point.auto]
        for point in automatic[: -self._config.snapshots.keep]:
            await self.delete_snapshot(system, sandbox.id, point.name)
