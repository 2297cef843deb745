"""What agents' terminals showed: listed, and read as asciicast."""

from __future__ import annotations

import asyncio
import gzip

from fastapi import Request, Response

from backend.api.common import Caller, RecordingId, Served, answer, router
from backend.models import Recording

operator = router("recordings")

ASCIICAST = "application/x-asciicast"
NOT_A_PAGE = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


@operator.get("/v1/recordings")
async def recordings(caller: Caller, services: Served, sandbox_id: str | None = None) -> Response:
    """Newest first, those of destroyed sandboxes too."""
    return answer({"recordings": await services.recordings.list(caller, sandbox_id)})


@operator.get("/v1/recordings/{id}", response_model=Recording)
async def recording(caller: Caller, services: Served, id: RecordingId) -> Response:
    return answer(await services.recordings.get(caller, id))


@operator.get("/v1/recordings/{id}/cast")
async def cast(request: Request, caller: Caller, services: Served, id: RecordingId) -> Response:
    """The whole as an asciicast of version 2, its secrets withheld. Its events are a guest's raw output."""
    data = (await services.recordings.cast(caller, id)).encode("ascii")
    headers = dict(NOT_A_PAGE)
    if "gzip" in request.headers.get("accept-encoding", ""):
        data = await asyncio.to_thread(gzip.compress, data, 6)
        headers["content-encoding"] = "gzip"
    return Response(data, media_type=ASCIICAST, headers=headers)
