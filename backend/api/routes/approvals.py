"""Requests for approval. The routes that decide are the operator's router, which no other door mounts."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response

from backend.api.bodies import ApproveBody, RejectBody
from backend.api.common import ApprovalId, Caller, Served, WaitSeconds, answer, router, while_connected
from backend.models import Approval, ApprovalRequest

agent = router("approvals")
operator = router("approvals")


@agent.post("/v1/approvals", status_code=202, response_model=Approval)
async def request_approval(caller: Caller, services: Served, body: ApprovalRequest) -> Response:
    """Starts the rehearsal; 202 with the approval as it stands."""
    return answer(await services.approvals.request(caller, body), 202)


@agent.get("/v1/approvals")
async def list_approvals(
    caller: Caller, services: Served, requester_uid: Annotated[int | None, Query(ge=0)] = None
) -> Response:
    """Those that are open and the last 500 that ended, of one requester or of all."""
    found = await services.approvals.list(caller, requester_uid=requester_uid)
    return answer({"approvals": found, "total": len(found)})


@agent.get("/v1/approvals/{id}", response_model=Approval)
async def read(
    request: Request, caller: Caller, services: Served, id: ApprovalId, wait: WaitSeconds = 0
) -> Response:
    """The approval; with ``wait`` once its state changes, or after that many seconds."""
    if wait == 0:
        return answer(await services.approvals.get(caller, id))
    return answer(await while_connected(request, services.approvals.wait(caller, id, wait)))


@agent.delete("/v1/approvals/{id}", response_model=Approval)
async def withdraw(caller: Caller, services: Served, id: ApprovalId) -> Response:
    return answer(await services.approvals.withdraw(caller, id))


@operator.post("/v1/approvals/{id}/dry-run", response_model=Approval)
async def dry_run(caller: Caller, services: Served, id: ApprovalId) -> Response:
    """Check mode on each target, now."""
    return answer(await services.approvals.dry_run(caller, id))


@operator.post("/v1/approvals/{id}/approve", response_model=Approval)
async def approve(caller: Caller, services: Served, id: ApprovalId, body: ApproveBody) -> Response:
    """Bound to ``digest``: evidence that has moved on since is 409."""
    secrets = {name: value.get_secret_value() for name, value in body.secrets.items()}
    return answer(await services.approvals.approve(caller, id, body.digest, body.comment, secrets))


@operator.post("/v1/approvals/{id}/reject", response_model=Approval)
async def reject(caller: Caller, services: Served, id: ApprovalId, body: RejectBody) -> Response:
    decided = services.approvals.reject(caller, id, body.reason, body.changes_requested)
    return answer(await decided)


@operator.get("/v1/approvals/{id}/pack")
async def pack(caller: Caller, services: Served, id: ApprovalId) -> Response:
    """All evidence of one request, to be kept or verified elsewhere."""
    return answer(await services.approvals.pack(caller, id))
