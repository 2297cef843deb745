"""The recordings on the disk: a folder each, 0700, in it what it is of and its parts, 0600.

A part is written line by line and compressed when the next one begins: whatever ends the backend leaves
files that can be read. A part that was cut off lacks its last line. All of this blocks: threads do it.
"""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from backend.asciicast import CastEvent, event_line, header_line, read_events
from backend.errors import RecordingNotFound
from backend.models import Recording, now
from backend.panes.redaction import redacted

log = logging.getLogger(__name__)

ABOUT = "about.json"
PLAIN, PACKED, HALF = ".cast", ".cast.gz", ".half"
PART_BYTES = 1 << 20
"""About so large a part becomes before it is compressed."""
TERM = "screen-256color"  # what programs in a pane believe to write to
GZIP_WBITS = 31


@dataclass(frozen=True)
class Part:
    """One file of a recording. ``number`` counts from 1."""

    number: int
    path: Path

    @property
    def is_packed(self) -> bool:
        return self.path.name.endswith(PACKED)


class Shelf:
    """All recordings of an installation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # --- writing --------------------------------------------------------------------------------------------

    def begin(self, recording: Recording) -> None:
        """A new recording, empty."""
        (self.folder / recording.id).mkdir(mode=0o700)
        self.tell(recording)

    def tell(self, recording: Recording) -> None:
        """Keep what it is of; whole, or as it was."""
        folder = self.folder / recording.id
        half = folder / (ABOUT + HALF)
        _write(half, recording.model_dump_json().encode(), fresh=True)
        half.replace(folder / ABOUT)

    def append(self, recording: Recording, number: int, events: list[CastEvent]) -> int:
        """Add to a part, which begins with a header; how many bytes were written."""
        path = self._part(recording.id, number)
        lines = "".join(map(event_line, events))
        if not path.exists():
            lines = _head(recording) + lines
        _write(path, lines.encode("ascii"))
        return len(lines)

    def pack(self, id: str, *, but: int = 0) -> None:
        """Compress the parts that are still plain, except number ``but``."""
        for part in self.parts(id):
            if not part.is_packed and part.number != but:
                packed = part.path.with_name(part.path.name + ".gz")
                half = packed.with_name(packed.name + HALF)
                _write(half, gzip.compress(part.path.read_bytes(), 6), fresh=True)
                half.replace(packed)
                part.path.unlink()

    def cut(self, id: str, keep: int, *, but: int = 0) -> bool:
        """Let the oldest parts but the first go until ``keep`` are left beside number ``but``; whether any
        went."""
        parts = [part for part in self.parts(id) if part.number != but]
        gone = parts[1 : len(parts) - keep + 1] if len(parts) > keep else []
        for part in gone:
            part.path.unlink(missing_ok=True)
        return bool(gone)

    # --- reading --------------------------------------------------------------------------------------------

    def all(self) -> list[Recording]:
        """Newest first, with their sizes."""
        found = [one for name in self._names() if (one := self.find(name)) is not None]
        return sorted(found, key=lambda one: one.started_at, reverse=True)

    def find(self, id: str) -> Recording | None:
        """None for what is none, or was never begun to the end."""
        folder = self.folder / id
        try:
            recording = Recording.model_validate_json((folder / ABOUT).read_bytes())
            with os.scandir(folder) as files:
                size = sum(file.stat().st_size for file in files)
        except (OSError, ValidationError):
            return None
        return recording.model_copy(update={"id": id, "size_bytes": size})

    def require(self, id: str) -> Recording:
        """Raises :class:`RecordingNotFound`."""
        if (found := self.find(id)) is None:
            raise RecordingNotFound(f"no recording {id!a}", remedy="`fluid recordings list` shows them")
        return found

    def parts(self, id: str) -> list[Part]:
        """In order; a part that is there plain and packed is whole in the packed one."""
        found: dict[int, Part] = {}
        for path in sorted((self.folder / id).glob("*.cast*")):
            number, _, ending = path.name.partition(".")
            if number.isdigit() and f".{ending}" in (PLAIN, PACKED):
                found[int(number)] = Part(int(number), path)
        return [found[number] for number in sorted(found)]

    def events(self, id: str) -> list[CastEvent]:
        """Everything that can be read of it."""
        return list(self._events(id))

    def cast(self, id: str) -> str:
        """The whole as one asciicast, secrets withheld.

        Raises:
            RecordingNotFound: there is none.
        """
        head = _head(self.require(id))
        return head + "".join(map(event_line, redacted(self.events(id))))

    def _events(self, id: str) -> Iterator[CastEvent]:
        for part in self.parts(id):
            _, _, lines = _text_of(part).partition("\n")
            yield from read_events(lines.splitlines())[0]

    # --- keeping house --------------------------------------------------------------------------------------

    def settle(self, live: Collection[str]) -> None:
        """Close what a backend that ended left open, and clear what it left half."""
        for name in self._names():
            if name in live:
                continue
            for half in (self.folder / name).glob(f"*{HALF}"):
                half.unlink(missing_ok=True)
            recording = self.find(name)
            if recording is None:
                self.remove(name)
            elif recording.ended_at is None:
                self.close(recording, max((event.at for event in self._events(name)), default=0.0))

    def close(self, recording: Recording, duration_s: float) -> Recording:
        """It has ended; all its parts are compressed."""
        self.pack(recording.id)
        ended = recording.model_copy(update={"ended_at": now(), "duration_s": round(duration_s, 3)})
        self.tell(ended)
        return ended

    def expired(self, before: datetime) -> list[Recording]:
        """Those that ended earlier."""
        return [one for one in self.all() if one.ended_at is not None and one.ended_at < before]

    def trim(self, total_bytes: int) -> list[Recording]:
        """While all take more than ``total_bytes`` let the oldest that has ended go; those that went."""
        recordings = self.all()
        size, gone = sum(one.size_bytes for one in recordings), []
        for one in reversed(recordings):
            if size <= total_bytes:
                break
            if one.ended_at is not None:
                self.remove(one.id)
                size -= one.size_bytes
                gone.append(one)
        return gone

    def size(self) -> int:
        """Bytes of all."""
        return sum(one.size_bytes for one in self.all())

    def remove(self, id: str) -> None:
        """With all its parts."""
        shutil.rmtree(self.folder / id, ignore_errors=True)

    def _names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(entry.name for entry in self.folder.iterdir() if entry.name.startswith("REC-"))

    def _part(self, id: str, number: int) -> Path:
        return self.folder / id / f"{number:06d}{PLAIN}"


def _head(recording: Recording) -> str:
    stamp = int(recording.started_at.timestamp())
    title = f"{recording.sandbox_name} {recording.pane_id}"
    return header_line(recording.width, recording.height, stamp, title, TERM)


def _write(path: Path, data: bytes, *, fresh: bool = False) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_TRUNC if fresh else os.O_APPEND)
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)


def _text_of(part: Part) -> str:
    """A part's text as far as it is whole."""
    try:
        data = part.path.read_bytes()
        if part.is_packed:
            data = zlib.decompressobj(GZIP_WBITS).decompress(data, 64 * PART_BYTES)
    except (OSError, zlib.error) as error:
        log.warning("%s cannot be read: %s", part.path, error)
        return ""
    return data.decode("ascii", "replace")
