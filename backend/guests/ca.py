"""The SSH user CA: certificates are short, for one principal, with every ``permit-*`` off unless named.

The CA key is made on first use, lies in a 0700 folder with mode 0600, and never leaves this module. It is
changed in two steps, each whole after a crash: a next key is made, which guests learn to trust beside the
first; then it signs, and of the first its public half alone is kept, for the life of one certificate. Or at
once, when all that was signed before is revoked.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import asyncssh

from backend.errors import ConfigError, InvalidValue, WrongState
from backend.models import now
from backend.steps import reached

KEY_TYPE = "ssh-ed25519"
CERTIFICATE_TTL_MIN_S = 60
CERTIFICATE_TTL_MAX_S = 600
CLOCK_SKEW_S = 60  # a guest's clock may lag behind ours after a restore
_KEY_NAME, _NEXT_NAME, _OLD_NAME = "user_ca", "user_ca.next", "user_ca.old"
_COMMENT = "fluid-user-ca"
_PRIVATE = 0o600

Permit = Literal["pty", "port-forwarding", "agent-forwarding", "x11-forwarding", "user-rc"]


@dataclass(frozen=True)
class PublicCaKey:
    """A CA key as others see it. ``trusted_until``: of one that signs no more."""

    line: str
    since: datetime | None = None
    trusted_until: datetime | None = None

    @property
    def fingerprint(self) -> str:
        return str(asyncssh.import_public_key(self.line).get_fingerprint())


@dataclass(frozen=True)
class TrustedKeys:
    """What a guest's ``TrustedUserCAKeys`` file is to hold (sshd_config(5)), and a short name for that."""

    text: str

    @property
    def mark(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


class CertificateAuthority:
    """The Ed25519 user CA kept in ``folder`` (usually ``Paths.secrets``)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file, self._next_file, self._old_file = (
            folder / name for name in (_KEY_NAME, _NEXT_NAME, _OLD_NAME)
        )
        self._key = _load_or_make(self._file)
        self._next = _load_or_make(self._next_file) if self._next_file.exists() else None
        self._old = _read_old(self._old_file)
        if self._old and self._old.line == self.public_key:  # cut off before the next one signed
            self._old = None

    @property
    def public_key(self) -> str:
        """The line of the key that signs, for a ``TrustedUserCAKeys`` file."""
        return _line(self._key, _COMMENT)

    # --- changing the key ------------------------------------------------------------------------------

    @property
    def current(self) -> PublicCaKey:
        """The key that signs; since when it is there."""
        made = datetime.fromtimestamp(self._file.stat().st_mtime, UTC)
        return PublicCaKey(self.public_key, since=made)

    @property
    def pending(self) -> PublicCaKey | None:
        """The key that will sign once the guests trust it."""
        return PublicCaKey(_line(self._next, _COMMENT)) if self._next else None

    @property
    def old(self) -> PublicCaKey | None:
        """The key before, while certificates of it may be in use."""
        return self._old

    @property
    def trusted(self) -> TrustedKeys:
        """Every key that guests are to trust now, in an order of their own."""
        keys = [self.current, self.pending, self._old]
        return TrustedKeys("\n".join(sorted(key.line for key in keys if key)))

    def prepare(self) -> None:
        """Make the next key, unless there is one. It signs nothing yet."""
        self._next = _load_or_make(self._next_file)
        reached("next key")

    def switch(self) -> None:
        """Sign with the next key from now on. Raises WrongState without one."""
        if self._next is None:
            raise WrongState("there is no next CA key", remedy="fluid ca rotate")
        until = now() + timedelta(seconds=CERTIFICATE_TTL_MAX_S)
        old = PublicCaKey(self.public_key, trusted_until=until)
        _write(self._old_file, json.dumps({"line": old.line, "trusted_until": until.isoformat()}).encode())
        reached("old kept")
        self._sign_with(self._next, old)
        reached("switched")

    def revoke(self) -> None:
        """Sign with a fresh key at once and trust no other. What was signed before opens no guest that has
        learnt it."""
        self._old_file.unlink(missing_ok=True)
        self._next_file.unlink(missing_ok=True)
        fresh = _load_or_make(self._next_file)
        reached("next key")
        self._sign_with(fresh, None)
        reached("revoked")

    def _sign_with(self, key: asyncssh.SSHKey, old: PublicCaKey | None) -> None:
        """The next key's file is the key's from now on."""
        self._next_file.replace(self._file)
        _sync(self._file.parent)
        self._key, self._next, self._old = key, None, old

    def retire(self) -> PublicCaKey | None:
        """Forget the key before, when no certificate of it is valid any more; the one that was forgotten."""
        old = self._old
        if old is None or old.trusted_until is None or old.trusted_until > now():
            return None
        self._old_file.unlink(missing_ok=True)
        self._old = None
        return old

    # --- signing ---------------------------------------------------------------------------------------

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
        fresh = _fresh(file, asyncssh.generate_private_key(KEY_TYPE).export_private_key("openssh"))
        try:
            _link(fresh, file)
            _sync(file.parent)
        finally:
            fresh.unlink()
    if file.stat().st_mode & 0o077:
        raise ConfigError(f"{file} holds the SSH CA key and others can read it", remedy=f"chmod 600 {file}")
    try:
        return asyncssh.import_private_key(file.read_bytes())
    except asyncssh.KeyImportError as error:
        raise ConfigError(
            f"{file} is not an SSH private key",
            remedy="restore it from a backup (`fluid help keeping`); a new one locks us out of every guest",
        ) from error


def _read_old(file: Path) -> PublicCaKey | None:
    """The public half of the key before. What cannot be read trusts nothing."""
    try:
        told = json.loads(file.read_bytes())
        return PublicCaKey(told["line"], trusted_until=datetime.fromisoformat(told["trusted_until"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, data: bytes) -> None:
    """Replace a file whole."""
    _fresh(file, data).replace(file)
    _sync(file.parent)


def _fresh(file: Path, data: bytes) -> Path:
    """``data`` on the disk, beside ``file`` and under another name, for us alone."""
    fresh = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    return fresh


def _sync(folder: Path) -> None:
    """A name that was given outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(fresh: Path, file: Path) -> None:
    try:
        os.link(fresh, file)
    except FileExistsError:
        return  # another start was first: its key is the key
