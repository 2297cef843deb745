"""Who holds a TCP socket of this machine, asked of the kernel by the socket's two ends.

The kernel answers for its own network namespace only. Sources: sock_diag(7), linux/inet_diag.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

ANSWER_S = 1.0
"""The kernel answers within the send; the limit is for the day that it does not."""
ANSWER_BYTES = 8192

NETLINK_SOCK_DIAG = 4  # linux/netlink.h; Python has no name for it
NLMSG_ERROR, SOCK_DIAG_BY_FAMILY = 2, 20
NLM_F_REQUEST = 1
ESTABLISHED, LISTEN = 1, 10  # net/tcp_states.h
_ALL_STATES = 0xFFF
_NO_COOKIE = 0xFFFF_FFFF
_SEQUENCE = 1

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ERRNO = struct.Struct("=i")
_REQUEST = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, extensions, states
_STATE = struct.Struct("=BB2x")  # inet_diag_msg: family, state
_ENDS = struct.Struct("!HH16s16s")  # inet_diag_sockid: source and destination port, source, destination
_REST_OF_ID = struct.Struct("=I2I")  # interface, cookie
_OWNER = struct.Struct("=12xII")  # uid, inode
_MESSAGE_BYTES = _HEADER.size + _STATE.size + _ENDS.size + _REST_OF_ID.size + _OWNER.size


class End(NamedTuple):
    """One end of a connection. IPv4 in IPv6 (``::ffff:127.0.0.1``) is the IPv4 address that it is."""

    address: IPv4Address | IPv6Address
    port: int

    @classmethod
    def of(cls, name: tuple[Any, ...]) -> End:
        """From what ``getsockname`` and ``getpeername`` give."""
        return cls(_plain(ip_address(name[0])), name[1])


@dataclass(frozen=True)
class TcpSocket:
    """A socket as the kernel tells it. ``inode`` 0: no process holds it, and ``uid`` means nothing."""

    state: int
    source: End
    destination: End
    uid: int
    inode: int


def client_uid(client: End, server: End) -> int | None:
    """The uid of the process at the client's end; None if no process of this network namespace is there.

    An orphaned or half-closed socket has no owner that could be trusted: the kernel may tell it as uid 0.

    Raises:
        OSError: the kernel does not answer such questions.
    """
    found = find(client, server)
    if found is None or found.state != ESTABLISHED or not found.inode:
        return None
    is_client = (found.source, found.destination) == (client, server) and client != server
    return found.uid if is_client else None


def listener(at: End) -> TcpSocket | None:
    """The socket that takes connections to ``at``, also one bound to all addresses.

    Raises:
        OSError: the kernel does not answer such questions.
    """
    found = find(at, End(type(at.address)(0), 0))
    return found if found is not None and found.state == LISTEN else None


def find(source: End, destination: End) -> TcpSocket | None:
    """The socket of which ``source`` is its own end; without a connected one, the listener at ``source``.

    Raises:
        OSError: the kernel does not answer such questions.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(ANSWER_S)
        kernel.sendto(question(source, destination), (0, 0))
        while True:
            answer, (sender, _) = kernel.recvfrom(ANSWER_BYTES)
            if sender == 0:  # the kernel, not a process that writes to our port
                return read_answer(answer)


def question(source: End, destination: End) -> bytes:
    """The request for exactly one socket."""
    family = socket.AF_INET if source.address.version == 4 else socket.AF_INET6
    body = (
        _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES)
        + _ENDS.pack(source.port, destination.port, source.address.packed, destination.address.packed)
        + _REST_OF_ID.pack(0, _NO_COOKIE, _NO_COOKIE)
    )
    length = _HEADER.size + len(body)
    return _HEADER.pack(length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, _SEQUENCE, 0) + body


def read_answer(answer: bytes) -> TcpSocket | None:
    """The socket that an answer tells; None when there is none.

    Raises:
        OSError: the kernel refused the question, or this is no answer to it.
    """
    if len(answer) >= _HEADER.size + _ERRNO.size:
        _, kind, _, sequence, _ = _HEADER.unpack_from(answer)
        if kind == NLMSG_ERROR:
            (code,) = _ERRNO.unpack_from(answer, _HEADER.size)
            if -code == errno.ENOENT:
                return None
            raise OSError(-code, os.strerror(-code))
        if (kind, sequence) == (SOCK_DIAG_BY_FAMILY, _SEQUENCE) and len(answer) >= _MESSAGE_BYTES:
            return _read_socket(answer)
    raise OSError(errno.EBADMSG, "the kernel's answer is not one of sock_diag(7)")


def _read_socket(answer: bytes) -> TcpSocket:
    at = _HEADER.size
    family, state = _STATE.unpack_from(answer, at)
    at += _STATE.size
    source_port, destination_port, source, destination = _ENDS.unpack_from(answer, at)
    uid, inode = _OWNER.unpack_from(answer, at + _ENDS.size + _REST_OF_ID.size)
    return TcpSocket(
        state,
        End(_address(family, source), source_port),
        End(_address(family, destination), destination_port),
        uid,
        inode,
    )


def _address(family: int, raw: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(raw[:4]) if family == socket.AF_INET else _plain(IPv6Address(raw))


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    return getattr(address, "ipv4_mapped", None) or address
