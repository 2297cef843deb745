"""The TCP door: agents of this machine, let in by the rules that ``agent.sock`` has from its owner and mode.

Every process of this machine reaches the port, a browser too: what a web page could have sent is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from backend.api import sock_diag
from backend.api.peers import user_name
from backend.api.sock_diag import End
from backend.config import ListenAddress
from backend.errors import ConfigError, PolicyDenied, PortBusy, RoleDenied
from backend.models import Identity
from backend.text import visible

PROBE_S = 1.0
SHOWN_HOST_CHARS = 80

_LOCAL_HOST = re.compile(rb"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
_BROWSER_HEADERS = frozenset({b"origin", b"sec-fetch-site"})


class LocalAgents:
    """ASGI middleware between the gate and the agent routes. ``group`` is that of ``agent.sock``."""

    def __init__(self, app: ASGIApp, group: str) -> None:
        self._app = app
        self._group = group

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _refuse_browser(scope["headers"])
        _refuse_outsider(scope["state"]["identity"], self._group)
        await self._app(scope, receive, send)


def bind_tcp(where: ListenAddress) -> socket.socket:
    """A listening socket: from here on the port is ours, and who connects waits until the door is served.

    Raises:
        PortBusy: somebody holds the port; the message names it if the kernel does.
        ConfigError: the address cannot be had here, or the kernel does not tell who connects to it.
    """
    with contextlib.ExitStack() as undo:
        try:
            _require_sight(where)
            door = undo.enter_context(socket.socket(_family(where), socket.SOCK_STREAM))
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind((where.host, where.port))
            door.listen()
        except OSError as error:
            raise _refusal(where, error) from error
        door.setblocking(False)
        undo.pop_all()
        return door


def _require_sight(where: ListenAddress) -> None:
    """The door is useless where callers cannot be known (no inet_diag, a filter on system calls)."""
    with (
        socket.create_server((where.host, 0), family=_family(where)) as probe,
        socket.create_connection(probe.getsockname()[:2], timeout=PROBE_S) as knock,
    ):
        try:
            uid = sock_diag.client_uid(End.of(knock.getsockname()), End.of(probe.getsockname()))
            why = "" if uid == os.geteuid() else "it does not find our own connection"
        except OSError as error:
            why = error.strerror or str(error)
    if why:
        raise ConfigError(
            f"server.listen: {where}: the kernel does not tell which user connects: {why}",
            remedy="`modprobe tcp_diag`, allow netlink sockets to the backend, or take `server.listen` out",
        )


def _refusal(where: ListenAddress, error: OSError) -> ConfigError | PortBusy:
    if error.errno == errno.EADDRINUSE:
        return PortBusy(
            f"server.listen: {where} is taken{_holder(where)}",
            remedy="stop what listens there, or write another port",
        )
    remedy = "write 127.0.0.1:8080"
    if error.errno == errno.EACCES:
        remedy = "write a port of 1024 or more: lower ones are root's"
    return ConfigError(f"server.listen: cannot open {where}: {error.strerror or error}", remedy=remedy)


def _holder(where: ListenAddress) -> str:
    """Who listens there, in words, as far as this process may know it."""
    with contextlib.suppress(OSError):
        found = sock_diag.listener(End.of((where.host, where.port)))
        if found is not None:
            program = _program(found.inode)
            return f" by {program + ' of ' if program else ''}user {user_name(found.uid)}"
    return ""


def _program(inode: int) -> str:
    """Name and pid of a process that holds the socket; empty when none of those that we may look at does."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(held.readlink()) == f"socket:[{inode}]" for held in (process / "fd").iterdir()):
                name = (process / "comm").read_text(errors="replace").strip()
                return f"{visible(name)} (pid {process.name})"
    return ""


def _family(where: ListenAddress) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in where.host else socket.AF_INET


def _refuse_browser(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """A page that a browser of this machine shows may neither send requests nor, by a name of its own that
    resolves to us (DNS rebinding), read the answers."""
    hosts = []
    for name, value in headers:
        if name in _BROWSER_HEADERS:
            raise PolicyDenied(
                f"a web page may not call: the request has {name.decode().title()} (rule tcp.browser)",
                remedy="call it from a program, without this header",
                rule="tcp.browser",
            )
        if name == b"host":
            hosts.append(value)
    if len(hosts) != 1 or not _LOCAL_HOST.fullmatch(hosts[0]):
        shown = b", ".join(hosts).decode("latin-1")[:SHOWN_HOST_CHARS]
        raise PolicyDenied(
            f"Host {shown!r} is not this machine (rule tcp.host)",
            remedy="call http://127.0.0.1:PORT or http://localhost:PORT",
            rule="tcp.host",
        )


def _refuse_outsider(caller: Identity, group: str) -> None:
    """The mode 0660 of ``agent.sock``, for those who do not come by it."""
    if caller.uid not in (0, os.geteuid()) and group not in caller.groups:
        raise RoleDenied(
            f"user {caller.name!r} is not in group {group!r}, for which the agent door is",
            remedy=f"usermod -aG {group} {caller.name}, or set server.socket_group_agents",
        )
