"""What the routers share: who calls, what serves, how an answer is written, and idempotency keys."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic_core import to_json

from backend.api.services import Services
from backend.errors import (
    ApprovalNotFound,
    BadRequest,
    FluidError,
    NotFound,
    PaneNotFound,
    PlaybookNotFound,
    RecordingNotFound,
    RunNotFound,
    SandboxNotFound,
)
from backend.models import Identity
from backend.store import KeptAnswer

ID = re.compile(r"[A-Z]{3}-[0-9a-f]{8,32}")
PANE_ID = re.compile(r"%[0-9]{1,9}")
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
MAX_KEYED_CHARS = 500  # in UTF-8 with the longest key under what PostgreSQL indexes, 2,704 bytes
T = TypeVar("T")


async def _caller(request: Request) -> Identity:
    identity: Identity = request.state.identity
    return identity


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Caller = Annotated[Identity, Depends(_caller)]
Served = Annotated[Services, Depends(_services)]


async def _no_panic(caller: Caller, services: Served) -> None:
    services.panic.refuse_agent(caller)


WAKES = [Depends(_no_panic)]
"""Of a route that has a sandbox running afterwards: agents have none of these while a panic lasts."""


def _id_of(what: str, kind: type[NotFound], remedy: str) -> Any:
    """The path parameter ``id``; anything else names nothing, which is 404 before any look-up."""

    async def check(id: str) -> str:
        if ID.fullmatch(id):
            return id
        raise kind(f"no {what} {id!a}", remedy=remedy)

    return Depends(check)


SandboxId = Annotated[str, _id_of("sandbox", SandboxNotFound, "GET /v1/sandboxes lists yours")]
CommandId = Annotated[str, _id_of("command", NotFound, "GET /v1/sandboxes/{id}/commands lists yours")]
ChangesId = Annotated[str, _id_of("change", NotFound, "POST /v1/sandboxes/{id}/diff makes one")]
PlaybookId = Annotated[str, _id_of("playbook", PlaybookNotFound, "GET /v1/playbooks lists yours")]
ApprovalId = Annotated[str, _id_of("approval", ApprovalNotFound, "GET /v1/approvals lists yours")]
AskId = Annotated[str, _id_of("question", ApprovalNotFound, "GET /v1/human/pending lists yours")]
RecordingId = Annotated[str, _id_of("recording", RecordingNotFound, "GET /v1/recordings lists them")]
RunId = Annotated[str, _id_of("run", RunNotFound, "an approval names its runs")]

Limit = Annotated[int, Query(ge=1, le=10_000)]
Offset = Annotated[int, Query(ge=0, le=2**31)]
WaitSeconds = Annotated[float, Query(ge=0, le=3600, description="block up to this long for a change")]


def check_pane(pane_id: str) -> str:
    """tmux's own id of a pane, or :class:`PaneNotFound`."""
    if PANE_ID.fullmatch(pane_id):
        return pane_id
    raise PaneNotFound(f"no pane {pane_id!a}", remedy="GET /v1/tmux/panes lists yours")


def answer(value: BaseModel | dict[str, Any], status: int = 200) -> Response:
    """A JSON response, written by pydantic's own serialiser without validating our own nouns again."""
    return Response(to_json(value), status, media_type="application/json")


def answer_list(noun: str, rows: Iterable[bytes], total: int) -> Response:
    """A page of rows that are JSON already: ``{noun: [row, …], "total": total}``."""
    body = b'{"%b":[%b],"total":%d}' % (noun.encode(), b",".join(rows), total)
    return Response(body, media_type="application/json")


async def while_connected(request: Request, waiting: Coroutine[Any, Any, T]) -> T:
    """The result of a wait that is dropped when its caller hangs up. Not for work: work is finished."""
    task = asyncio.create_task(waiting)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise BadRequest("the caller went away", remedy="ask again")
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class KeyedRoute(APIRoute):
    """A POST with an ``Idempotency-Key`` is carried out once; its repetition gets the same answer."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def keyed(request: Request) -> Response:
            key = request.headers.get("idempotency-key")
            if key is None or request.method != "POST":
                return await handle(request)
            if not IDEMPOTENCY_KEY.fullmatch(key):
                raise BadRequest(
                    "Idempotency-Key is not 1 to 255 printable ASCII characters", remedy="send a UUID"
                )
            return await _once(request, key, handle)

        return keyed


async def _once(request: Request, key: str, handle: Callable[[Request], Awaitable[Response]]) -> Response:
    services: Services = request.app.state.services
    url = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if len(url) > MAX_KEYED_CHARS:
        raise BadRequest(
            f"an Idempotency-Key is of a path and query of up to {MAX_KEYED_CHARS} characters",
            remedy="send a shorter one, or no key",
        )
    scope = f"{request.state.identity.uid} {request.method} {url}"
    body = await request.body()
    kept = await services.keys.claim(scope, key, body)
    if kept is not None:
        return Response(kept.body, kept.status, {"idempotent-replay": "true"}, "application/json")
    try:
        response = await handle(request)
        whole = getattr(response, "body", None)  # a stream has none, and cannot be given again
        if isinstance(whole, bytes) and response.status_code < FluidError.status:
            await services.keys.keep(scope, key, KeptAnswer(response.status_code, whole.decode()))
        else:
            await services.keys.release(scope, key)
    except BaseException:
        await asyncio.shield(services.keys.release(scope, key))
        raise
    return response


def router(tag: str) -> APIRouter:
    """A router of one noun."""
    return APIRouter(tags=[tag], route_class=KeyedRoute)
