"""What the nouns share: the door, finding things by name, tables and JSON.

It imports no command line library: `fluid status` has a quarter of a second.

Whatever a backend says may be an agent's words: it is printed through the sanitiser, JSON as ASCII.
"""

from __future__ import annotations

import json
import os
import sys
import termios
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from backend.client import Fluid, calls
from backend.client.door import DoorAddress, installation
from backend.errors import ApprovalNotFound, BadRequest, SandboxNotFound
from backend.text import visible

UNCUT = frozenset({"id", "short", "name", "state"})
"""Columns that a reader copies or looks for: never cut on a narrow terminal."""

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400

_far: ContextVar[DoorAddress | None] = ContextVar("far", default=None)


@cache
def door() -> Fluid:
    """The backend at :func:`door_path`."""
    return Fluid(door_path())


def door_path() -> Path | DoorAddress | None:
    """The other machine's (:func:`behind`), else ``FLUID_SOCKET`` (none here: the client looks there itself),
    else the operator door of this user's :func:`installation`, else (for an agent) its agent door."""
    if (far := _far.get()) is not None:
        return far
    if os.environ.get("FLUID_SOCKET"):
        return None
    paths = installation()
    operator, agent = paths.operator_socket, paths.agent_socket
    use_agent = os.access(agent, os.W_OK) and not os.access(operator, os.W_OK)
    return agent if use_agent else operator


@contextmanager
def behind(login: str) -> Iterator[DoorAddress]:
    """Meanwhile all commands knock at the operator door of another machine (``--connect``).

    Raises:
        BadRequest: no such login can be meant.
        BackendDown: ssh did not get there; the message has its words.
    """
    from backend.client.tunnel import Tunnel
    from backend.places import far_door

    try:
        far = far_door(login)
    except ValueError as error:
        raise BadRequest(
            str(error), remedy="--connect USER@HOST, with :/PATH of the operator socket if it lies elsewhere"
        ) from error
    with Tunnel(far) as tunnel:
        before = _far.set(DoorAddress.through(tunnel))
        door.cache_clear()
        try:
            yield DoorAddress.through(tunnel)
        finally:
            door().close()
            _far.reset(before)
            door.cache_clear()


def drop_typed_ahead() -> None:
    """What was typed before a question stood there does not answer it."""
    if sys.stdin.isatty():
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


def sandbox_id(name: str) -> str:
    """The id of a sandbox given by id or by name.

    Raises:
        SandboxNotFound: none, or more than one, has the name.
    """
    if name.startswith("SBX-"):
        return name
    rows = door().json(calls.sandboxes(vm_name=name))["sandboxes"]
    found = [row["id"] for row in rows if row["sandbox_name"] == name and row["phase"] != "destroyed"]
    if len(found) == 1:
        return str(found[0])
    many = f"{len(found)} sandboxes are named" if found else "no sandbox is named"
    raise SandboxNotFound(f"{many} {name!r}", remedy="`fluid sandboxes list` shows their ids")


def approval_id(name: str) -> str:
    """The id of a request given by id or by short id; one that is open goes before those that are over.

    Raises:
        ApprovalNotFound: none, or more than one, has the short id.
    """
    if name.startswith("APR-"):
        return name
    from backend.models.approval import APPROVAL_OVER

    rows = [row for row in door().json(calls.approvals())["approvals"] if row["short_id"] == name.lower()]
    found = [row["id"] for row in rows if row["state"] not in APPROVAL_OVER] or [row["id"] for row in rows]
    if len(found) == 1:
        return str(found[0])
    many = (
        f"{len(found)} requests are called {name!r}: {', '.join(found)}" if found else f"no request {name!r}"
    )
    raise ApprovalNotFound(many, remedy="`fluid approvals list` shows them")


def show_json(data: Any) -> None:
    """JSON for programs: ASCII only, so that nothing in it acts on a terminal."""
    print(json.dumps(data, indent=2, ensure_ascii=True, default=str))


def show_rows(titles: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table on a terminal, tab-separated lines elsewhere."""
    cells = [[visible(str("" if cell is None else cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in (titles, *cells):
            print("\t".join(line))
        return
    if not cells:
        print(empty)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=title in UNCUT, overflow="fold")
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table)


def show_fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Name and value, a line each; what is empty is left out."""
    kept = [(name, value) for name, value in pairs if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in kept), default=0)
    for name, value in kept:
        print(f"{name:<{width}}  {visible(str(value))}")


def show_text(text: str) -> None:
    """Text of an agent or a guest, newlines kept."""
    print(visible(text, keep_newlines=True, tab=8))


def ago(time: str | None) -> str:
    """``3m``: how long ago an RFC 3339 time is."""
    return span(_seconds_from(time)) if time else ""


def left(time: str | None) -> str:
    """``48m``: how far ahead a time is, ``over`` when it is past."""
    if not time:
        return ""
    seconds = -_seconds_from(time)
    return span(seconds) if seconds > 0 else "over"


def _seconds_from(time: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()


def span(seconds: float) -> str:
    """A length of time in its largest whole unit."""
    for unit, size in (("d", DAY_S), ("h", HOUR_S), ("m", MINUTE_S)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"
