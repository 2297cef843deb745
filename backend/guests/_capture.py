"""What is kept of a stream: its head and its tail within a limit, and its true size. Memory stays flat."""

from __future__ import annotations

TAIL_SHARE = 4  # a quarter of the limit is kept for the end, where errors stand
NOTE_ROOM = 64  # bytes set aside for the line that tells of the cut
SMALL_LIMIT = 1024  # below this there is no room for a tail


class Capture:
    """One stream. ``feed`` each piece, then ``finish`` once."""

    def __init__(self, limit_bytes: int) -> None:
        self.size = 0  # true size, in bytes
        self._limit = limit_bytes
        share = limit_bytes // TAIL_SHARE
        self._tail_room = share - NOTE_ROOM if limit_bytes >= SMALL_LIMIT else 0
        self._head_room = limit_bytes - share if self._tail_room else limit_bytes
        self._head = bytearray()
        self._rest = bytearray()  # what follows the head: all of it up to the limit, then the tail only

    @property
    def truncated(self) -> bool:
        return self.size > self._limit

    def feed(self, data: bytes) -> bytes:
        """Take ``data``; returns the part that a live reader may see now."""
        self.size += len(data)
        room = self._head_room - len(self._head)
        shown = data[:room] if room > 0 else b""
        self._head += shown
        self._rest += data[len(shown) :]
        keep = self._limit - self._head_room
        if len(self._rest) > 2 * keep + NOTE_ROOM:
            del self._rest[: len(self._rest) - keep - 1]
        return shown

    def finish(self) -> bytes:
        """The end of the stream for a live reader: the rest, or the note of the cut and the tail."""
        if not self.truncated:
            return bytes(self._rest)
        if not self._tail_room:
            return b""
        left_out = self.size - len(self._head) - self._tail_room
        return b"\n[fluid: %d bytes left out]\n" % left_out + bytes(self._rest[-self._tail_room :])

    def kept(self) -> bytes:
        """Head and end together, at most the limit."""
        return bytes(self._head) + self.finish()
