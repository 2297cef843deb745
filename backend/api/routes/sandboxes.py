"""Sandboxes: create, read, start, stop, pause, resume, extend, destroy, watch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Body, Header, Query, Request, Response

from backend.api import sse
from backend.api.bodies import ExtendBody, StartBody
from backend.api.common import WAKES, Caller, Limit, Offset, SandboxId, Served, answer, answer_list, router
from backend.errors import UpgradeRequired, WrongState
from backend.models import CreateSandbox, Phase, Sandbox, now
from backend.store import Subscription

agent = router("sandboxes")

MAX_COMMANDS_INCLUDED = 1000


@agent.post("/v1/sandboxes", status_code=201, dependencies=WAKES)
async def create(caller: Caller, services: Served, body: CreateSandbox) -> Response:
    """A fork of a source. ``auto_start`` and ``wait_for_ip`` decide how long the call blocks."""
    sandbox = await services.fleet.create(caller, body)
    return answer({"sandbox": sandbox, "ip_address": sandbox.ip_address}, 201)


@agent.get("/v1/sandboxes")
async def list_sandboxes(
    caller: Caller,
    services: Served,
    agent_id: str | None = None,
    job_id: str | None = None,
    base_image: str | None = None,
    state: str | None = None,
    host_name: str | None = None,
    vm_name: str | None = None,
    limit: Limit = 1000,
    offset: Offset = 0,
) -> Response:
    """The caller's sandboxes (an operator's: everyone's); ``total`` counts all that match."""
    found, total = await services.fleet.seen(
        caller,
        agent_id=agent_id,
        job_id=job_id,
        base_image=base_image,
        state=state,
        host_name=host_name,
        vm_name=vm_name,
        limit=limit,
        offset=offset,
    )
    return answer_list("sandboxes", [row.json for row in found], total)


@agent.get("/v1/sandboxes/{id}")
async def read(caller: Caller, services: Served, id: SandboxId, include_commands: bool = False) -> Response:
    body: dict[str, Any] = {"sandbox": await services.fleet.get(caller, id)}
    if include_commands:
        body["commands"], _ = await services.fleet.commands(caller, id, MAX_COMMANDS_INCLUDED, 0)
    return answer(body)


@agent.delete("/v1/sandboxes/{id}")
async def destroy(caller: Caller, services: Served, id: SandboxId) -> Response:
    """Gone with its disk and its snapshots. A second time: 404."""
    sandbox = await services.fleet.destroy(caller, id)
    return answer(
        {
            "state": "DESTROYED",
            "base_image": sandbox.base_image,
            "sandbox_name": sandbox.sandbox_name,
            "ttl_seconds": sandbox.ttl_seconds,
        }
    )


@agent.get("/v1/sandboxes/{id}/ip")
async def address(caller: Caller, services: Served, id: SandboxId) -> Response:
    sandbox = await services.fleet.get(caller, id)
    if sandbox.phase is not Phase.RUNNING or not sandbox.ip_address:
        raise WrongState(
            f"{id} is {sandbox.phase.value} and has no address", remedy=f"POST /v1/sandboxes/{id}/start"
        )
    return answer({"ip_address": sandbox.ip_address})


@agent.post("/v1/sandboxes/{id}/start", dependencies=WAKES)
async def start(
    caller: Caller, services: Served, id: SandboxId, body: Annotated[StartBody | None, Body()] = None
) -> Response:
    sandbox = await services.fleet.start(caller, id)
    return answer({"ip_address": sandbox.ip_address, "sandbox": sandbox})


@agent.post("/v1/sandboxes/{id}/stop")
async def stop(caller: Caller, services: Served, id: SandboxId) -> Response:
    return _told(await services.fleet.stop(caller, id))


@agent.post("/v1/sandboxes/{id}/pause")
async def pause(caller: Caller, services: Served, id: SandboxId) -> Response:
    """Freeze it as it is; its memory stays."""
    return _told(await services.fleet.pause(caller, id))


@agent.post("/v1/sandboxes/{id}/resume", dependencies=WAKES)
async def resume(caller: Caller, services: Served, id: SandboxId) -> Response:
    return _told(await services.fleet.resume(caller, id))


@agent.post("/v1/sandboxes/{id}/extend")
async def extend(caller: Caller, services: Served, id: SandboxId, body: ExtendBody) -> Response:
    """Push its end back, within policy."""
    return _told(await services.fleet.extend(caller, id, body.seconds))


@agent.get("/v1/sandboxes/{id}/stream")
async def watch(
    request: Request,
    caller: Caller,
    services: Served,
    id: SandboxId,
    accept: Annotated[str, Header()] = "",
    after: Annotated[int | None, Query(ge=0)] = None,
) -> Response:
    """What happens in the sandbox as server-sent events, also that an operator types into a terminal of the
    caller's (``pane``: ``taken``, ``by``, ``words``); resumes from ``Last-Event-ID``."""
    await services.fleet.get(caller, id)
    if "text/event-stream" not in accept:
        raise UpgradeRequired(
            "a stream does not fit a plain answer", remedy="send `Accept: text/event-stream`"
        )
    resume_after = sse.last_event_id(request, after)
    return sse.stream(request, _frames(services.events.subscribe(resume_after), id))


_FRAME_TYPES = {
    "command.started": "command_start",
    "command.output": "command_output",
    "command.ended": "command_end",
    "pane.taken": "pane",
    "pane.handed_back": "pane",
}
_NOUN_TYPES = {"snapshot": "snapshot", "sandbox": "state"}


async def _frames(feed: Subscription, id: str) -> AsyncIterator[bytes]:
    yield sse.frame({"type": "connected", "timestamp": now(), "sandbox_id": id, "data": {}})
    with feed:
        async for event in feed:
            kind = _FRAME_TYPES.get(event.kind) or _NOUN_TYPES.get(event.noun)
            if kind and event.sandbox_id == id:
                told = {"type": kind, "timestamp": event.at, "sandbox_id": id, "data": event.data}
                yield sse.frame(told, id=event.seq)


def _told(sandbox: Sandbox) -> Response:
    return answer({"sandbox": sandbox})
