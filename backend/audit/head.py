"""The signed head: how far the chain goes, said with a key that the database does not hold.

The signature is Ed25519 over the canonical JSON of ``{at, hash, seq}``. Its file is replaced
whole, and only by a head that continues it.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from backend.audit.chain import Head, canonical
from backend.errors import AuditBroken, ConfigError
from backend.whole_files import write_lasting


@dataclass(frozen=True)
class SignedHead:
    """``signature`` is base64; ``at`` a timestamp of the chain's form."""

    seq: int
    hash: str
    at: str
    signature: str

    def message(self) -> bytes:
        """The bytes that are signed."""
        return canonical({"at": self.at, "hash": self.hash, "seq": self.seq}).encode()

    def save(self, file: Path) -> None:
        """Replace ``file`` (0644: anybody may keep a copy, that is what it is for)."""
        write_lasting(file, (canonical(asdict(self)) + "\n").encode(), 0o644)

    @classmethod
    def load(cls, file: Path) -> SignedHead:
        """Raises :class:`AuditBroken` for a file that is no signed head."""
        try:
            return cls.read(file.read_bytes())
        except (OSError, ValueError) as error:
            raise AuditBroken(
                f"{file} is not a signed head of the audit: {error}",
                remedy="put a kept copy back in its place",
            ) from error

    @classmethod
    def read(cls, text: str | bytes) -> SignedHead:
        """The content of such a file, whoever kept it. Raises :class:`ValueError`."""
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(str(error)) from error


class Signer:
    """The installation's audit key (PKCS #8 PEM, 0600); ``<name>.pub`` beside it is for whoever verifies.
    ``new``: it was made now, so nothing was ever signed."""

    def __init__(self, key_file: Path) -> None:
        self.public_file = key_file.with_name(key_file.name + ".pub")
        self.new = not key_file.exists()
        self._key = _load_or_make(key_file)
        public = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        write_lasting(self.public_file, public, 0o644)

    def sign(self, head: Head, at: str) -> SignedHead:
        """A head with its signature."""
        bare = SignedHead(head.seq, head.hash, at, "")
        signature = base64.b64encode(self._key.sign(bare.message())).decode()
        return SignedHead(head.seq, head.hash, at, signature)

    def verify(self, head: SignedHead) -> bool:
        """Whether this installation's key signed it."""
        return verify_signature(head, self._key.public_key())


def verify_signature(head: SignedHead, key: Ed25519PublicKey) -> bool:
    """Whether ``key`` signed ``head``."""
    try:
        key.verify(base64.b64decode(head.signature, validate=True), head.message())
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _load_or_make(key_file: Path) -> Ed25519PrivateKey:
    if not key_file.exists():
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_lasting(key_file, pem)
        return key
    if key_file.stat().st_mode & 0o077:
        raise ConfigError(f"others can read the audit key {key_file}", remedy=f"chmod 600 {key_file}")
    try:
        loaded = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except ValueError as error:
        raise ConfigError(
            f"{key_file} is not a PEM key", remedy="restore it from a backup (`fluid help keeping`)"
        ) from error
    if not isinstance(loaded, Ed25519PrivateKey):
        raise ConfigError(
            f"{key_file} is not an Ed25519 key", remedy="restore it from a backup (`fluid help keeping`)"
        )
    return loaded
