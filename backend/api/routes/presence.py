"""Who looks at what: consoles say where they are, and learn who else is there."""

from __future__ import annotations

from fastapi import Response

from backend.api.bodies import PresenceBody
from backend.api.common import Caller, Served, answer, router
from backend.models import PresenceView

operator = router("presence")


@operator.get("/v1/presence", response_model=PresenceView)
async def here(caller: Caller, services: Served) -> Response:
    return answer(PresenceView(uid=caller.uid, name=caller.name, here=list(services.onlookers.here())))


@operator.post("/v1/presence", response_model=PresenceView)
async def look(caller: Caller, services: Served, body: PresenceBody) -> Response:
    """One console of the caller's looks at ``id`` on the screen ``place`` (empty: it leaves). It is forgotten
    after 15 s unless it says so again."""
    found = await services.onlookers.look(caller, body.console, body.place, body.id)
    return answer(PresenceView(uid=caller.uid, name=caller.name, here=list(found)))
