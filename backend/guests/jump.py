"""The ``ProxyCommand`` that leads OpenSSH's client to a guest through the guest's host.

A pane outlives the backend, and so must its way: it is a client of its own. A shell reads the command and
OpenSSH expands ``%`` in it twice; every value is from the configuration and quoted for all of them.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from backend.places import SshDestination

CONNECT_TIMEOUT_S = 20
ALIVE_INTERVAL_S = 15


def proxy_command(ssh_program: str, host: SshDestination, address: str, port: int) -> str:
    """The value of ``-o ProxyCommand=`` that reaches ``address``:``port`` as ``host`` sees it."""
    options = {
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "BatchMode": "yes",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "EscapeChar": "none",
        "PermitLocalCommand": "no",
        "ControlMaster": "no",
        "ControlPath": "none",
        "ConnectTimeout": CONNECT_TIMEOUT_S,
        "ServerAliveInterval": ALIVE_INTERVAL_S,
        "LogLevel": "ERROR",
    }
    if host.known_hosts is not None:
        options |= {"UserKnownHostsFile": _option(host.known_hosts), "GlobalKnownHostsFile": "none"}
    if host.key is not None:
        options |= {"IdentityFile": _option(host.key), "IdentitiesOnly": "yes"}
    argv = [ssh_program, *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    if host.user is not None:
        argv += ["-l", host.user]
    if host.port is not None:
        argv += ["-p", str(host.port)]
    return _unexpanded(shlex.join([*argv, "-W", f"[{address}]:{port}", "--", host.address]))


def _option(path: Path) -> str:
    """A path as an option's value: one word for ssh_config(5), and no token in it."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_unexpanded(escaped)}"'


def _unexpanded(text: str) -> str:
    return text.replace("%", "%%")
