"""The one view that the console draws, put together from every service at one event number."""

from __future__ import annotations

from backend.api.services import Services
from backend.models import FleetView, Identity, now

KEPT_OVER = 20


async def fleet_view(services: Services, actor: Identity) -> FleetView:
    """What is live, and the last few requests that ended: a request is looked at again after its apply."""
    seq = services.events.last_seq  # before the reads: what changes meanwhile comes again as an event
    sandboxes, _ = await services.fleet.list(actor, limit=10_000)
    approvals = await services.approvals.list(actor, over=KEPT_OVER)
    audit = services.audit_seen()
    return FleetView(
        seq=seq,
        at=now(),
        hosts=list(await services.fleet.hosts()),
        sandboxes=list(sandboxes),
        approvals=list(approvals),
        asks=list(await services.asks.list(actor)),
        panes=list(await services.panes.list(actor)),
        components=await services.components(),
        audit_ok=audit.ok,
        audit_rows=audit.rows,
    )
