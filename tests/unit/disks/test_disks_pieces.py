"""A manifest in pieces: cut by its paths alone, and spliced to what a disk that is read whole gives."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.disks.pieces import LEAST, MOST, USUAL, Part, Piece, Splice, cut, digest, records, unshared
from backend.disks.records import Node, pack
from backend.errors import DiskUnreadable
from tests.unit.disks.conftest import tool

PATHS = [b"/", *sorted(b"/folder-%d/file-%d" % (number % 30, number) for number in range(4_000))]


def record(path: bytes, inode: int = 1) -> bytes:
    return pack(Node(path, 0o100644, 0, 0, 1, inode, 0, 0, 0, None, None, ()))


def tree(paths: list[bytes], inode: int = 1) -> dict[bytes, bytes]:
    return {path: record(path, inode) for path in paths}


def pieces_of(tree: dict[bytes, bytes]) -> list[Piece]:
    return cut(sorted(tree.items()))[0]


def spliced(before: dict[bytes, bytes], edits: dict[bytes, bytes | None]) -> tuple[Splice, int]:
    """Done, and how many pieces were looked into."""
    kept = {piece.part.sha256: piece.data for piece in pieces_of(before)}
    splice = Splice([piece.part for piece in pieces_of(before)], edits)
    looked = 0
    while wanted := splice.wanted:
        looked += len(wanted)
        splice.give({name: kept[name] for name in wanted})
    return splice, looked


def parts_of(splice: Splice) -> list[Part]:
    return [piece.part if isinstance(piece, Piece) else piece for piece in splice.pieces]


def apply(before: dict[bytes, bytes], edits: dict[bytes, bytes | None]) -> dict[bytes, bytes]:
    merged = {**before, **edits}
    return {path: data for path, data in merged.items() if data is not None}


CUTS = [piece.first for piece in pieces_of(tree(PATHS))]


@settings(deadline=None, max_examples=60)
@given(
    gone=st.sets(st.sampled_from(PATHS[1:]) | st.sampled_from(CUTS[1:]), max_size=40),
    other=st.sets(st.sampled_from(PATHS), max_size=40),
    new=st.sets(st.binary(min_size=1, max_size=6).map(lambda name: b"/" + name), max_size=300),
    run=st.tuples(st.integers(1, len(PATHS)), st.integers(0, 1_500)),
)
def test_a_splice_is_what_the_whole_would_be(gone, other, new, run) -> None:
    before = tree(PATHS)
    edits: dict[bytes, bytes | None] = {path: record(path, 9) for path in other | new}
    edits |= dict.fromkeys([*gone, *PATHS[run[0] : sum(run)]])  # single names, and whole pieces in a row
    splice, _ = spliced(before, edits)
    after = apply(before, edits)
    assert parts_of(splice) == [piece.part for piece in pieces_of(after)]
    assert len(before) + splice.added == len(after)


def test_one_change_looks_into_one_piece_and_makes_one() -> None:
    before = tree(PATHS)
    path = PATHS[2_000]
    splice, looked = spliced(before, {path: record(path, 9)})
    old, new = [piece.part for piece in pieces_of(before)], parts_of(splice)
    assert looked == 1 and len(old) > 8
    mine, theirs = unshared(old, new)
    assert len(mine) == len(theirs) == 1 and theirs[0].first == mine[0].first <= path
    assert digest(old) != digest(new)


def test_no_choice_of_names_makes_pieces_tiny_or_huge() -> None:
    always = (path for number in count() if not crc32(path := b"/%d" % number) % USUAL)
    never = (path for number in count() if crc32(path := b"/%d" % number) % USUAL)
    for names, size in ((always, LEAST), (never, MOST)):
        chosen = tree(sorted(next(names) for _ in range(3_000)))
        assert {len(list(records(piece.data))) for piece in pieces_of(chosen)[:-1]} == {size}


@pytest.mark.parametrize(
    ("edits", "words"),
    [({b"/": None}, "no root"), ({b"etc": b""}, "no absolute path"), ({b"": b""}, "absolute")],
)
def test_changes_that_no_tree_can_have_are_refused(edits, words) -> None:
    with pytest.raises(DiskUnreadable, match=words):
        spliced(tree(PATHS), edits)


def test_what_is_no_piece_is_refused() -> None:
    with pytest.raises(DiskUnreadable, match="empty"):
        Piece.of(b"")
    with pytest.raises(DiskUnreadable, match="cut off"):
        list(records(record(b"/a") + record(b"/b")[:-1]))


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    """A tree of several pieces, with all that a record may hold."""
    root = tmp_path / "busy"
    for folder in range(20):
        (root / f"srv/{folder:02}/deep").mkdir(parents=True)
        for number in range(100):
            (root / f"srv/{folder:02}/{number:03}").write_text(f"{number}\n")
    os.link(root / "srv/03/007", root / "srv/19/deep/hard")
    (root / "srv/long").symlink_to("x" * 300)
    os.setxattr(root / "srv/05/001", "user.note", b"v" * 900)
    return root


EDITS = {
    "content, mode and times": (
        "rm /srv/00/000", "write {fresh} /srv/00/000", "set_inode_field /srv/07/050 mode 0100600",
        "set_inode_field /srv/08/050 mtime 20300101",
    ),
    "a hard link's other name": ("set_inode_field /srv/03/007 uid 7",),
    "an attribute": ("ea_set /srv/05/001 user.note short", "ea_set /srv/06/001 user.new value"),
    "names": (
        "rm /srv/01/001", "write {fresh} /srv/01/001.new", "symlink /srv/02/to 000",
        "cd /srv", "mknod dev c 3 9",
    ),
    "folders": ("rmdir /srv/04/deep", "mkdir /srv/aaa", "mkdir /srv/aaa/bbb", "write {fresh} /srv/aaa/bbb/c"),
    "a folder that moved": ("link /srv/05 /srv/later", "unlink /srv/05"),
    "nothing": (),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
async def test_a_later_disk_spliced_is_the_disk_read_whole(lab, reader, busy, tmp_path, name) -> None:
    fresh = tmp_path / "fresh"
    fresh.write_text("fresh\n")
    before = lab.format(busy)
    after = lab.edit(before, *(words.format(fresh=fresh) for words in EDITS[name]))
    base = lab.qcow2(before)
    layers = [base, lab.overlay(base, before, after)]
    old, new = await reader.manifest([base]), await reader.manifest(layers)
    edits = await reader.edits([base], layers)
    assert len(edits) < 500 if name != "nothing" else not edits
    kept = {piece.part.sha256: piece.data for piece in old.pieces}
    splice = Splice([piece.part for piece in old.pieces], edits)
    while wanted := splice.wanted:
        splice.give({one: kept[one] for one in wanted})
    assert parts_of(splice) == [piece.part for piece in new.pieces]
    assert (digest(parts_of(splice)) == old.digest) is (name == "nothing")
    assert len(new.pieces) > 4


async def test_an_attribute_changed_behind_its_owners_back_is_no_splice(lab, reader, tmp_path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_text("x")
    value = tmp_path / "value"
    value.write_bytes(b"long value " * 500)
    plain = lab.format(root, "-O", "ea_inode")
    before = lab.edit(plain, f"ea_set -f {value} /file user.big")
    at = before.read_bytes().index(b"long value long value")
    after = lab.patch(before, {at: b"LONG"})
    base = lab.qcow2(before)
    layers = [base, lab.overlay(base, before, after)]
    with pytest.raises(DiskUnreadable, match="holds an attribute"):
        await reader.edits([base], layers)
    with pytest.raises(DiskUnreadable):
        await reader.manifest(layers)


async def test_a_file_system_with_another_feature_is_no_splice(lab, reader, busy) -> None:
    before = lab.format(busy)
    after = lab.edit(before, "feature large_dir")
    base = lab.qcow2(before)
    tool("e2fsck", "-fn", str(after))
    with pytest.raises(DiskUnreadable, match="features"):
        await reader.edits([base], [base, lab.overlay(base, before, after)])
