"""rpm's packages from databases that rpm made, and from what a hostile guest puts in their place."""

from __future__ import annotations

import contextlib
import lzma
import shutil
import sqlite3
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.changes import rpm
from backend.changes.attribution import Ownership
from backend.changes.rpm import Rpms, package_changes
from backend.changes.rpmdb.header import BadHeader, Header
from backend.changes.rpmdb.image import BadImage, checkpointed, opened
from backend.changes.rpmdb.worker import headers, package
from backend.disks import Comparison, Content, Entry, Pair, Side
from backend.errors import DiskUnreadable
from backend.models import ChangeVerb, FileKind

DATABASES = Path(__file__).parent / "rpmdb"
PACKAGES = frozenset({"Packages"})


def database(name: str) -> bytes:
    return lzma.decompress((DATABASES / f"{name}.sqlite.xz").read_bytes())


def entry(path: bytes) -> Entry:
    return Entry(path, FileKind.FILE, 0o644, 0, 0, 0, 0, 0, 12, 1, None, None, ())


class Disks:
    """Two disks that hold these files."""

    def __init__(self, before: dict[bytes, bytes], after: dict[bytes, bytes]) -> None:
        self.sides = {"before": before, "after": after}
        paths = sorted(before.keys() | after.keys())
        self.comparison = Comparison(
            tuple(Pair(entry(path), entry(path), None, None) for path in paths), Side(), Side()
        )

    async def read(self, layers, paths, limit_bytes):
        (name,) = layers
        return {path: self.sides[name].get(path) for path in paths}

    async def told(self) -> Rpms:
        return await rpm.read(self, self.comparison, ["before"], ["after"])


def history(reasons: dict[str, int]) -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        "CREATE TABLE rpm (item_id INTEGER, name TEXT);"
        "CREATE TABLE trans_item (id INTEGER PRIMARY KEY, item_id INTEGER, reason INTEGER);"
    )
    for number, (name, reason) in enumerate(reasons.items()):
        connection.execute("INSERT INTO rpm VALUES (?, ?)", (number, name))
        connection.execute("INSERT INTO trans_item (item_id, reason) VALUES (?, ?)", (number, reason))
    connection.commit()
    return connection.serialize()


async def test_packages_of_a_real_database_with_epoch_wish_and_scripts():
    path = rpm.DATABASES[1]
    disks = Disks({path: database("one")}, {path: database("two"), rpm.HISTORY: history({"greet": 1})})
    told = await disks.told()
    assert told.note == ""
    assert [
        (one.name, one.verb, one.before_version, one.after_version, one.wanted, one.arch)
        for one in package_changes(told)
    ] == [
        ("greet", ChangeVerb.ADDED, "", "3:2.1-1", False, "noarch"),
        ("hello", ChangeVerb.MODIFIED, "1.0-1", "1.1-1", True, "noarch"),
    ]
    assert "useradd greet" in next(one.scripts for one in told.after if one.name == "greet")


STATE = 'version = "1.0"\n[packages]\n"greet.noarch" = {{reason="{}"}}\n"hello.noarch" = {{reason="User"}}\n'


@pytest.mark.parametrize(
    ("state", "wanted", "said"),
    [
        (STATE.format("Dependency"), False, False),
        (STATE.format("Weak Dependency"), False, False),
        (STATE.format("External User"), True, False),
        ("[packages]\ngreet = 1\n", True, True),
        ("a." * 100_000 + "b = 1", True, True),
        ("\0", True, True),
    ],
)
async def test_of_dnf5_its_state_says_who_was_pulled_in_and_what_cannot_be_read_is_said(
    state: str, wanted: bool, said: bool
):
    path = rpm.DATABASES[0]
    after = {path: database("two"), rpm.REASONS: state.encode(), rpm.HISTORY: history({"greet": 2})}
    told = await Disks({path: database("one")}, after).told()
    assert {one.name: one.wanted for one in package_changes(told)} == {"greet": wanted, "hello": True}
    assert ("which packages were pulled in is not told" in told.note) is said


async def test_a_file_is_the_package_s_own_only_with_the_content_that_rpm_states():
    path = rpm.DATABASES[0]
    told = await Disks({path: database("one")}, {path: database("two")}).told()
    owned = Ownership()
    owned.add_rpms(told.after)
    stated = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"  # of "hello\n"
    text = entry(b"/usr/share/hello/text")
    assert owned.own(text, Content(6, stated, None, None, "")) == "hello"
    assert owned.own(text, Content(6, "0" * 64, None, None, "")) == ""
    assert owned.own(text, Content(6, None, None, None, "over")) == ""


