"""What a sandbox's row keeps of the last command."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from backend.errors import HypervisorDown
from backend.fleet.commands import Commands
from backend.models import Command, CommandRequest, Sandbox, now

ROW = Sandbox(id="SBX-1", sandbox_name="box", base_image="i", created_at=now(), updated_at=now())


class Fleet(Commands):
    """One sandbox, whose command ends as ``exit_code`` says."""

    def __init__(self, exit_code: int | None) -> None:
        at = now()
        outcome = SimpleNamespace(
            exit_code=exit_code, started_at=at, ended_at=at, stdout=b"", stderr=b"",
            stdout_bytes=0, stderr_bytes=0, timed_out=exit_code is None, truncated=False,
        )  # fmt: skip
        self._commands = cast("Any", SimpleNamespace(run=AsyncMock(return_value=outcome)))
        self._config = cast("Any", SimpleNamespace(limits=SimpleNamespace(output_bytes=1)))
        self._store = cast("Any", SimpleNamespace(commands=AsyncMock()))
        self._events = AsyncMock()
        self.saved: list[Sandbox] = []

    async def edit(self, sandbox: Sandbox, edit: Callable[[Sandbox], Sandbox]) -> Sandbox:
        self.saved.append(edit(ROW.model_copy(update={"last_exit": 3})))
        return sandbox

    def guest(self, sandbox: Sandbox) -> Any:
        return sandbox.id

    def at_work(self, sandbox_id: str) -> Any:
        return nullcontext()


@pytest.mark.parametrize("exit_code", [0, 1, None])
async def test_the_last_command_is_kept_with_how_it_ended(exit_code: int | None) -> None:
    fleet = Fleet(exit_code)
    command = Command(id="CMD-1", sandbox_id="SBX-1", command="nginx -t", started_at=now())
    await fleet._execute(ROW, command, CommandRequest(command="nginx -t"), 5, None)
    assert [(row.last_command, row.last_exit, row.commands) for row in fleet.saved] == [
        ("nginx -t", exit_code, 1)
    ]


async def test_a_commands_row_which_its_agent_reads_holds_no_words_of_our_hosts() -> None:
    fleet = Fleet(0)
    lost = HypervisorDown("host kvm-01 (10.20.0.5): /root/.ssh/id is refused", remedy="mend it")
    fleet._commands.run.side_effect = lost  # type: ignore[attr-defined]
    command = Command(id="CMD-1", sandbox_id="SBX-1", command="true", started_at=now())
    with pytest.raises(HypervisorDown, match="kvm-01"):
        await fleet._execute(ROW, command, CommandRequest(command="true"), 5, None)
    assert command.metadata["failure"] == HypervisorDown.agents_hear
