"""What an answer means: a value, or one of :mod:`backend.errors` by its stable code."""

from __future__ import annotations

import grp
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from backend import errors
from backend.client.call import Call
from backend.client.door import DoorAddress
from backend.client.sse import Frame
from backend.paths import Paths

T = TypeVar("T")

_BY_STATUS: dict[int, type[errors.FluidError]] = {
    400: errors.BadRequest,
    401: errors.NoIdentity,
    403: errors.RoleDenied,
    404: errors.NotFound,
    405: errors.BadRequest,
    409: errors.Conflict,
    413: errors.TooLarge,
    422: errors.InvalidValue,
    426: errors.UpgradeRequired,
    429: errors.LimitReached,
    503: errors.Unavailable,
    504: errors.TimedOut,
}


def read_answer(call: Call[T], status: int, body: bytes) -> T:
    """The value of an answer.

    Raises:
        FluidError: the class of the body's ``error_code``.
    """
    if status >= 400:
        raise error_of(status, parse(body))
    return call.read(body if call.binary else parse(body))


def parse(body: bytes) -> Any:
    """JSON, or None for an empty body."""
    if not body:
        return None
    try:
        return json.loads(body)
    except ValueError as error:
        raise errors.FluidError(
            "the answer is not JSON", remedy="is this a Fluid backend that listens there?"
        ) from error


def error_of(status: int, body: Any) -> errors.FluidError:
    """The error that a body tells; a code that this client does not know falls back on its status."""
    told = body if isinstance(body, dict) else {}
    kind = errors.by_code(str(told.get("error_code", "")))
    if kind is errors.FluidError:
        kind = _BY_STATUS.get(status, errors.FluidError)
    error = kind(str(told.get("error", f"HTTP status {status}")), remedy=str(told.get("remedy", "")))
    details = told.get("details")
    error.details = details if isinstance(details, dict) else {}
    return error


def raise_if_error(frame: Frame) -> None:
    """A stream that fails half-way says so in its last event."""
    if frame.event == "error":
        told = frame.json()
        raise error_of(int(told.get("code", 500)), told)


def cut_off() -> errors.BackendDown:
    """A stream that ended before its answer."""
    return errors.BackendDown(
        "the backend went away in the middle of its answer",
        remedy="ask again: what was started is kept by its id",
    )


def down(where: DoorAddress, why: str, *, patience_s: float = 0.0) -> errors.BackendDown:
    """Nobody answers there. Who may block waits so long for a tunnel's words."""
    if where.tunnel is not None:
        return where.tunnel.down(patience_s)
    own = os.geteuid() == 0 or where.socket is None or where.socket.parent != Paths.system().run
    return errors.BackendDown(
        f"no backend answers at {where}: {why}",
        remedy="start it with `fluid serve`, or check the door's address"
        if own
        else "root starts it: `systemctl start fluid`; `fluid serve` runs one of your own",
    )


def denied(where: DoorAddress) -> errors.RoleDenied:
    """The door's mode keeps us out."""
    return errors.RoleDenied(f"{where} is closed to this user", remedy=_way_in(where.socket))


def _way_in(socket: Path | None) -> str:
    group = None
    with suppress(OSError, KeyError):
        group = grp.getgrgid(socket.stat().st_gid) if socket else None
    if group is None:
        return "join the group that owns the socket (`fluid config show`: server), then log in again"
    if group.gr_gid == 0:
        return "its group is root: root names another as server.socket_group_operators (or _agents)"
    return f"join its group: `usermod -aG {group.gr_name} USER` as root, then log in again"


def too_slow(where: str, call: Call[Any]) -> errors.TimedOut:
    """No answer within the call's time."""
    return errors.TimedOut(
        f"{where}: no answer to {call.method} {call.path} within {call.timeout_s:g} s",
        remedy="`fluid status` tells which part is slow",
    )
