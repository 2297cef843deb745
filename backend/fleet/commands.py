"""Commands in a guest: policy first, an intent row, the effect, the record."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from backend.errors import FluidError, InvalidValue, PolicyDenied, SandboxNotFound
from backend.fleet.core import FleetCore, living
from backend.guests import Outcome
from backend.models import Command, CommandRequest, Identity, Sandbox, new_id, now

OutputHandler = Callable[[str, bytes], None]
SHOWN_CHARS = 200


class Commands(FleetCore):
    """Run and remember commands."""

    async def run(
        self,
        actor: Identity,
        sandbox_id: str,
        request: CommandRequest,
        on_output: OutputHandler | None = None,
    ) -> Command:
        """One command, to its end. A non-zero exit is an answer, not an error.

        ``on_output`` gets ``("stdout" | "stderr", bytes)`` as it comes.

        Raises:
            PolicyDenied: names the rule. GuestDown: SSH does not answer. WrongState: it does not run.
        """
        sandbox = await self.running(actor, sandbox_id)
        if request.private_key_path is not None:
            raise InvalidValue("private_key_path is refused", remedy="the backend holds its own certificate")
        if refusal := self._policy.check_command(request.command):
            await self._audit.note(
                actor, "command.refused", "sandbox", sandbox.id, sandbox_id=sandbox.id, rule=refusal.rule
            )
            raise PolicyDenied(
                f"{refusal.words} (rule {refusal.rule})", remedy=refusal.remedy, rule=refusal.rule
            )
        timeout_s = self._policy.timeout_s(request.timeout_sec)
        command = Command(
            id=new_id("CMD"),
            sandbox_id=sandbox.id,
            command=request.command,
            env_json=json.dumps(sorted(request.env or {})),  # names only: values may be secrets
            started_at=now(),
            metadata={"user": request.user or "root", "work_dir": request.cwd or "", "timeout": timeout_s},
        )
        await self._store.commands.insert(command)
        async with self._audit.step(
            actor, "command.run", "command", command.id, sandbox_id=sandbox.id, command=request.command
        ) as step:
            outcome = await self._execute(sandbox, command, request, timeout_s, on_output)
            step.data.update(exit_code=outcome.exit_code, timed_out=outcome.timed_out)
        return command

    async def _execute(
        self,
        sandbox: Sandbox,
        command: Command,
        request: CommandRequest,
        timeout_s: int,
        on_output: OutputHandler | None,
    ) -> Outcome:
        await self._tell(sandbox, command, "command.started", {"command": command.command[:SHOWN_CHARS]})
        try:
            with self.at_work(sandbox.id):
                outcome = await self._commands.run(
                    self.guest(sandbox),
                    request.command,
                    user=request.user or "root",
                    timeout_s=timeout_s,
                    env=request.env or {},
                    cwd=request.cwd,
                    stdin=request.input,
                    limit_bytes=self._config.limits.output_bytes,
                    on_output=on_output,
                )
        except BaseException as error:
            command.ended_at = now()
            told = error.for_agents().message if isinstance(error, FluidError) else "interrupted"
            command.metadata["failure"] = told
            await self._store.commands.save(command)
            raise
        command.ended_at = outcome.ended_at
        command.exit_code = outcome.exit_code
        command.duration_ms = int((outcome.ended_at - outcome.started_at).total_seconds() * 1000)
        command.stdout_bytes, command.stderr_bytes = outcome.stdout_bytes, outcome.stderr_bytes
        command.timed_out, command.truncated = outcome.timed_out, outcome.truncated
        done = await self._store.commands.finish(command, outcome.stdout, outcome.stderr)
        command.stdout, command.stderr = done.stdout, done.stderr
        with suppress(SandboxNotFound):  # destroyed meanwhile; the command ended all the same
            await self.edit(sandbox, partial(_ended, command))
        await self._tell(sandbox, command, "command.ended", {"exit_code": command.exit_code})
        return outcome

    async def _tell(self, sandbox: Sandbox, command: Command, kind: str, data: dict[str, object]) -> None:
        await self._events.publish(
            kind, "command", command.id, sandbox_id=sandbox.id, data=data, persist=False
        )

    async def commands(
        self, actor: Identity, sandbox_id: str, limit: int = 100, offset: int = 0
    ) -> tuple[list[Command], int]:
        """The sandbox's commands, oldest first."""
        sandbox = await self.get(actor, sandbox_id)
        return await self._store.commands.list(
            {"sandbox_id": sandbox.id}, limit=limit, offset=offset, oldest_first=True
        )

    async def command_log(self, actor: Identity, sandbox_id: str) -> list[Command]:
        """What a diff is told with: the sandbox's last commands in order, without their output."""
        sandbox = await self.get(actor, sandbox_id)
        return await self._store.commands.log(sandbox.id)

    async def command(self, actor: Identity, command_id: str) -> Command:
        """One command with its output."""
        command = await self._store.commands.get(command_id)
        await self.get(actor, command.sandbox_id)
        return command


def _ended(command: Command, row: Sandbox) -> Sandbox:
    update = {
        "last_command": command.command[:SHOWN_CHARS],
        "last_exit": command.exit_code,
        "last_activity_at": now(),
        "commands": row.commands + 1,
    }
    return living(row).model_copy(update=update)
