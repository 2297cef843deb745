"""Manifests of disks, taken and kept: the first of a machine is read whole, a later one is made of the one
before it and of what changed since, as the blocks of the two disks show.

So a snapshot costs what changed: what is read, what is written, and what is kept. Whatever is not as it
should be (a piece that is gone or damaged, two disks that cannot be compared) is no error: the disk is read
whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from backend.disks import DiskReader
from backend.disks.pieces import Part, Piece, Splice, digest
from backend.errors import DiskUnreadable, NotFound
from backend.store import Manifests as Rows

log = logging.getLogger(__name__)

LEVEL = 1  # of zlib: a third of the size; more costs more time than it saves bytes
MAX_PIECE_BYTES = 512 << 20


class Taken(NamedTuple):
    """A manifest that is kept: its name, how many names it has, and how many pieces of it are new."""

    sha256: str
    names: int
    fresh: int


class Earlier(NamedTuple):
    """A point that a manifest is kept of, and its layers, base first."""

    sha256: str
    layers: Sequence[Path]


class Manifests:
    """Takes them from disks, and keeps them."""

    def __init__(self, reader: DiskReader, rows: Rows) -> None:
        self._reader, self._rows = reader, rows

    async def take(self, layers: Sequence[Path], since: Earlier | None = None) -> Taken:
        """The manifest of a disk, kept. ``since``: a point of the same machine.

        Raises:
            DiskUnreadable: the disk is refused.
        """
        if since is not None:
            try:
                return await self._spliced(layers, since)
            except (DiskUnreadable, NotFound) as error:
                log.info("a manifest is read whole: %s", error.message)
        manifest = await self._reader.manifest(layers)
        names = await asyncio.to_thread(lambda: len(manifest.entries))
        return await self.keep(names, manifest.pieces)

    async def keep(self, names: int, pieces: Sequence[Part | Piece], known: Collection[Part] = ()) -> Taken:
        """Keep a manifest of new pieces and of ``known`` parts, those of one that is kept.

        Raises:
            NotFound: such a part is not there any more.
        """
        parts, fresh = await asyncio.to_thread(_packed, pieces, known)
        sha256 = digest(parts)
        await self._rows.keep(sha256, names, parts, fresh)
        return Taken(sha256, names, len(fresh))

    async def parts(self, sha256: str) -> tuple[int, list[Part]]:
        """How many names a manifest has, and its parts in order. Raises :class:`NotFound`."""
        kept = await self._rows.find(sha256)
        if kept is None:
            raise NotFound(f"no manifest {sha256} is kept", remedy="make a new snapshot")
        return kept.names, [Part(*part) for part in kept.parts]

    async def pieces(self, sha256s: Collection[bytes]) -> dict[bytes, bytes]:
        """Pieces by their SHA-256, which each is seen to have. Raises :class:`NotFound`."""
        packed = await self._rows.pieces(sha256s)
        return await asyncio.to_thread(_unpacked, sha256s, packed)

    async def _spliced(self, layers: Sequence[Path], since: Earlier) -> Taken:
        names, parts = await self.parts(since.sha256)
        splice = Splice(parts, await self._reader.edits(since.layers, layers))
        while wanted := splice.wanted:
            given = await self.pieces(wanted)
            await asyncio.to_thread(splice.give, given)
        return await self.keep(names + splice.added, splice.pieces, parts)


def _packed(pieces: Iterable[Part | Piece], known: Iterable[Part]) -> tuple[list[Part], dict[bytes, bytes]]:
    """The parts of a manifest, and its new pieces compressed."""
    old = {part.sha256 for part in known}
    parts: list[Part] = []
    fresh: dict[bytes, bytes] = {}
    for piece in pieces:
        part = piece.part if isinstance(piece, Piece) else piece
        parts.append(part)
        if isinstance(piece, Piece) and part.sha256 not in old:
            fresh[part.sha256] = zlib.compress(piece.data, LEVEL)
    return parts, fresh


def _unpacked(sha256s: Iterable[bytes], packed: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for sha256 in sha256s:
        try:
            data = zlib.decompressobj().decompress(packed[sha256], MAX_PIECE_BYTES)
        except (KeyError, zlib.error):
            data = b""
        if hashlib.sha256(data).digest() != sha256:
            raise NotFound(
                f"piece {sha256.hex()} of a manifest is gone or damaged", remedy="read the disk again"
            )
        found[sha256] = data
    return found
