"""The SSH user CA: certificates are short, for one principal, with every ``permit-*`` off unless named.

The CA key is made on first use, lies in a 0700 folder with mode 0600, and never leaves this module.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import asyncssh

from backend.errors import ConfigError, InvalidValue

KEY_TYPE = "ssh-ed25519"
CERTIFICATE_TTL_MIN_S = 60
CERTIFICATE_TTL_MAX_S = 600
CLOCK_SKEW_S = 60  # a guest's clock may lag behind ours after a restore
_KEY_NAME = "user_ca"
_PRIVATE = 0o600

Permit = Literal["pty", "port-forwarding", "agent-forwarding", "x11-forwarding", "user-rc"]


class CertificateAuthority:
    """The Ed25519 user CA kept in ``folder`` (usually ``Paths.secrets``)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = _load_or_make(folder / _KEY_NAME)

    @property
    def public_key(self) -> str:
        """The line that a guest's ``TrustedUserCAKeys`` file holds (sshd_config(5))."""
        return _line(self._key, "fluid-user-ca")

    def certify(
        self,
        public_key: str,
        *,
        ttl_s: int,
        key_id: str,
        principals: Sequence[str] = ("root",),
        permits: Collection[Permit] = (),
    ) -> str:
        """A user certificate, as one OpenSSH line, valid from 60 s before now for ``ttl_s`` more seconds.

        Args:
            public_key: an OpenSSH public key line.
            ttl_s: 60 to 600.
            key_id: what sshd logs when the certificate is used.
            permits: rights beyond running a command; none by default.

        Raises:
            InvalidValue: a key that cannot be read, or a life outside the limits.
        """
        if not CERTIFICATE_TTL_MIN_S <= ttl_s <= CERTIFICATE_TTL_MAX_S:
            raise InvalidValue(
                f"a certificate cannot live {ttl_s} s",
                remedy=f"ask for {CERTIFICATE_TTL_MIN_S} to {CERTIFICATE_TTL_MAX_S} seconds",
            )
        if not principals:
            raise InvalidValue(
                "a certificate without a principal would open every account", remedy="name the user"
            )
        try:
            subject = asyncssh.import_public_key(public_key)
        except (asyncssh.KeyImportError, ValueError) as error:
            raise InvalidValue(
                "that is not an OpenSSH public key", remedy="send the one line of the .pub file"
            ) from error
        issued = int(time.time())
        certificate = self._key.generate_user_certificate(
            subject,
            key_id,
            serial=secrets.randbits(63),
            principals=list(principals),
            valid_after=issued - CLOCK_SKEW_S,
            valid_before=issued + ttl_s,
            permit_x11_forwarding="x11-forwarding" in permits,
            permit_agent_forwarding="agent-forwarding" in permits,
            permit_port_forwarding="port-forwarding" in permits,
            permit_pty="pty" in permits,
            permit_user_rc="user-rc" in permits,
        )
        return certificate.export_certificate("openssh").decode("ascii").strip()


def make_host_key() -> tuple[str, str]:
    """A fresh Ed25519 host key: (private OpenSSH text, the public line that SSH must meet)."""
    return make_client_key()


def make_client_key() -> tuple[str, str]:
    """A fresh Ed25519 key pair: (private OpenSSH text, public line)."""
    key = asyncssh.generate_private_key(KEY_TYPE)
    return key.export_private_key("openssh").decode("ascii"), _line(key)


def _line(key: asyncssh.SSHKey, comment: str = "") -> str:
    key.set_comment(comment or None)
    return key.export_public_key("openssh").decode("ascii").strip()


def _load_or_make(file: Path) -> asyncssh.SSHKey:
    """The CA key; made under a temporary name and linked, so that two starts at once agree on one key."""
    if not file.exists():
        fresh = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(asyncssh.generate_private_key(KEY_TYPE).export_private_key("openssh"))
                out.flush()
                os.fsync(out.fileno())
            _link(fresh, file)
        finally:
            fresh.unlink()
    if file.stat().st_mode & 0o077:
        raise ConfigError(f"{file} holds the SSH CA key and others can read it", remedy=f"chmod 600 {file}")
    try:
        return asyncssh.import_private_key(file.read_bytes())
    except asyncssh.KeyImportError as error:
        raise ConfigError(
            f"{file} is not an SSH private key",
            remedy="restore it from a backup; a new one locks us out of every guest",
        ) from error


def _link(fresh: Path, file: Path) -> None:
    try:
        os.link(fresh, file)
    except FileExistsError:
        return  # another start was first: its key is the key
