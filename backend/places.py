"""Where a hypervisor is: on this machine, behind an SSH login, or at a libvirt URI of its own; and where the
operator door of another machine is. Pure.

A ``qemu+ssh://`` URI becomes an SSH destination of ours: libvirt's own transport would start a process per
host, and its ``known_hosts=`` has no effect there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

T = TypeVar("T")

LIBVIRT_SOCKET = "/run/libvirt/libvirt-sock"
OPERATOR_SOCKET = "/run/fluid/operator.sock"
LOCAL_ADDRESSES = ("localhost", "127.0.0.1", "::1")
TEST_DRIVER = "test"
QEMU_DRIVER = "qemu"
SSH_TRANSPORTS = ("ssh", "libssh", "libssh2")
TLS_TRANSPORT, TCP_TRANSPORT, UNIX_TRANSPORT = "tls", "tcp", "unix"

# OpenSSH 9.6 refuses more of a user's name than this does; neither may begin an option.
_USER = re.compile(r"[^\s'\"`;&<>|(){}$%\x00-\x1f\x7f-][^\s'\"`;&<>|(){}$%\x00-\x1f\x7f]*(?<!\\)")
_ADDRESS = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]{0,252}", re.ASCII)
_UNSAFE_PATH = re.compile(r"[\x00-\x1f\x7f]|\$\{")
_FAR_DOOR = re.compile(r"(?:([^@]*)@)?(\[[^\]]*\]|[^:/]*)(?::(/.*))?", re.DOTALL)
# What OpenSSH's -L takes as it stands: no colon, token, variable or blank.
_FAR_SOCKET = re.compile(r"/[A-Za-z0-9_./@+,=-]{1,100}")
# What a libvirt URI may say and what would come of it here.
_SAID_ANYWAY = {"no_tty": "1", "known_hosts_verify": "normal", "sshauth": "privkey,agent"}


@dataclass(frozen=True)
class SshDestination:
    """A login on a host. What is None is left to the service user's ``~/.ssh/config``, then to SSH's own
    default: the user's name, port 22, the agent and the default keys, ``~/.ssh/known_hosts`` and
    ``/etc/ssh/ssh_known_hosts``."""

    address: str
    user: str | None = None
    port: int | None = None
    key: Path | None = None
    known_hosts: Path | None = None


@dataclass(frozen=True)
class Here:
    """On this machine. Without ``uri``: the libvirtd that answers here, else one of our own."""

    uri: str | None = None


@dataclass(frozen=True)
class OverSsh:
    """Behind an SSH login: libvirt's socket there, and the guests, are reached through it."""

    ssh: SshDestination
    socket: str = LIBVIRT_SOCKET


@dataclass(frozen=True)
class OverNetwork:
    """libvirt at a URI that libvirt dials itself; the guests there are reached through ``ssh``."""

    uri: str
    ssh: SshDestination


HostPlace = Here | OverSsh | OverNetwork


@dataclass(frozen=True)
class FarDoor:
    """The operator door of another machine, behind an SSH login there."""

    ssh: SshDestination
    socket: str = OPERATOR_SOCKET

    def __str__(self) -> str:
        user = f"{self.ssh.user}@" if self.ssh.user else ""
        door = "" if self.socket == OPERATOR_SOCKET else f":{self.socket}"
        return f"{user}{self.ssh.address}{door}"


def far_door(text: str) -> FarDoor:
    """What ``[USER@]HOST[:/SOCKET]`` or ``ssh://[USER@]HOST[:PORT][/SOCKET]`` names.

    Raises:
        ValueError: what cannot be meant, in words for whoever wrote it.
    """
    if text.startswith("ssh://"):
        uri = _split(text)
        user = None if uri.username is None else unquote(uri.username)
        ssh, path = SshDestination(uri.hostname or "", user, uri.port), uri.path
    else:
        found = _FAR_DOOR.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not USER@HOST")
        ssh, path = SshDestination(found[2].strip("[]"), found[1]), found[3] or ""
    _check_login(ssh)
    socket = path if path not in ("", "/") else OPERATOR_SOCKET
    if not _FAR_SOCKET.fullmatch(socket):
        raise ValueError(f"{socket!r} is not a socket's path as ssh takes it")
    return FarDoor(ssh, socket)


