"""Server-sent events (HTML Living Standard §9.2): frames out, a beat when quiet, an end when we stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from pydantic_core import to_json
from starlette.responses import StreamingResponse

from backend.api.problems import heard
from backend.errors import BadRequest, FluidError

MAX_EVENT_ID_DIGITS = 18  # fits a bigint
HEARTBEAT_S = 15.0
HEARTBEAT = b": beat\n\n"


def frame(data: Any, *, event: str = "", id: int | None = None) -> bytes:
    """One event. JSON has no bare newline, so ``data`` is always one line."""
    head = b"id: %d\n" % id if id is not None else b""
    if event:
        head += b"event: " + event.encode() + b"\n"
    return head + b"data: " + to_json(data) + b"\n\n"


def place(id: int) -> bytes:
    """Where a reader goes on that is cut before it heard of an event: an id without data is none."""
    return b"id: %d\n\n" % id


def stream(request: Request, frames: AsyncIterator[bytes]) -> StreamingResponse:
    """The response of a stream; it ends when the reader leaves or the backend stops."""
    stopping: asyncio.Event = request.app.state.stopping
    return StreamingResponse(
        _until(frames, stopping, request),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def _until(
    frames: AsyncIterator[bytes], stopping: asyncio.Event, request: Request
) -> AsyncIterator[bytes]:
    """``frames`` with beats between. One task reads ahead, so that a beat never cancels the source."""
    stop = asyncio.create_task(stopping.wait())
    upcoming = asyncio.ensure_future(anext(frames, None))
    try:
        yield HEARTBEAT
        while True:
            await asyncio.wait({upcoming, stop}, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                return
            if not upcoming.done():
                yield HEARTBEAT
                continue
            try:
                sent = upcoming.result()
            except FluidError as error:  # the status line is gone: the error is the last event
                yield frame(heard(error, request).body(request.state.request_id), event="error")
                return
            if sent is None:
                return
            yield sent
            upcoming = asyncio.ensure_future(anext(frames, None))
    finally:
        stop.cancel()
        upcoming.cancel()
        await asyncio.gather(stop, upcoming, return_exceptions=True)


def last_event_id(request: Request, after: int | None) -> int | None:
    """Where a reader resumes: its ``Last-Event-ID`` header, else ``after``."""
    header = request.headers.get("last-event-id", "")
    if not (header.isascii() and header.isdigit()):
        return after
    if len(header) > MAX_EVENT_ID_DIGITS:
        raise BadRequest(
            f"Last-Event-ID is longer than {MAX_EVENT_ID_DIGITS} digits",
            remedy="send the id of the last event, or none",
        )
    return int(header)
