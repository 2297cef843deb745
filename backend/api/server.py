"""The doors' sockets and servers: owner, group and mode are set before anybody can connect.

A socket file that nobody serves is taken over; one that somebody serves is :class:`AlreadyRunning`.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from backend.api.agent import agent_app
from backend.api.gate import Gate
from backend.api.operator import operator_app
from backend.api.peers import AgentProtocol, Door, PeerProtocol, Roles, group_name
from backend.api.services import Services
from backend.api.tcp import LocalAgents
from backend.config import Config
from backend.errors import AlreadyRunning, ConfigError
from backend.paths import Paths

SOCKET_MODE = 0o660
BACKLOG = 1024
GRACE_S = 1
"""How long requests may go on once we stop; uvicorn counts whole seconds."""
KEEP_ALIVE_S = 75
KNOCK_S = 0.5


class _DoorServer(uvicorn.Server):
    """uvicorn without signal handlers: the daemon has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def refuse_served(path: Path) -> None:
    """:class:`AlreadyRunning` if somebody serves this socket."""
    if path.is_socket() and _is_served(path):
        raise AlreadyRunning(f"a backend already serves {path}", remedy="use it, or stop it first")


def bind_door(path: Path, group: str | None) -> socket.socket:
    """A bound Unix socket, not yet listening, of mode 0660 and the group given.

    Raises:
        AlreadyRunning: somebody serves it.
        ConfigError: the group does not exist, or cannot be given.
    """
    gid = _gid(group) if group else -1
    refuse_served(path)
    if path.is_socket():
        path.unlink()
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        door.bind(str(path))
        path.chmod(SOCKET_MODE)
        os.chown(path, -1, gid)
    except OSError as error:
        door.close()
        raise ConfigError(
            f"cannot open the door {path}: {error.strerror or error}",
            remedy="check the folder's owner, and that its path is under 100 characters",
        ) from error
    door.setblocking(False)
    return door


async def serve_doors(
    services: Services,
    config: Config,
    paths: Paths,
    stop: asyncio.Event,
    tcp: socket.socket | None = None,
) -> None:
    """Serve both doors, and the agent routes on ``tcp``, until ``stop`` is set; returns within 2 s of it, the
    socket files gone. ``tcp`` is of :func:`backend.api.tcp.bind_tcp` and the caller's to close."""
    roles = Roles.of(config)
    agents_group = config.server.socket_group_agents
    agents = agent_app(services, stop)
    operators = operator_app(services, stop)
    doors = (
        (Door.AGENT, paths.agent_socket, agents_group, agents),
        (Door.OPERATOR, paths.operator_socket, config.server.socket_group_operators, operators),
    )
    with contextlib.ExitStack() as opened:
        servers: list[tuple[_DoorServer, socket.socket]] = []
        for door, path, group, app in doors:
            bound = opened.enter_context(contextlib.closing(bind_door(path, group)))
            opened.callback(_remove, path, path.stat().st_ino)
            gate = Gate(app, door, roles, config.limits.file_bytes)
            protocol = AgentProtocol if door is Door.AGENT else PeerProtocol
            servers.append((_server(gate, protocol), bound))
        if tcp is not None:
            local = LocalAgents(agents, agents_group or group_name(os.getegid()))
            gate = Gate(local, Door.AGENT, roles, config.limits.file_bytes)
            servers.append((_server(gate, AgentProtocol), tcp))
        async with asyncio.TaskGroup() as group_of_tasks:
            for server, bound in servers:
                group_of_tasks.create_task(server.serve(sockets=[bound]))
            await stop.wait()
            for server, _ in servers:
                server.should_exit = True


def _server(gate: Gate, protocol: type[PeerProtocol]) -> _DoorServer:
    return _DoorServer(
        uvicorn.Config(
            gate,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
    )


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ConfigError(
            f"server: no group {group!r} on this machine", remedy=f"groupadd --system {group}"
        ) from error


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.settimeout(KNOCK_S)
        try:
            knock.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # somebody listens and is busy
            return True
        return True


def _remove(path: Path, inode: int) -> None:
    """The socket file, unless a successor has put its own there."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()