def place_of(uri: str | None, ssh: SshDestination, *, allow_plaintext: bool = False) -> HostPlace:
    """Where the host is that the configuration gives this ``uri`` and this login.

    Raises:
        ValueError: what cannot be meant, in words for whoever wrote it.
    """
    _check_login(ssh)
    bare = ssh == SshDestination(ssh.address)
    if uri is None:
        return Here() if bare and ssh.address in LOCAL_ADDRESSES else OverSsh(ssh)
    parts = _split(uri)
    driver, _, transport = parts.scheme.partition("+")
    if driver not in (QEMU_DRIVER, TEST_DRIVER):
        raise ValueError(f"{uri}: guests run on QEMU: begin it with qemu")
    if not parts.hostname and transport in ("", UNIX_TRANSPORT):
        if not bare:
            raise ValueError(
                f"{uri} is a libvirt of this machine: `user`, `port`, `key` and `known_hosts` do not apply; "
                "for another machine leave `uri` out, or write qemu+ssh://"
            )
        return Here(uri)
    if not parts.hostname:
        raise ValueError(f"{uri} names no machine")
    if transport in SSH_TRANSPORTS:
        return _over_ssh(uri, parts, ssh)
    if transport not in ("", TLS_TRANSPORT, TCP_TRANSPORT):
        raise ValueError(f"{uri}: no such way; there are ssh, libssh, libssh2, tls and tcp")
    if transport == TCP_TRANSPORT and not allow_plaintext:
        raise ValueError(
            f"{uri} sends everything as plain text, also the memory and the disks of guests: write "
            "qemu+ssh:// or qemu+tls://, or say `allow_plaintext: true` beside it"
        )
    if "no_verify" in _query(uri, parts):
        raise ValueError(f"{uri}: certificates are always checked: leave no_verify out")
    return OverNetwork(uri, ssh)


def uri_address(uri: str) -> str | None:
    """The machine that a libvirt URI names, if it does."""
    return _split(uri).hostname


def checked_path(path: Path) -> Path:
    """An absolute path that OpenSSH can be told: its options know ``${VAR}`` and no way to escape it.

    Raises:
        ValueError: another.
    """
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from error
    if not path.is_absolute():
        raise ValueError(f"{path} is not an absolute path")
    if _UNSAFE_PATH.search(str(path)):
        raise ValueError(f"{str(path)!r} holds a control character or ${{")
    return path


def _over_ssh(uri: str, parts: SplitResult, ssh: SshDestination) -> OverSsh:
    said = _query(uri, parts)
    if parts.path != "/system":
        raise ValueError(f"{uri}: only /system is served")
    socket = said.pop("socket", LIBVIRT_SOCKET)
    if not socket.startswith("/") or _UNSAFE_PATH.search(socket):
        raise ValueError(f"{uri}: socket={socket} is not an absolute path")
    key, known_hosts = _path(said.pop("keyfile", None)), _path(said.pop("known_hosts", None))
    if "no_verify" in said or said.get("known_hosts_verify", "normal") != "normal":
        raise ValueError(f"{uri}: host keys are always checked: leave no_verify and known_hosts_verify out")
    for name, value in said.items():
        if _SAID_ANYWAY.get(name) != value:
            raise ValueError(
                f"{uri}: {name}={value} has no effect here: leave it out (socket, keyfile and known_hosts "
                "have one; the rest is the business of ~/.ssh/config)"
            )
    user = None if parts.username is None else unquote(parts.username)
    found = SshDestination(
        _one("address", parts.hostname, ssh.address) or ssh.address,
        _one("user", user, ssh.user),
        _one("port", parts.port, ssh.port),
        _one("key", key, ssh.key),
        _one("known_hosts", known_hosts, ssh.known_hosts),
    )
    _check_login(found)
    return OverSsh(found, socket)


def _split(uri: str) -> SplitResult:
    found = urlsplit(uri)
    try:
        _ = found.port
    except ValueError as error:
        raise ValueError(f"{uri}: {error}") from error
    if not found.scheme or found.fragment or re.search(r"[\s\x00-\x1f\x7f]", uri):
        raise ValueError(f"{uri!r} is not a libvirt URI: write qemu+ssh://USER@HOST/system, for example")
    if found.password is not None:
        raise ValueError(f"{found.scheme}://{found.hostname}: a password has no place in a URI: use a key")
    return found


def _query(text: str, uri: SplitResult) -> dict[str, str]:
    pairs = parse_qsl(uri.query, keep_blank_values=True)
    said = dict(pairs)
    if len(said) != len(pairs):
        raise ValueError(f"{text}: a parameter stands twice")
    return said


def _path(text: str | None) -> Path | None:
    return None if text is None else checked_path(Path(text))


def _one(what: str, in_uri: T | None, beside: T | None) -> T | None:
    if in_uri is not None and beside is not None and in_uri != beside:
        raise ValueError(f"`uri` says {what} {in_uri}, and `{what}` says {beside}: write one of them")
    return beside if in_uri is None else in_uri


def _check_login(ssh: SshDestination) -> None:
    if not _ADDRESS.fullmatch(ssh.address):
        hint = ": name the user apart, as `user`" if "@" in ssh.address else ""
        raise ValueError(f"{ssh.address!r} is not an address{hint}")
    if ssh.user is not None and not _USER.fullmatch(ssh.user):
        raise ValueError(f"{ssh.user!r} is not a user of a host")
