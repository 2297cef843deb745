"""Manifests that are kept in memory, as the database keeps them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from backend.changes import Manifests
from backend.disks import DiskReader
from backend.errors import NotFound
from backend.store import KeptManifest


class Rows:
    """What is kept. ``asked``: how many pieces, each time."""

    def __init__(self) -> None:
        self.manifests: dict[str, KeptManifest] = {}
        self.data: dict[bytes, bytes] = {}
        self.asked: list[int] = []

    async def keep(
        self, sha256: str, names: int, parts: Sequence[tuple[bytes, bytes]], fresh: Mapping[bytes, bytes]
    ) -> None:
        if any(piece not in self.data and piece not in fresh for _, piece in parts):
            raise NotFound("a piece is gone")
        self.data |= fresh
        self.manifests[sha256] = KeptManifest(names, parts)

    async def find(self, sha256: str) -> KeptManifest | None:
        return self.manifests.get(sha256)

    async def pieces(self, sha256s: Collection[bytes]) -> dict[bytes, bytes]:
        self.asked.append(len(sha256s))
        return {sha256: self.data[sha256] for sha256 in sha256s if sha256 in self.data}


def kept_in(rows: Rows) -> Manifests:
    """Over a real reader of disks."""
    return Manifests(DiskReader(), cast("Any", rows))
