"""What parent and worker say to each other: one JSON job, one framed answer.

An answer is ``u32 length, JSON, blobs``; the JSON names each blob's length in order. The parent trusts
nothing in it: a worker has read what a hostile guest wrote.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from backend.errors import DiskUnreadable

_LENGTH = struct.Struct(">I")
MAX_HEAD_BYTES = 512 << 20


def text(data: bytes) -> str:
    """Bytes as JSON can hold them, without loss."""
    return data.decode("latin-1")


def raw(value: str) -> bytes:
    """The bytes behind :func:`text`."""
    return value.encode("latin-1")


class Blobs:
    """Collects the blobs of an answer; equal ones are sent once."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._known: dict[bytes, int] = {}

    def add(self, data: bytes | None) -> int | None:
        """The index of a blob; None for None."""
        if data is None:
            return None
        if data not in self._known:
            self._known[data] = len(self.parts)
            self.parts.append(data)
        return self._known[data]


def frame(head: dict[str, Any], parts: list[bytes]) -> list[bytes]:
    """An answer in pieces to write."""
    body = json.dumps({**head, "blobs": [len(part) for part in parts]}, separators=(",", ":")).encode()
    return [_LENGTH.pack(len(body)), body, *parts]


def parse(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """An answer's JSON and blobs. Raises :class:`DiskUnreadable` when it is not one."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        if length > MAX_HEAD_BYTES or _LENGTH.size + length > len(data):
            raise ValueError("cut off")
        at = _LENGTH.size + length
        head = json.loads(data[_LENGTH.size : at])
        parts = []
        for size in head["blobs"]:
            if not isinstance(size, int) or size < 0 or at + size > len(data):
                raise ValueError("cut off")
            parts.append(data[at : at + size])
            at += size
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise DiskUnreadable(f"the disk reader's answer is broken: {error}") from error
    return head, parts
