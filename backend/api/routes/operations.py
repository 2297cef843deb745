"""What an operator watches: the fleet, its events, runs, the audit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated

from fastapi import Query, Request, Response
from starlette.responses import StreamingResponse

from backend import __version__
from backend.api import sse
from backend.api.common import Caller, Limit, RunId, Served, answer, router
from backend.api.view import fleet_view
from backend.audit import SignedHead
from backend.errors import InvalidValue
from backend.models import Approval, FleetView, PanicView, Run
from backend.store import Subscription

HEAD_CHARS = 1024

operator = router("operations")


@operator.get("/v1/fleet", response_model=FleetView)
async def fleet(caller: Caller, services: Served) -> Response:
    """Everything that the console draws, at one event number."""
    return answer(await fleet_view(services, caller))


@operator.get("/v1/status")
async def status(caller: Caller, services: Served) -> Response:
    """The counts and the parts, small enough for a prompt or a probe."""
    view = await fleet_view(services, caller)
    phases = [sandbox.phase.value for sandbox in view.sandboxes]
    return answer(
        {
            "version": __version__,
            "sandboxes": {phase: phases.count(phase) for phase in sorted(set(phases))},
            "waiting": sum(one.state.value == "pending" for one in view.approvals)
            + sum(one.status.value == "pending" for one in view.asks),
            "hosts": [
                {"name": host.name, "status": host.status, "virt": host.virt_type} for host in view.hosts
            ],
            "components": view.components,
            "audit": {"ok": view.audit_ok, "rows": view.audit_rows},
        }
    )


@operator.post("/v1/panic", response_model=PanicView)
async def panic(caller: Caller, services: Served) -> Response:
    """Pause every sandbox and let no apply start, until it is released."""
    return answer(await services.panic.start(caller))


@operator.post("/v1/panic/release", response_model=PanicView)
async def release_panic(caller: Caller, services: Served) -> Response:
    return answer(await services.panic.release(caller))


@operator.get("/v1/events")
async def events(
    request: Request, caller: Caller, services: Served, after: Annotated[int | None, Query(ge=0)] = None
) -> Response:
    """Server-sent events from ``Last-Event-ID`` (or ``after``) on. ``events.gap``: some are lost."""
    resume_after = sse.last_event_id(request, after)
    begins = sse.place(services.events.last_seq) if resume_after is None else b""
    return sse.stream(request, _frames(services.events.subscribe(resume_after), begins))


async def _frames(feed: Subscription, begins: bytes) -> AsyncIterator[bytes]:
    with feed:
        if begins:
            yield begins
        async for event in feed:
            yield sse.frame(event, event=event.kind, id=event.seq)


@operator.get("/v1/runs/{id}", response_model=Run)
async def read_run(caller: Caller, services: Served, id: RunId) -> Response:
    return answer(await services.runs.get(caller, id))


@operator.post("/v1/runs/{id}/rollback", status_code=202, response_model=Approval)
async def roll_back(
    caller: Caller, services: Served, id: RunId, target: Annotated[str, Query(max_length=63)] = ""
) -> Response:
    """A request, like any other, to take an apply back, on all of its targets or on one; its rehearsal has
    begun."""
    return answer(await services.approvals.request_rollback(caller, id, target), 202)


@operator.post("/v1/runs/{id}/cancel", response_model=Run)
async def cancel_run(caller: Caller, services: Served, id: RunId) -> Response:
    """End Ansible cleanly; the run says what was done where."""
    return answer(await services.runs.cancel(caller, id))


@operator.get("/v1/audit")
async def audit(
    services: Served,
    sandbox_id: str | None = None,
    action: str | None = None,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Limit = 200,
) -> Response:
    wanted = {"sandbox_id": sandbox_id, "action": action}
    filters = {name: value for name, value in wanted.items() if value is not None}
    rows, total = await services.audit.list(limit=limit, after_seq=after, **filters)
    return answer({"rows": rows, "total": total})


@operator.get("/v1/audit/verify")
async def verify_audit(
    services: Served, head: Annotated[str | None, Query(max_length=HEAD_CHARS)] = None
) -> Response:
    """Walks the whole chain, and says which row is the first bad one. ``head``: a signed head that was kept
    elsewhere, as JSON."""
    try:
        kept = SignedHead.read(head) if head is not None else None
    except ValueError as error:
        raise InvalidValue(
            "`head` is not a signed head of the audit", remedy="send an audit.head whole"
        ) from error
    return answer(asdict(await services.audit.verify(kept=kept)))


@operator.get("/v1/audit/export")
async def export_audit(services: Served) -> Response:
    """Every row, one JSON object a line."""
    return StreamingResponse(services.audit.export(), media_type="application/x-ndjson")
