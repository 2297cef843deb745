"""Whom a connection to a host believes: the files of known hosts, and nobody else.

The service user's ``~/.ssh/config`` holds. Two of its ways to believe anybody are refused: asyncssh takes
``UserKnownHostsFile none`` for "check nothing", on the way through a jump host too.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from backend.errors import ConfigError, TimedOut, Unavailable
from backend.guests._words import SSH_PORT, words_of
from backend.places import SshDestination

USER_KNOWN_HOSTS = "~/.ssh/known_hosts"
GLOBAL_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
FETCH_TIMEOUT_S = 15.0
_KEY_ALGORITHMS = ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"]


@dataclass(frozen=True)
class HostKey:
    """What a host shows. ``line`` is for a file of known hosts, once a person compared ``fingerprint``."""

    line: str
    fingerprint: str


def user_config() -> list[str]:
    """The service user's ``~/.ssh/config``, if it has one."""
    file = Path("~/.ssh/config").expanduser()
    return [str(file)] if os.access(file, os.R_OK) else []


def login_options(ssh: SshDestination) -> dict[str, Any]:
    """The arguments of asyncssh that log in to ``ssh``. Reads the user's files: not for the event loop.

    Raises:
        ConfigError: the user's ``~/.ssh/config`` would have a host believed unseen.
        OSError, ValueError, asyncssh.Error: a file that cannot be read or understood.
    """
    chosen: dict[str, Any] = {"host": ssh.address, "config": user_config()}
    if ssh.port is not None:
        chosen["port"] = ssh.port
    if ssh.user is not None:
        chosen["username"] = ssh.user
    if ssh.key is not None:
        # An encrypted key is the agent's to use.
        chosen |= {"client_keys": [str(ssh.key)], "ignore_encrypted": True}
    found = _resolved(**chosen)
    return {
        **chosen,
        "known_hosts": _known_hosts(ssh, found),
        "preferred_auth": "publickey",
        "gss_host": None,
        "agent_forwarding": False,
        "x11_forwarding": False,
    }


async def fetch_host_key(ssh: SshDestination, *, timeout_s: float = FETCH_TIMEOUT_S) -> HostKey:
    """The key that the host shows now, for a person to compare. Nothing here believes it.

    Raises:
        TimedOut, Unavailable: there is no answer, or no SSH.
    """
    chosen: dict[str, Any] = {"config": user_config()}
    if ssh.port is not None:
        chosen["port"] = ssh.port
    try:
        async with asyncio.timeout(timeout_s):
            found = await asyncio.to_thread(_resolved, host=ssh.address, **chosen)
            key = await asyncssh.get_server_host_key(
                ssh.address, server_host_key_algs=_KEY_ALGORITHMS, **chosen
            )
    except TimeoutError:
        raise TimedOut(
            f"{ssh.address} shows no host key within {timeout_s:g} s", remedy="check the address and the port"
        ) from None
    except (OSError, ValueError, asyncssh.Error) as error:
        raise Unavailable(
            f"{ssh.address} shows no host key: {words_of(error)}", remedy="check the address and the port"
        ) from error
    if key is None:
        raise Unavailable(f"{ssh.address} shows no host key", remedy="check the address and the port")
    name = found.host_key_alias or found.host
    where = name if found.port == SSH_PORT else f"[{name}]:{found.port}"
    public = key.export_public_key("openssh").decode().split()
    return HostKey(line=f"{where} {public[0]} {public[1]}", fingerprint=key.get_fingerprint())


def _known_hosts(ssh: SshDestination, found: asyncssh.SSHClientConnectionOptions) -> asyncssh.SSHKnownHosts:
    """The entries of the host's own file, else of the user's and the machine's. No file is no entry."""
    if ssh.known_hosts is not None:
        return asyncssh.read_known_hosts(str(ssh.known_hosts))
    if found.known_hosts is None:
        raise _unchecked(ssh.address)
    named = found.known_hosts if isinstance(found.known_hosts, list) else []
    files = [Path(str(name)).expanduser() for name in named or [USER_KNOWN_HOSTS]]
    texts = [file.read_text() for file in (*files, GLOBAL_KNOWN_HOSTS) if file.is_file()]
    return asyncssh.import_known_hosts("\n".join(texts))


def _resolved(**chosen: Any) -> asyncssh.SSHClientConnectionOptions:
    """What the user's configuration makes of it; each host on the way there is checked too."""
    found = asyncssh.SSHClientConnectionOptions(**chosen)
    for hop in found.tunnel.split(",") if isinstance(found.tunnel, str) else ():
        host = hop.rpartition("@")[2].partition(":")[0]
        if asyncssh.SSHClientConnectionOptions(host=host, config=user_config()).known_hosts is None:
            raise _unchecked(host)
    return found


def _unchecked(host: str) -> ConfigError:
    return ConfigError(
        f"~/.ssh/config says `UserKnownHostsFile none` for {host}: nothing would be checked",
        remedy="name a file of known hosts there, or `known_hosts` in config.yaml",
    )
