"""An agent's terminal in a real guest is recorded through a kill -9 of the backend, and plays afterwards."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from backend.client import AsyncFluid
from backend.images import Images
from backend.models import Pane, Sandbox
from backend.paths import Paths
from tests.bench.stage import Stage

pytestmark = pytest.mark.full

NAME = "recorded"
TOKEN = f"ghp_{'a1B2' * 9}"
LIMIT_S, LOOK_S, DOWN_S = 120, 0.2, 3.0


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    cache = Paths.default()
    await Images(cache.images).build(progress=lambda _: None)
    async with Stage(cache.cache) as made:
        await made.start()
        yield made


class Recorded:
    """The agent that types into its terminal, and the operator who reads what was recorded."""

    def __init__(self, stage: Stage, box: Sandbox, pane: Pane) -> None:
        self._stage, self.box, self.pane = stage, box, pane
        self.agent, self.operator = (
            AsyncFluid(stage.paths.agent_socket),
            AsyncFluid(stage.paths.operator_socket),
        )

    async def types(self, text: str, shows: str) -> None:
        await self.agent.send_keys(self.pane.pane_id, f"{text}\n")

        async def shown() -> bool:
            return shows in await self.cast()

        await until(shown, f"{shows!r} after {text!r}")

    async def cast(self) -> str:
        """What is recorded of it so far, as an operator reads it."""
        found = await self.operator.recordings(self.box.id)
        return (await self.operator.recording_cast(found[0].id)).decode("ascii") if found else ""

    def fluid(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "backend.cli", *words],
            env=self._stage.environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        return done.stdout


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(LIMIT_S):
            while not await holds():
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        pytest.fail(f"never: {what}")


async def opened(stage: Stage) -> Recorded:
    agent = AsyncFluid(stage.paths.agent_socket)

    async def ready() -> bool:
        return any(one.template_ready for one in await agent.sources())

    await until(ready, "there is a source")
    box = await agent.create((await agent.sources())[0].name, agent_id="e2e", name=NAME)
    return Recorded(stage, box, await agent.open_pane(box.id))


async def test_a_recording_goes_on_after_a_kill_and_plays(stage: Stage, tmp_path: Path) -> None:
    seen = await opened(stage)
    await seen.agent.run(seen.box.id, f"echo {TOKEN} > /root/token")
    await seen.types("echo be''fore; cat /root/token", "before")
    await seen.types("sleep 1; echo be''fore the kill", "before the kill")
    await seen.agent.send_keys(seen.pane.pane_id, "sleep 1; echo mean''while\n")
    await stage.kill()
    await asyncio.sleep(DOWN_S)  # its guest types on, and nobody is there to hear it
    await stage.start()
    await seen.types("echo af''ter", "after")

    [recording] = await seen.operator.recordings()
    assert (recording.sandbox_name, recording.pane_id, recording.ended_at) == (NAME, seen.pane.pane_id, None)
    files = [path for path in stage.paths.recordings.rglob("*") if path.is_file()]
    assert files and {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert TOKEN in "".join(path.read_text() for path in files if path.suffix == ".cast"), (
        "withheld on reading"
    )

    file = tmp_path / "session.cast"
    seen.fluid("recordings", "export", NAME, "--to", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    head, *events = map(json.loads, file.read_text().splitlines())
    assert (head["version"], head["width"], head["height"]) == (2, seen.pane.width, seen.pane.height)
    times = [at for at, _, _ in events]
    assert times == sorted(times) and {code for _, code, _ in events} <= {"o", "r", "m"}
    printed = "".join(data for _, code, data in events if code == "o")
    assert TOKEN not in printed and "*" * len(TOKEN) in printed

    played = seen.fluid("replay", str(file), "--plain").splitlines()
    told = ["before", "*" * len(TOKEN), "before the kill", "meanwhile", "after"]
    assert [row for row in played if row in told][-len(told) :] == told

    await seen.agent.close_pane(seen.pane.pane_id)

    async def over() -> bool:
        return (await seen.operator.recordings())[0].ended_at is not None

    await until(over, "it has ended with its terminal")