def test_what_stands_in_the_write_ahead_log_only_counts(tmp_path):
    whole = tmp_path / "rpmdb.sqlite"
    whole.write_bytes(database("one"))
    connection = sqlite3.connect(whole)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("INSERT INTO Packages (blob) VALUES (?)", (b"x" * 9000,))
    connection.commit()
    connection.execute("BEGIN")
    connection.execute("INSERT INTO Packages (blob) VALUES (?)", (b"y" * 9_000_000,))  # spills, no commit
    frozen = tmp_path / "frozen"
    frozen.mkdir()
    for name in ("rpmdb.sqlite", "rpmdb.sqlite-wal"):
        shutil.copy(tmp_path / name, frozen / name)
    connection.rollback()
    connection.close()
    data, log = ((frozen / name).read_bytes() for name in ("rpmdb.sqlite", "rpmdb.sqlite-wal"))
    found = headers({"database": data, "log": log})
    assert len(found) == 2
    assert b"x" * 9000 in found
    assert len(headers({"database": data, "log": b""})) == 1
    assert len(headers({"database": data, "log": log[:5000]})) == 1  # cut off before the commit


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"no database", "no SQLite database"),
        (b"SQLite format 3\0" + bytes(5000), "damaged"),
        (None, "no table Packages"),
    ],
)
async def test_a_database_that_is_none_is_said_to_be_none(data: bytes | None, why: str):
    if data is None:
        connection = sqlite3.connect(":memory:")
        connection.execute(
            "CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS"
            " (SELECT x'00' UNION ALL SELECT blob FROM n) SELECT 1 AS hnum, blob FROM n"
        )
        data = connection.serialize()
    told = await Disks({rpm.DATABASES[1]: database("one")}, {rpm.DATABASES[1]: data}).told()
    assert (told.before, told.after) == ((), ())
    assert why in told.note


async def test_an_older_form_is_named_and_not_taken_for_no_packages():
    told = await Disks({}, {b"/var/lib/rpm/Packages": b""}).told()
    assert "/var/lib/rpm/Packages: packages are not told" in told.note


@pytest.mark.parametrize(
    "path",
    [
        *rpm.DATABASES,
        *rpm.OLDER,
        rpm.HISTORY,
        rpm.REASONS,
        b"/var/lib/rpm/rpmdb.sqlite-wal",
        b"/usr/lib/sysimage/rpm/rpmdb.sqlite-wal",
        b"/var/lib/dnf/history.sqlite-wal",
    ],
)
def test_where_a_guest_is_asked_a_changed_database_is_said_not_to_be(path: bytes):
    note = rpm.untold(Disks({path: b""}, {path: b""}).comparison).note
    assert note == f"{path.decode()}: packages are not told, a guest is not asked for it"
    assert rpm.untold(Disks({b"/etc/x": b""}, {b"/etc/x": b""}).comparison) == Rpms()


async def test_a_wish_that_stands_in_the_log_of_dnf_only_is_looked_for():
    path = rpm.DATABASES[1]
    disks = Disks({path: database("one")}, {path: database("two")})
    log = Disks({rpm.HISTORY + b"-wal": b""}, {rpm.HISTORY + b"-wal": b""})
    disks.comparison = log.comparison
    assert (await disks.told()).after


def test_a_schema_can_do_nothing_but_be_read():
    connection = opened(database("one"), b"", PACKAGES)
    for statement in (
        "SELECT * FROM Name",
        "ATTACH ':memory:' AS x",
        "DELETE FROM Packages",
        "PRAGMA user_version",
    ):
        with pytest.raises(sqlite3.DatabaseError, match=r"not authorized|prohibited"):
            connection.execute(statement)


@given(st.integers(0, 3000), st.binary(min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_damaged_header_is_refused_or_read_and_nothing_else(at: int, bits: bytes):
    blob = bytearray(next(iter(headers({"database": database("one")}))))
    blob[at : at + len(bits)] = bits
    with contextlib.suppress(BadHeader):
        package(bytes(blob))


@pytest.mark.parametrize(
    "blob", [b"", struct.pack(">II", 0xFFFFFFFF, 1), struct.pack(">II", 1, 0xFFFFFFFF) + bytes(99)]
)
def test_a_header_of_impossible_sizes_is_refused(blob: bytes):
    with pytest.raises(BadHeader):
        Header(blob)


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_log_is_taken_or_left(log: bytes):
    data = database("one")
    assert checkpointed(data, log)[100:] == data[100:]
    with pytest.raises(BadImage):
        checkpointed(log, b"")


async def test_a_process_that_says_nothing_is_no_answer(monkeypatch):
    monkeypatch.setattr(rpm, "_START", "import sys; sys.stdin.buffer.read()")
    with pytest.raises(DiskUnreadable):
        await rpm._ask([{}, {}])
