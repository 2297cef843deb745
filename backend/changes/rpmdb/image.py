"""An SQLite database as bytes, opened in memory: no file, no lock, no code of its schema.

What a frozen disk shows may stand in the write-ahead log only; frames up to the last commit are laid over the
database. Sources: SQLite's file format, §1.3 and §4.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator

_MAGIC = b"SQLite format 3\0"
_WAL_MAGIC = (0x377F0682, 0x377F0683)  # checksums of little-endian words, of big-endian words
_WAL_HEAD, _FRAME_HEAD = struct.Struct(">8I"), struct.Struct(">6I")
_WAL_HEAD_BYTES, _FRAME_HEAD_BYTES = 32, 24
MAX_OPCODES = 200_000_000


class BadImage(ValueError):
    """Bytes that are no database."""


def checkpointed(database: bytes, log: bytes) -> bytes:
    """The database with what its log has committed, in rollback mode."""
    if len(database) < 512 or not database.startswith(_MAGIC):
        raise BadImage("it is no SQLite database")
    pages: dict[int, bytes] = {}
    size = 0
    page_bytes = int.from_bytes(database[16:18], "big")
    page_bytes = 65_536 if page_bytes == 1 else page_bytes
    pending: dict[int, bytes] = {}
    for number, commit, page in _frames(log, page_bytes):
        pending[number] = page
        if commit:
            pages |= pending
            pending, size = {}, commit
    image = bytearray(database)
    if size:
        if size * page_bytes > len(database) + len(log):
            raise BadImage("its log names pages that are not there")
        image = image[: size * page_bytes].ljust(size * page_bytes, b"\0")
        for number, page in pages.items():
            if 0 < number <= size:
                image[(number - 1) * page_bytes : number * page_bytes] = page
    image[18:20] = b"\1\1"  # in memory there is no write-ahead log
    return bytes(image)


def _frames(log: bytes, page_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    """Page number, database size after a commit or 0, content: of each frame whose checksum holds."""
    if len(log) < _WAL_HEAD_BYTES:
        return
    magic, _version, size, _sequence, *salt, one, two = _WAL_HEAD.unpack_from(log)
    if magic not in _WAL_MAGIC or size != page_bytes:
        return
    order = ">" if magic & 1 else "<"
    if _checksum(log[:24], order, (0, 0)) != (one, two):
        return
    total = (one, two)
    step = _FRAME_HEAD_BYTES + page_bytes
    for at in range(_WAL_HEAD_BYTES, len(log) - step + 1, step):
        number, commit, *frame_salt, one, two = _FRAME_HEAD.unpack_from(log, at)
        page = log[at + _FRAME_HEAD_BYTES : at + step]
        total = _checksum(log[at : at + 8] + page, order, total)
        if frame_salt != salt or total != (one, two):
            return
        yield number, commit, page


def _checksum(data: bytes, order: str, start: tuple[int, int]) -> tuple[int, int]:
    one, two = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data[: len(data) // 4 * 4])
    for at in range(0, len(words) - 1, 2):
        one = (one + words[at] + two) & 0xFFFFFFFF
        two = (two + words[at + 1] + one) & 0xFFFFFFFF
    return one, two


def opened(database: bytes, log: bytes, tables: frozenset[str]) -> sqlite3.Connection:
    """A connection that may read the named tables, real ones, and do nothing else."""
    connection = sqlite3.connect(":memory:")
    connection.deserialize(checkpointed(database, log))
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.text_factory = bytes
    left = [MAX_OPCODES // 1_000_000]

    def tired() -> int:
        left[0] -= 1
        return int(left[0] < 0)

    connection.set_progress_handler(tired, 1_000_000)
    rows = connection.execute("SELECT name, type, sql FROM sqlite_master").fetchall()
    real = {
        name.decode("utf-8", "replace")
        for name, kind, sql in rows
        if kind == b"table" and isinstance(sql, bytes) and sql.upper().startswith(b"CREATE TABLE")
    }
    if not tables <= real:
        raise BadImage(f"it has no table {', '.join(sorted(tables - real))}")

    def allowed(action: int, table: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_SELECT or (action == sqlite3.SQLITE_READ and table in tables):
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    connection.set_authorizer(allowed)
    return connection
