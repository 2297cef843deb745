"""Two operators, two real uids, each with the real console in a terminal of its own on one real backend."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from backend.client import AsyncFluid
from backend.models import AskState
from tests.bench.stage import Stage, name_of, sandbox_id
from tests.bench.terminal import SlowTerminal

OTHER = "games"  # a user and a group of every machine
CONSOLE = (sys.executable, "-P", "-m", "backend.cli")
# It may read a checkout and an interpreter that lie in somebody's home; a socket wants the right to write.
AS_OTHER = (
    *("setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--"),
)
RATE = 10_000_000  # as fast as a line can be
PROMPT = "Drop the old cluster?"
ENTER, ESCAPE = b"\r", b"\x1b"
SETTLED_S, ARMED_S = 0.3, 1.0  # a dialog takes nothing that was typed before it stood there
LIMIT_S = 60.0


@contextmanager
def _consoles(stage: Stage, home: Path) -> Iterator[list[SlowTerminal]]:
    """Root's, and the other's."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                SlowTerminal([*before, *CONSOLE], stage.environment | {"HOME": at}, 120, 30, rate=RATE)
            )
            for before, at in (((), str(home)), (AS_OTHER, "/nonexistent"))
        ]


def _press(seen: SlowTerminal, key: bytes) -> None:
    seen.settle(SETTLED_S)
    seen.press(key)


@pytest.mark.full
async def test_two_operators_see_each_other_and_what_the_other_decided_and_what_is_new_after_a_restart(
    tmp_path: Path,
) -> None:
    config = {
        "server": {"socket_group_operators": OTHER, "socket_group_agents": OTHER},
        "operators": ["root", OTHER],
    }
    async with Stage(**config) as stage:
        await stage.fill(3)
        await stage.start()
        with _consoles(stage, tmp_path) as seen:
            async with AsyncFluid(stage.paths.agent_socket) as agent:
                asking = asyncio.create_task(agent.ask(PROMPT, sandbox_id=sandbox_id(0)))
                await asyncio.to_thread(_decide, *seen)
                answer = await asyncio.wait_for(asking, LIMIT_S)
                assert (answer.status, answer.approved_by) == (AskState.APPROVED, OTHER)
            await stage.kill()
            await asyncio.to_thread(_both_show, seen, "backend not reachable since", name_of(2))
            async with stage.store() as store:
                row = await store.sandboxes.get(sandbox_id(2))
                await store.sandboxes.save(row.model_copy(update={"sandbox_name": "renamed-meanwhile"}))
            await stage.start()
            await asyncio.to_thread(_both_show, seen, "audit ok", "renamed-meanwhile")
            assert not [one for one in seen if "not reachable" in "\n".join(one.screen)]
            async with AsyncFluid(stage.paths.operator_socket) as operator:
                await operator.extend(sandbox_id(1), 7 * 3600 + 1800)
            await asyncio.to_thread(_both_show, seen, "7h")


def _decide(mine: SlowTerminal, theirs: SlowTerminal) -> None:
    for seen in (mine, theirs):
        seen.shows(name_of(0), PROMPT, "1 need")
        _press(seen, ENTER)
        seen.shows("who  ", PROMPT)
    mine.shows(f"also here: {OTHER}")
    theirs.shows("also here: root")
    _press(theirs, b"y")
    theirs.shows("A note for the agent")
    theirs.settle(ARMED_S)
    theirs.press(ENTER)
    mine.shows(f"{OTHER} approved it just now: nothing is left to decide")
    theirs.shows("The agent is told.")
    for seen in (mine, theirs):
        _press(seen, ESCAPE)
        seen.shows(name_of(0))


def _both_show(consoles: list[SlowTerminal], *words: str) -> None:
    for seen in consoles:
        seen.shows(*words)
