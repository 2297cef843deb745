"""Files that a hostile guest made long or strange: the diff ends, the backend answers meanwhile, and what was
not read is said. Bounds of time are far from what is needed, and farther from what it took."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backend.changes import BlobStore, Differ, NoiseProfile, accounts, attribution, bounds, dpkg, residual
from backend.changes.differ import PASSWD
from backend.changes.settings import access
from backend.changes.settings.fact import Place
from backend.changes.settings.layered import LAYERED, without_effect
from backend.disks import Comparison, Content, Entry, Pair, Side
from backend.models import Changes, ChangeVerb, FileChange, FileKind, SettingChange, SettingKind

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


def test_an_sshd_that_includes_itself_over_and_over_is_told_once():
    main = b"Include /etc/ssh/sshd_config.d/*.conf\n" * 9_000
    inner = b"".join(b"Port %d\n" % at for at in range(9_000))
    places = {
        path: Place(path, data=data)
        for path, data in ((access.SSHD_MAIN, main), (b"/etc/ssh/sshd_config.d/x.conf", inner))
    }
    (sshd,) = [one for one in LAYERED if one.main == access.SSHD_MAIN]
    with soon():
        facts = sshd.effective(places)
        assert list(without_effect(sshd, places.values(), facts)) == []
    assert len(facts) == 9_000


def test_who_made_which_of_many_accounts_is_told_in_time_that_grows_with_them():
    rows = b"".join(b"u%d:x:%d:%d::/:/bin/sh\n" % (at, at, at) for at in range(bounds.MAX_ROWS))
    scripts = {f"p{at}": "adduser u7\n" + "# text\n" * 30_000 for at in range(20)}
    with soon():
        found = accounts.user_changes(
            accounts.parse_accounts(b"", b"", b""),
            accounts.parse_accounts(rows, b"", b""),
            scripts | {"u7": "adduser u7"},
        )
    assert {one.name: one.package for one in found if one.package} == {"u7": "u7"}


def test_a_log_of_many_windows_is_looked_through_for_each_of_many_files():
    windows = [dpkg.Window(at, at + 1, f"p{at}") for at in range(50_000)]
    told = attribution.Scripts(attribution.Ownership(), Comparison((), Side(), Side()), windows, [])
    with soon():
        assert all(told.surely_ran(int(at * 1e9)) for at in range(20_000))
    assert not told.surely_ran(int(60_000 * 1e9))


def test_settings_of_many_names_are_compared_in_time_that_grows_with_them(changes):
    def made(value: str) -> Changes:
        rows = [
            SettingChange(
                kind=SettingKind.HOSTS,
                name=str(at),
                verb=ChangeVerb.ADDED,
                after={"names": value},
                paths=["/etc/hosts"],
            )
            for at in range(10_000)
        ]
        file = FileChange(path="/etc/hosts", verb=ChangeVerb.ADDED, hidden="identity")
        return changes(files=[file], settings=rows)

    one, other = made("a"), made("b")
    with soon():
        assert len(residual(one, other)) == 20_000
