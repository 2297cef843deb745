"""Files that a hostile guest made long or strange: the diff ends, the backend answers meanwhile, and what was
not read is said. Bounds of time are far from what is needed, and farther from what it took."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backend.changes import BlobStore, Differ, NoiseProfile, bounds, dpkg
from backend.changes.differ import PASSWD
from backend.disks import Comparison, Content, Entry, Pair, Side
from backend.models import Changes, FileKind

SOON_S = 10
STATUS = b"Package: a\nStatus: install ok installed\nVersion: 1\n\n"
ROOT = b"root:x:0:0::/root:/bin/sh\n"


@contextmanager
def soon() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SOON_S


def entry(path: bytes, size: int) -> Entry:
    return Entry(path, FileKind.FILE, 0o644, 0, 0, size, 0, 0, 1, 1, None, None, ())


class OneReader:
    """Tells one comparison."""

    def __init__(self, before: dict[bytes, bytes], after: dict[bytes, bytes]) -> None:
        pairs = [
            Pair(
                *(entry(path, len(side[path])) for side in (before, after)),
                *map(self.content, (before[path], after[path])),
            )
            for path in after
        ]
        self.comparison = Comparison(tuple(pairs), Side(dict(before), {}), Side(dict(after), {}))

    @staticmethod
    def content(data: bytes) -> Content:
        return Content(len(data), str(hash(data)), None, None, "over 5 bytes")

    async def compare(self, *_: object, **__: object) -> Comparison:
        return self.comparison


@pytest.fixture
def diff(tmp_path):
    async def made(before: dict[bytes, bytes], after: dict[bytes, bytes]) -> Changes:
        reader = OneReader(before, after)
        differ = Differ(reader, BlobStore(tmp_path), b"k" * 32, NoiseProfile.default())
        return await differ.diff("SBX-1", "pre", "post", [], [], quiesced=True)

    return made


def test_a_field_of_millions_of_lines_is_read_in_time_that_grows_with_it():
    with soon():
        (found,) = dpkg.parse_status(
            STATUS.rstrip() + b"\nDescription: x\n" + b" x\n" * (8 << 20 >> 1)
        ).values()
    assert found.version == "1"


async def test_what_a_guest_wrote_is_not_parsed_where_the_doors_are_answered(diff, monkeypatch):
    threads = []
    parse = dpkg.parse_status
    monkeypatch.setattr(
        dpkg, "parse_status", lambda data: threads.append(threading.current_thread()) or parse(data)
    )
    await diff({dpkg.STATUS: b""}, {dpkg.STATUS: STATUS})
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("path", "old", "new", "why"),
    [
        (dpkg.STATUS, STATUS, STATUS + b"x" * bounds.MAX_BYTES, "over 16 MiB"),
        (dpkg.STATUS, STATUS, STATUS + b"\n" * bounds.MAX_LINES, "over 300000 lines"),
        (PASSWD, ROOT, ROOT + b"a:x:0:0::/:/bin/sh\n" * bounds.MAX_ROWS, "over 20000 lines"),
        (dpkg.EXTENDED, b"", b"x" * (bounds.MAX_BYTES + 1), "over 16 MiB"),
    ],
    ids=["bytes", "lines", "rows", "marks"],
)
async def test_a_file_that_is_too_long_is_told_as_not_read_and_never_as_half(diff, path, old, new, why):
    with soon():
        found = await diff({path: old}, {path: new})
    assert f"{path.decode()}: what it states is not told ({why})" in found.notes
    assert found.packages == found.users == []
    shown = [change.path for change in found.shown()]
    assert shown == ([] if path == dpkg.EXTENDED else [path.decode()])


def test_a_file_that_the_reader_of_the_disk_gave_up_is_told_by_its_size():
    reader = OneReader({dpkg.STATUS: STATUS}, {dpkg.STATUS: STATUS})
    (pair,) = reader.comparison.pairs
    huge = Pair(pair.before, entry(dpkg.STATUS, 1 << 30), pair.before_content, pair.after_content)
    comparison = Comparison((huge,), reader.comparison.before, Side({dpkg.STATUS: None}, {}))
    found, unread = bounds.bounded(comparison, ())
    assert list(unread) == [dpkg.STATUS]
    assert found.before.whole == found.after.whole == {dpkg.STATUS: None}


async def test_notes_of_many_packages_are_told_in_time_that_grows_with_them(diff):
    rows = b"".join(b"Package: p%d\nStatus: install ok unpacked\n\n" % at for at in range(90_000))
    with soon():
        found = await diff({dpkg.STATUS: rows}, {dpkg.STATUS: rows.replace(b"p5\n", b"p5x\n")})
    assert "package p0 is unpacked" in found.notes
