"""Every error leaves as the body of API.md with the request's id; a bug's traceback goes to the log alone."""

from __future__ import annotations

import json
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from backend.errors import BadRequest, FluidError, InvalidValue, MethodNotAllowed, NoRoute, Unavailable
from backend.models import Role

log = logging.getLogger("fluid.api")

SHOWN_VALUE_CHARS = 80
_MEANING = ("greater_than", "less_than", "too_short", "too_long", "pattern", "literal", "enum", "value_error")


def problem(error: FluidError, request_id: str, headers: dict[str, str] | None = None) -> Response:
    """The response of an error. 503 carries ``Retry-After`` in seconds."""
    sent = dict(headers or {})
    if isinstance(error, Unavailable):
        sent.setdefault("retry-after", str(error.retry_after_s))
    body = json.dumps(error.body(request_id), ensure_ascii=True, default=str).encode()
    return Response(body, error.status, sent, media_type="application/json")


def heard(error: FluidError, request: Request) -> FluidError:
    """``error`` in the words that its caller may read; the log has what is not the caller's fault whole."""
    if error.status >= 500:
        log.warning("%s %s: %s", request.state.request_id, error.code, error.message)
    return error.for_agents() if request.state.identity.role is Role.AGENT else error


def bug(request_id: str) -> FluidError:
    """What a user is told of an error that nobody foresaw."""
    return FluidError(
        "the backend met an error of its own",
        remedy=f"look for request {request_id} in the backend's log and report it",
    )


def from_validation(errors: list[Any]) -> FluidError:
    """400 for a malformed body or query, 422 for a value that is well formed and without meaning."""
    first = errors[0]
    where = ".".join(str(part) for part in first.get("loc", ())[1:])
    kind = str(first.get("type", ""))
    if kind == "json_invalid":
        reason = first.get("ctx", {}).get("error", "not JSON")
        return BadRequest(f"the body is not JSON: {reason}", remedy="send one JSON object")
    if kind == "extra_forbidden":
        return BadRequest(f"unknown field {where!r}", remedy="GET /openapi.json lists the fields")
    if kind == "missing":
        return BadRequest(f"missing field {where!r}" if where else "missing body", remedy="send it")
    if kind in ("model_attributes_type", "dict_type"):
        return BadRequest(
            "the body is not a JSON object", remedy="send one, with `Content-Type: application/json`"
        )
    value = "" if "secrets" in first.get("loc", ()) else f"{ascii(first.get('input'))[:SHOWN_VALUE_CHARS]}: "
    message = f"{where}: {value}{first.get('msg', 'invalid')}"
    if any(mark in kind for mark in _MEANING):
        return InvalidValue(message, remedy="GET /openapi.json lists what is allowed")
    return BadRequest(message, remedy="GET /openapi.json lists the types")


def install(app: FastAPI) -> None:
    """Make every error of an app answer with our body."""

    def request_id(request: Request) -> str:
        return str(getattr(request.state, "request_id", ""))

    async def fluid(request: Request, error: Exception) -> Response:
        assert isinstance(error, FluidError)  # noqa: S101 - registered for this class
        return problem(heard(error, request), request_id(request))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class
        return problem(from_validation(list(error.errors())), request_id(request))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
        return problem(_from_http(request, error), request_id(request), dict(error.headers or {}))

    async def unforeseen(request: Request, _: Exception) -> Response:
        return problem(bug(request_id(request)), request_id(request))

    app.add_exception_handler(Exception, unforeseen)  # raised again after it: the gate logs it
    app.add_exception_handler(FluidError, fluid)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _from_http(request: Request, error: HTTPException) -> FluidError:
    if isinstance(error.__cause__, FluidError):  # raised while FastAPI read the body
        return error.__cause__
    path = ascii(request.url.path)
    if error.status_code == 404:
        return NoRoute(f"no route {path} on this door", remedy="GET /openapi.json lists the routes")
    if error.status_code == 405:
        return MethodNotAllowed(
            f"{path} does not take {request.method}", remedy="GET /openapi.json lists the methods"
        )
    return BadRequest(str(error.detail), remedy="send one JSON object")
