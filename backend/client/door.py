"""Where a client knocks: a Unix socket by default, ``http://host:port`` (with a token's base path) by TCP, or
the door that a tunnel leads to.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from backend.errors import InvalidValue
from backend.paths import Paths

if TYPE_CHECKING:
    from backend.client.tunnel import Tunnel

DEFAULT_HTTP_PORT = 80


@dataclass(frozen=True)
class DoorAddress:
    """Either ``socket`` or ``host`` and ``port``; ``base`` is put before each path."""

    socket: Path | None = None
    host: str = "fluid"
    port: int = DEFAULT_HTTP_PORT
    base: str = ""
    tunnel: Tunnel | None = None

    @classmethod
    def through(cls, tunnel: Tunnel) -> DoorAddress:
        """The door behind an open tunnel."""
        return cls(tunnel.socket, tunnel=tunnel)

    def __str__(self) -> str:
        if self.tunnel is not None:
            return str(self.tunnel)
        return str(self.socket) if self.socket else self.authority

    @property
    def authority(self) -> str:
        """``host:port`` as a URL has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def installation() -> Paths:
    """Whose doors this user takes: those of the machine's own backend, unless ``FLUID_HOME`` names another
    or one of the user's own runs."""
    own, system = Paths.default(), Paths.system()
    if os.environ.get("FLUID_HOME") or own.run == system.run or answers(own.operator_socket):
        return own
    return system if system.in_use else own


def answers(door: Path) -> bool:
    """Whether somebody serves the door. One that is closed to us is served."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        try:
            knock.connect(str(door))
        except PermissionError:
            return True
        except OSError:
            return False
        return True


def is_closed(door: Path) -> bool:
    """Whether the door is there and its mode, or its folder's, keeps this user out."""
    try:
        return not os.access(door, os.W_OK) and door.is_socket()
    except PermissionError:
        return True


def door_address(at: str | Path | DoorAddress | None) -> DoorAddress:
    """The door of a path or URL; None: ``FLUID_SOCKET``, else the agent door of :func:`installation`.

    Raises:
        InvalidValue: a URL that is not ``http://…``.
    """
    if isinstance(at, DoorAddress):
        return at
    chosen = at if at is not None else os.environ.get("FLUID_SOCKET") or installation().agent_socket
    if isinstance(chosen, Path) or "://" not in chosen:
        return DoorAddress(Path(chosen))
    scheme = chosen.partition("://")[0]
    try:
        url = urlsplit(chosen)
        host, port = url.hostname or "", url.port or DEFAULT_HTTP_PORT
    except ValueError:  # a port or an IPv6 address that is none; the text may hold a token
        host = ""
    if scheme != "http" or not host:
        raise InvalidValue(f"{scheme}://{host} is no door", remedy="give a socket's path or http://HOST:PORT")
    return DoorAddress(None, host, port, url.path.rstrip("/"))
