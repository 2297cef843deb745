"""Terminals: each pane is a shell in a guest of the caller, never on the control node."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response

from backend.api import sse
from backend.api.bodies import PaneBody, ReadPaneBody, SendKeysBody
from backend.api.common import Caller, Served, answer, check_pane, router
from backend.api.typing_stream import TypingStream
from backend.errors import BadRequest
from backend.models import Pane, PaneScreen

operator = router("panes")
_streaming = APIRouter(tags=["panes"])  # its body has no end that an Idempotency-Key could wait for
_tmux = router("panes")


@_tmux.get("/panes")
async def list_panes(caller: Caller, services: Served) -> Response:
    return answer({"panes": await services.panes.list(caller)})


@_tmux.post("/panes/create", status_code=201, response_model=Pane)
async def create(caller: Caller, services: Served, body: PaneBody) -> Response:
    return answer(await services.panes.open(caller, body.sandbox_id), 201)


@_tmux.delete("/panes/{pane_id}", status_code=204)
async def close(caller: Caller, services: Served, pane_id: str) -> Response:
    await services.panes.close(caller, check_pane(pane_id))
    return Response(status_code=204)


@_tmux.post("/panes/send-keys")
async def send_keys(caller: Caller, services: Served, body: SendKeysBody) -> Response:
    """Type literal ``text``, or press one ``key`` of the allowed list."""
    if (body.text is None) == (body.key is None):
        raise BadRequest("send `text` or `key`, one of them", remedy='for example {"key": "Enter"}')
    await services.panes.send(caller, check_pane(body.pane_id), text=body.text, key=body.key)
    return answer({"sent": True, "pane_id": body.pane_id})


@_tmux.post("/panes/read")
async def read(caller: Caller, services: Served, body: ReadPaneBody) -> Response:
    """What the pane shows, or its last lines with history."""
    rows = await services.panes.read(caller, check_pane(body.pane_id), body.last_n_lines)
    return answer({"pane_id": body.pane_id, "content": "\n".join(rows), "lines": len(rows)})


@operator.get("/v1/panes/{pane_id}/stream")
async def stream(
    request: Request, caller: Caller, services: Served, pane_id: str, deltas: bool = False
) -> Response:
    """The pane's rows and its cursor, now and after each change, as server-sent events ``rows``. With
    ``deltas`` events ``changed`` follow the first, of the rows that differ alone."""
    screens = services.panes.screens(caller, check_pane(pane_id))
    return sse.stream(request, _frames(screens, deltas))


async def _frames(screens: AsyncIterator[PaneScreen], deltas: bool) -> AsyncIterator[bytes]:
    before = None
    async for screen in screens:
        change = screen.since(before) if before and deltas else None
        yield sse.frame(change or screen, event="changed" if change else "rows")
        before = screen


@_streaming.post("/v1/panes/{pane_id}/take-over")
async def take_over(
    request: Request, caller: Caller, services: Served, pane_id: str, force: bool = False
) -> Response:
    """Type instead of the agent: the body's bytes, sent in chunks for as long as it lasts, as they come. The
    answer begins at once with an event ``taken``; ``ended`` says why it is over. The end of the body hands
    the pane back, and so does a connection that breaks. ``force`` takes it from another operator."""
    return TypingStream(request, services.panes.take_over(caller, check_pane(pane_id), force))


operator.include_router(_streaming)


@operator.post("/v1/panes/{pane_id}/hand-back", response_model=Pane)
async def hand_back(caller: Caller, services: Served, pane_id: str) -> Response:
    """The pane is its agent's again, whoever typed there."""
    return answer(await services.panes.hand_back(caller, check_pane(pane_id)))


agent = APIRouter()
for _prefix in ("/v1/tmux", "/api/v1/tmux"):
    agent.include_router(_tmux, prefix=_prefix)
