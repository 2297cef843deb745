"""The primary keys of an OpenPGP keyring: fingerprint, first user id, algorithm. Nothing is verified.

Sources: RFC 4880 §4, §5.5, §6, §12.2; RFC 9580 for version 6.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

MAX_PACKETS = 20_000
_ARMOUR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t\r]*\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL
)
_PUBLIC_KEY, _USER_ID = 6, 13
_ALGORITHMS = {1: "rsa", 17: "dsa", 19: "ecdsa", 22: "eddsa", 27: "ed25519", 28: "ed448"}
_HEADER_LINE = re.compile(rb"[A-Za-z]+: ")


@dataclass(frozen=True, slots=True)
class Key:
    """A primary key. ``made``: a date."""

    fingerprint: str
    owner: str
    algorithm: str
    made: str


def keys(data: bytes) -> list[Key]:
    """The keys in ``data``, armoured or not; those before the first byte that makes no sense."""
    found: list[Key] = []
    for block in [_dearmoured(match[1]) for match in _ARMOUR.finditer(data)] or [data]:
        fresh: Key | None = None
        for tag, body in _packets(block):
            if tag == _PUBLIC_KEY and (fresh := _key(body)):
                found.append(fresh)
            elif tag == _USER_ID and fresh is not None and not fresh.owner:
                fresh = Key(
                    fresh.fingerprint, body.decode("utf-8", "surrogateescape"), fresh.algorithm, fresh.made
                )
                found[-1] = fresh
    return found


def _dearmoured(block: bytes) -> bytes:
    lines = [line.strip() for line in block.split(b"\n")]
    lines = [line for line in lines if line and not line.startswith(b"=") and not _HEADER_LINE.match(line)]
    try:
        return base64.b64decode(b"".join(lines), validate=True)
    except binascii.Error:
        return b""


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    for _ in range(MAX_PACKETS):
        if at + 2 > len(data) or not data[at] & 0x80:
            return
        tag, size, at = _head(data, at)
        if size < 0 or at + size > len(data):
            return
        yield tag, data[at : at + size]
        at += size


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, length (-1 for a length that no key has) and where the body begins."""
    first = data[at]
    if not first & 0x40:
        width = (1, 2, 4, 0)[first & 3]
        size = int.from_bytes(data[at + 1 : at + 1 + width], "big") if width else -1
        return first >> 2 & 0xF, size, at + 1 + width
    tag, one = first & 0x3F, data[at + 1]
    if one < 192:
        return tag, one, at + 2
    if one < 224:
        low = data[at + 2] if at + 2 < len(data) else 0
        return tag, ((one - 192) << 8) + low + 192, at + 3
    if one == 255:
        return tag, int.from_bytes(data[at + 2 : at + 6], "big"), at + 6
    return tag, -1, at


def _key(body: bytes) -> Key | None:
    if len(body) < 6 or body[0] not in (4, 6):
        return None
    if body[0] == 4:
        digest = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body[: 1 << 16], usedforsecurity=False)
        fingerprint = digest.hexdigest() if len(body) < 1 << 16 else ""
    else:
        fingerprint = hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest()
    made = datetime.fromtimestamp(int.from_bytes(body[1:5], "big"), UTC).date().isoformat()
    number = body[5]
    name = _ALGORITHMS.get(number, f"algorithm {number}")
    if name == "rsa" and len(body) > 8:
        name = f"rsa {int.from_bytes(body[6:8], 'big')}"
    return Key(fingerprint.upper(), "", name, made) if fingerprint else None
