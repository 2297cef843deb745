"""The gate of a door: nothing behind it runs before the caller is known, its role fits, and the size holds.

It gives each request its id, and turns what nobody foresaw into a 500 without words of the program.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api.peers import Door, Peer, Roles, admit
from backend.api.problems import bug, problem
from backend.errors import BackendDown, FluidError, NoIdentity, RoleDenied, TooLarge
from backend.models import Role

log = logging.getLogger("fluid.api")

BODY_LIMIT_BYTES = 1024**2
TYPED = "/take-over"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class Gate:
    """ASGI middleware around a whole door. ``file_limit_bytes`` holds for PUT of a guest's file."""

    def __init__(self, app: ASGIApp, door: Door, roles: Roles, file_limit_bytes: int) -> None:
        self._app = app
        self._door = door
        self._roles = roles
        self._file_limit_bytes = file_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id = secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        reply = _Reply(send, request_id)
        try:
            state["identity"] = self._identify(scope)
            limit = self._limit(scope)
            _check_announced(scope, limit)
            await self._app(scope, _bounded(receive, limit), reply)
        except FluidError as error:
            await reply.end_with(problem(error, request_id), scope, receive)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and not task.cancelling():  # nobody ends us: something below was cancelled by itself
                log.exception("request %s: %s %a", request_id, scope["method"], scope["path"])
            else:
                log.info("%s cut off by the end of the backend", request_id)
            stopped = BackendDown(
                "the backend is stopping", remedy="ask again: what was asked for is kept by its id"
            )
            await reply.end_with(problem(stopped, request_id), scope, receive)
        except Exception:
            log.exception("request %s: %s %a", request_id, scope["method"], scope["path"])
            await reply.end_with(problem(bug(request_id), request_id), scope, receive)

    def _identify(self, scope: Scope) -> object:
        peer = scope["state"].get("peer")
        if not isinstance(peer, Peer):
            raise NoIdentity(
                "the kernel does not know who is at the other end of this connection",
                remedy="use agent.sock: by TCP, containers and other network namespaces stay unknown",
            )
        identity = admit(self._door, peer, self._roles)
        if identity.role is Role.AUDITOR and scope["method"] not in _READS:
            raise RoleDenied(f"auditor {identity.name!r} may only read", remedy="ask an operator")
        return identity

    def _limit(self, scope: Scope) -> int:
        if scope["method"] == "PUT" and scope["path"].endswith("/files"):
            return self._file_limit_bytes
        if self._door is Door.OPERATOR and scope["path"].endswith(TYPED):
            return sys.maxsize  # a stream of what a person types, which nobody collects
        return BODY_LIMIT_BYTES


class _Reply:
    """``send`` that adds the request's id and knows whether an answer has begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id.encode("ascii")
        self._begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            headers = [*message.get("headers", []), (b"x-request-id", self._request_id)]
            message = {**message, "headers": headers}
        await self._send(message)

    async def end_with(self, response: Response, scope: Scope, receive: Receive) -> None:
        """Answer, unless an answer has begun: that one is cut, which its reader notices."""
        if not self._begun:
            await response(scope, receive, self)


def _check_announced(scope: Scope, limit: int) -> None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise _too_large(limit)


def _bounded(receive: Receive, limit: int) -> Receive:
    """``receive`` that refuses a body that grows past ``limit``, announced or not."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(limit)
        return message

    return bounded


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over {limit} bytes", remedy="send less, or a file with PUT …/files")
