"""Both ways over one connection: what an operator types comes in the request's body while the answer tells
how it stands. HTTP allows an answer that begins before the body has ended (RFC 9110 §7.5), and so does ASGI.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backend.api import sse
from backend.api.services import TakeOver
from backend.models import TakeOverEnd
from backend.panes import Why


class TypingStream(Response):
    """Lives as long as ``taking`` does, which it enters: a refusal is still an ordinary answer."""

    media_type = "text/event-stream"

    def __init__(self, request: Request, taking: AbstractAsyncContextManager[TakeOver]) -> None:
        super().__init__(headers={"cache-control": "no-store", "connection": "close"})
        del self.headers["content-length"]
        self._stopping: asyncio.Event = request.app.state.stopping
        self._taking = taking

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._taking as hands:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _say(send, sse.frame({}, event="taken"))
            tasks = [
                asyncio.create_task(_type(receive, hands)),
                asyncio.create_task(_beat(send)),
                asyncio.create_task(_stop(self._stopping, hands)),
            ]
            try:
                end = await hands.over()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        await _finish(send, end)


async def _type(receive: Receive, hands: TakeOver) -> None:
    try:
        while (message := await receive())["type"] != "http.disconnect":
            if typed := message.get("body"):
                await hands.type(typed)
            if not message.get("more_body"):
                hands.end(Why.HANDED_BACK)
                return
    finally:
        hands.end(Why.CUT)  # whatever else ends the reading


async def _beat(send: Send) -> None:
    while True:
        await asyncio.sleep(sse.HEARTBEAT_S)
        await _say(send, sse.HEARTBEAT)


async def _stop(stopping: asyncio.Event, hands: TakeOver) -> None:
    await stopping.wait()
    hands.end(Why.STOPPING)


async def _say(send: Send, frame: bytes) -> None:
    await send({"type": "http.response.body", "body": frame, "more_body": True})


async def _finish(send: Send, end: TakeOverEnd) -> None:
    """Said once the agent has its pane back and the audit has it."""
    await send({"type": "http.response.body", "body": sse.frame(end, event="ended"), "more_body": False})
