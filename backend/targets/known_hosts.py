"""Reads known_hosts as sshd(8) describes it: plain, hashed and pattern entries; revoked keys never count."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hmac
from pathlib import Path

from backend.errors import ConfigError

SSH_PORT = 22
_HASHED = "|1|"
_PREFERRED = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


def host_key(file: Path, address: str, port: int = SSH_PORT) -> str | None:
    """``type base64`` of the key that ``address`` must show, the strongest kind first; None if unknown.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", remedy="check targets.groups") from error
    name = address if port == SSH_PORT else f"[{address}]:{port}"
    found: set[tuple[str, str]] = set()
    revoked: set[tuple[str, str]] = set()
    for line in lines:
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#") or marker == "@cert-authority":
            continue
        if _matches(words[0], name):
            (revoked if marker == "@revoked" else found).add((words[1], words[2]))
    for kind in _PREFERRED:
        for known, key in sorted(found - revoked):
            if known == kind:
                return f"{known} {key}"
    return None


def _matches(names: str, name: str) -> bool:
    if names.startswith(_HASHED):
        return _is_hash_of(names, name)
    patterns = names.split(",")
    if any(pattern.startswith("!") and _like(pattern[1:], name) for pattern in patterns):
        return False
    return any(_like(pattern, name) for pattern in patterns if not pattern.startswith("!"))


def _like(pattern: str, name: str) -> bool:
    """ssh knows ``*`` and ``?`` only; a bracket is part of ``[host]:port``."""
    return fnmatch.fnmatchcase(name.lower(), pattern.lower().replace("[", "[[]"))


def _is_hash_of(entry: str, name: str) -> bool:
    """``|1|salt|HMAC-SHA1(salt, name)``, both in base64."""
    try:
        salt, digest = (base64.b64decode(part) for part in entry[len(_HASHED) :].split("|"))
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.lower().encode(), "sha1"), digest)
