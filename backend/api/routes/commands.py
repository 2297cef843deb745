"""Commands in a guest: run one and wait, run one and watch, look at what ran."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator

from fastapi import Request, Response

from backend.api import sse
from backend.api.common import Caller, CommandId, Limit, Offset, SandboxId, Served, answer, router
from backend.api.services import Services
from backend.errors import InvalidValue
from backend.models import Command, CommandRequest, Identity

agent = router("commands")

QUEUED_CHUNKS = 1024
"""A reader that lags further than this misses output; the record of the command holds it."""


@agent.post("/v1/sandboxes/{id}/command")
@agent.post("/v1/sandboxes/{id}/run")
async def run(
    request: Request, caller: Caller, services: Served, id: SandboxId, body: CommandRequest
) -> Response:
    """200 whatever the exit status. ``stream`` answers with events: ``output`` as it comes, then
    ``command``."""
    if body.private_key_path is not None:
        raise InvalidValue(
            "private_key_path: a path on the control node is not the caller's",
            remedy="leave it out: the backend holds the key of each guest",
        )
    if "\0" in body.command:
        raise InvalidValue("command: a NUL byte cannot be part of a command", remedy="send it on `stdin`")
    if body.stream:
        return sse.stream(request, _streamed(request, caller, services, id, body))
    return answer({"command": await services.fleet.run(caller, id, body)})


@agent.get("/v1/sandboxes/{id}/commands")
async def list_commands(
    caller: Caller, services: Served, id: SandboxId, limit: Limit = 100, offset: Offset = 0
) -> Response:
    found, total = await services.fleet.commands(caller, id, limit, offset)
    return answer({"commands": found, "total": total})


@agent.get("/v1/commands/{id}")
async def read(caller: Caller, services: Served, id: CommandId) -> Response:
    return answer({"command": await services.fleet.command(caller, id)})


async def _streamed(
    request: Request, caller: Identity, services: Services, id: str, body: CommandRequest
) -> AsyncIterator[bytes]:
    """Output while the command runs, which it does to its end whether or not the reader stays."""
    chunks: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(QUEUED_CHUNKS)
    missed, has_left = 0, False

    def on_output(name: str, data: bytes) -> None:
        nonlocal missed
        if has_left:
            return
        try:
            chunks.put_nowait((name, data))
        except asyncio.QueueFull:
            missed += len(data)

    async def work() -> Command:
        try:
            return await services.fleet.run(caller, id, body, on_output)
        finally:
            await chunks.put(None)

    task = asyncio.create_task(work())
    running: set[asyncio.Task[Command]] = request.app.state.running
    running.add(task)
    task.add_done_callback(running.discard)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}
    try:
        while (chunk := await chunks.get()) is not None:
            name, data = chunk
            if text := decoders[name].decode(data):
                yield sse.frame({"stream": name, "text": text}, event="output")
        yield sse.frame({"command": await task, "missed_bytes": missed}, event="command")
    finally:
        has_left = True
        _drain(chunks)


def _drain(chunks: asyncio.Queue[tuple[str, bytes] | None]) -> None:
    """Make room, so that the end of a command whose reader left is not held up."""
    while not chunks.empty():
        chunks.get_nowait()
