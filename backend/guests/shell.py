"""A terminal in a guest: the argument list of OpenSSH's own client, for a pane of tmux.

The key and the certificate live for one log-in. No escape character: a ``~C`` typed by an agent must not
reach the client, which runs on the control node.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

from backend.errors import MissingProgram
from backend.guests._words import SSH_PORT
from backend.guests.ca import KEY_TYPE, CertificateAuthority, make_client_key
from backend.guests.connection import Guest
from backend.guests.jump import ALIVE_INTERVAL_S, CONNECT_TIMEOUT_S, proxy_command
from backend.places import SshDestination

SHELL_CERTIFICATE_TTL_S = 60
_KEY, _CERTIFICATE, _KNOWN_HOSTS = "key", "key-cert.pub", "known_hosts"


async def shell_argv(
    ca: CertificateAuthority, guest: Guest, folder: Path, *, through: SshDestination | None = None
) -> list[str]:
    """The arguments that open a shell in ``guest``, ``through`` its host if that is another machine; start
    them within 60 s.

    ``folder`` is made (0700) and belongs to this one log-in: it is deleted when the certificate has run
    out, by when its keys are of no use.

    Raises:
        MissingProgram: there is no OpenSSH client.
    """
    ssh = shutil.which("ssh")
    if ssh is None:
        raise MissingProgram("there is no `ssh` program", remedy="install openssh-client")
    _write_files(ca, guest, folder)
    asyncio.get_running_loop().call_later(SHELL_CERTIFICATE_TTL_S, remove_keys, folder)
    options = {
        "IdentityFile": folder / _KEY,
        "CertificateFile": folder / _CERTIFICATE,
        "UserKnownHostsFile": folder / _KNOWN_HOSTS,
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlgorithms": KEY_TYPE,
        "UpdateHostKeys": "no",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
        "EscapeChar": "none",
        "PermitLocalCommand": "no",
        "ClearAllForwardings": "yes",
        "ControlPath": "none",
        "ConnectTimeout": CONNECT_TIMEOUT_S,
        "ServerAliveInterval": ALIVE_INTERVAL_S,
        "LogLevel": "ERROR",
    }
    if through is not None:
        options["ProxyCommand"] = proxy_command(ssh, through, guest.address, guest.port)
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    return [ssh, "-F", "none", "-tt", *flags, "-p", str(guest.port), "-l", guest.user, "--", guest.address]


def remove_keys(folder: Path) -> None:
    """Delete a log-in's folder; ssh has read its files, or is too late."""
    shutil.rmtree(folder, ignore_errors=True)


def sweep_keys(parent: Path) -> None:
    """Delete what a backend that was killed left: log-ins below ``parent`` older than their certificate."""
    for folder in parent.glob("*"):
        if time.time() - folder.stat().st_mtime > SHELL_CERTIFICATE_TTL_S:
            remove_keys(folder)


def _write_files(ca: CertificateAuthority, guest: Guest, folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    private, public = make_client_key()
    certificate = ca.certify(
        public,
        ttl_s=SHELL_CERTIFICATE_TTL_S,
        key_id=f"fluid-shell:{guest.name}",
        principals=[guest.user],
        permits=["pty"],
    )
    where = f"[{guest.address}]:{guest.port}" if guest.port != SSH_PORT else guest.address
    for name, text in (
        (_KEY, private),
        (_CERTIFICATE, certificate + "\n"),
        (_KNOWN_HOSTS, f"{where} {guest.host_key_public}\n"),
    ):
        file = folder / name
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        file.write_text(text)
