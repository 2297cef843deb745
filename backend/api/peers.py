"""Who calls: uid, gid, pid and groups as the kernel recorded them when the connection was made.

Sources: unix(7) ``SO_PEERCRED``, ``SO_PEERGROUPS`` (Linux 4.13); for TCP :mod:`backend.api.sock_diag`.
A caller can claim nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import json
import math
import os
import pwd
import resource
import socket
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from backend.api import sock_diag
from backend.api.sock_diag import End
from backend.config import Config
from backend.errors import BadRequest, RoleDenied
from backend.models import Identity, Role

SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_CREDENTIALS = struct.Struct("3i")
_GROUPS_BYTES = 1024  # as much as Python's getsockopt takes: 256 gids
_UNKNOWN = -1

FILES_WANTED = 8_192
AGENT_CONNECTIONS = 2_000
UID_CONNECTIONS = 1_500
TCP_CONNECTIONS = 512
"""Agents must not use up the files that the operator door needs, nor any user of the machine by TCP. Where
this process has less than ``FILES_WANTED`` files all three shrink in proportion."""


class Door(StrEnum):
    AGENT = "agent"
    OPERATOR = "operator"


@dataclass(frozen=True)
class Peer:
    """Names are looked up once per connection; an account that has none is its number.

    By TCP the kernel tells the uid alone: ``pid`` is -1, gid and groups are the account's.
    """

    uid: int
    gid: int
    pid: int
    name: str
    groups: frozenset[str]


@dataclass(frozen=True)
class Roles:
    """The role lists of the config: user names and ``@groups``.

    No ``operators``: the user that runs the backend is the operator. No ``agents``: whoever the socket's mode
    lets in is an agent.
    """

    operators: frozenset[str]
    agents: frozenset[str]
    auditors: frozenset[str]

    @classmethod
    def of(cls, config: Config) -> Roles:
        operators = frozenset(config.operators) or frozenset({user_name(os.geteuid())})
        return cls(operators, frozenset(config.agents), frozenset(config.auditors))


def read_peer(connection: Any) -> Peer:
    """The peer of a connected socket (also asyncio's and uvloop's view of one).

    Raises:
        OSError: it has gone, or the kernel does not know it.
    """
    return _unix_peer(connection) if connection.family == socket.AF_UNIX else _tcp_peer(connection)


def _unix_peer(connection: Any) -> Peer:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    name = user_name(uid)
    gids = {gid, *_peer_gids(connection, name, gid)}
    return Peer(uid, gid, pid, name, frozenset(group_name(one) for one in gids))


def _tcp_peer(connection: Any) -> Peer:
    client, server = connection.getpeername(), connection.getsockname()
    uid = sock_diag.client_uid(End.of(client), End.of(server))
    connection.getpeername()  # ENOTCONN: it hung up, and whoever has its port by now would be taken for it
    if uid is None:
        raise OSError(errno.ENOENT, "no process of this network namespace is at the other end")
    return peer_of(uid)


def peer_of(uid: int) -> Peer:
    """A user with the groups that its account has now."""
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return Peer(uid, _UNKNOWN, _UNKNOWN, str(uid), frozenset())
    gids = os.getgrouplist(account.pw_name, account.pw_gid)
    return Peer(uid, account.pw_gid, _UNKNOWN, account.pw_name, frozenset(group_name(one) for one in gids))


def admit(door: Door, peer: Peer, roles: Roles) -> Identity:
    """The caller's identity on a door.

    Raises:
        RoleDenied: the config does not let this user through this door; the message names the rule.
    """
    role = _role_on(door, peer, roles)
    return Identity(
        uid=peer.uid, gid=peer.gid, pid=peer.pid, name=peer.name, role=role, groups=sorted(peer.groups)
    )


def _role_on(door: Door, peer: Peer, roles: Roles) -> Role:
    listed_agent = _is_in(roles.agents, peer)
    if door is Door.AGENT:
        if listed_agent or not roles.agents:
            return Role.AGENT
        raise RoleDenied(
            f"user {peer.name!r} is not in `agents:`", remedy="add the user or one of its groups there"
        )
    if _is_in(roles.operators, peer):
        if listed_agent and peer.name not in roles.operators:
            raise RoleDenied(
                f"user {peer.name!r} is in `agents:` and served on the agent door only",
                remedy="name the user itself (not a group) in `operators:`",
            )
        return Role.OPERATOR
    if _is_in(roles.auditors, peer) and not listed_agent:
        return Role.AUDITOR
    raise RoleDenied(
        f"user {peer.name!r} is not in `operators:` or `auditors:`", remedy="add the user to `operators:`"
    )


def _peer_gids(connection: Any, name: str, gid: int) -> tuple[int, ...]:
    try:
        listed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:  # ERANGE: more groups than fit; the account's own list then
        return tuple(os.getgrouplist(name, gid))
    return struct.unpack(f"{len(listed) // 4}I", listed)


def _is_in(entries: frozenset[str], peer: Peer) -> bool:
    return peer.name in entries or any(f"@{group}" in entries for group in peer.groups)


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's protocol that adds ``peer`` to each request's state and speaks JSON about broken HTTP."""

    peer: Peer | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # without a peer the gate answers 401
            self.peer = read_peer(connection)
            self.app_state = {**self.app_state, "peer": self.peer}

    def send_400_response(self, msg: str) -> None:
        body = json.dumps(BadRequest("the request is not HTTP/1.1", remedy="mind the framing").body())
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write((head + body).encode("ascii"))
        self.transport.close()


class AgentProtocol(PeerProtocol):
    """The same on an agent door: a connection beyond what it, or the caller's uid, may have is closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        unix = transport.get_extra_info("socket").family == socket.AF_UNIX
        most = share(AGENT_CONNECTIONS if unix else TCP_CONNECTIONS)
        if len(self.connections) > most or self._of_this_uid() > share(UID_CONNECTIONS):
            transport.abort()

    def _of_this_uid(self) -> int:
        if self.peer is None:
            return 0
        peers = (one.peer for one in self.connections if isinstance(one, PeerProtocol))
        return sum(peer is not None and peer.uid == self.peer.uid for peer in peers)


def share(connections: int) -> int:
    """As many of them as the process has files for."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.ceil(connections * min(1, files / FILES_WANTED))
