"""One header of rpm's database: an index of tags and a store of values, all bounds checked.

Source: rpm's docs/manual/format_header.md; tag numbers from rpmtag.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

MAX_HEADER_BYTES = 64 << 20
MAX_TAGS = 0xFFFF
MAX_VALUES = 500_000

NAME, VERSION, RELEASE, EPOCH, SUMMARY = 1000, 1001, 1002, 1003, 1004
INSTALL_TIME, ARCH, PRE_SCRIPT, POST_SCRIPT = 1008, 1022, 1023, 1024
FILE_DIGESTS, DIR_INDEXES, BASE_NAMES, DIR_NAMES, DIGEST_ALGORITHM = 1035, 1116, 1117, 1118, 5011
SHA256 = 8

_INTRO = struct.Struct(">II")
_ENTRY = struct.Struct(">IIII")
_INT32, _STRING, _STRING_ARRAY, _I18N = 4, 6, 8, 9


class BadHeader(ValueError):
    """Bytes that are no header."""


class Header:
    """Tags of a header. Raises :class:`BadHeader` on what rpm never wrote."""

    def __init__(self, blob: bytes) -> None:
        if not _INTRO.size <= len(blob) <= MAX_HEADER_BYTES:
            raise BadHeader(f"a header of {len(blob)} bytes")
        tags, store = _INTRO.unpack_from(blob)
        start = _INTRO.size + tags * _ENTRY.size
        if tags > MAX_TAGS or start + store > len(blob):
            raise BadHeader(f"a header of {tags} tags and {store} bytes")
        self._store = blob[start : start + store]
        self._index: dict[int, tuple[int, int, int]] = {}
        for tag, kind, offset, count in _ENTRY.iter_unpack(blob[_INTRO.size : start]):
            self._index.setdefault(tag, (kind, offset, count))

    def numbers(self, tag: int) -> list[int]:
        """The values of an INT32 tag; empty where it is not there."""
        kind, offset, count = self._index.get(tag, (_INT32, 0, 0))
        if kind != _INT32 or count > MAX_VALUES or offset + 4 * count > len(self._store):
            raise BadHeader(f"tag {tag} is no list of numbers")
        return list(struct.unpack_from(f">{count}I", self._store, offset))

    def texts(self, tag: int) -> list[bytes]:
        """The values of a string tag; empty where it is not there."""
        if tag not in self._index:
            return []
        kind, offset, count = self._index[tag]
        if kind not in (_STRING, _STRING_ARRAY, _I18N) or count > MAX_VALUES:
            raise BadHeader(f"tag {tag} is no text")
        return list(self._strings(offset, count))

    def text(self, tag: int) -> bytes:
        """The first value of a string tag; empty where it is not there."""
        return next(iter(self.texts(tag)), b"")

    def number(self, tag: int) -> int | None:
        """The first value of an INT32 tag."""
        return next(iter(self.numbers(tag)), None)

    def files(self) -> Iterator[tuple[bytes, str]]:
        """Paths and their SHA-256, empty where another digest or none is stated."""
        folders, places = self.texts(DIR_NAMES), self.numbers(DIR_INDEXES)
        names, digests = self.texts(BASE_NAMES), self.texts(FILE_DIGESTS)
        if len(places) != len(names) or any(place >= len(folders) for place in places):
            raise BadHeader("its files have no folders")
        known = self.number(DIGEST_ALGORITHM) == SHA256 and len(digests) == len(names)
        for at, (place, name) in enumerate(zip(places, names, strict=True)):
            yield folders[place] + name, digests[at].decode("ascii", "replace") if known else ""

    def _strings(self, offset: int, count: int) -> Iterator[bytes]:
        for _ in range(count):
            end = self._store.find(b"\0", offset)
            if end < 0:
                raise BadHeader("a text without an end")
            yield self._store[offset:end]
            offset = end + 1
