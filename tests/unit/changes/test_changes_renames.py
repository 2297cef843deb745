"""Renames are found, and what only looks like one is not called so."""

from __future__ import annotations

import pytest

from backend.changes.renames import renames
from backend.disks import Content, Entry, Pair
from backend.models import FileKind


def gone(path: str, inode: int, data: str | None = "x", **more) -> Pair:
    return Pair(entry(path, inode, data, **more), None, content(data), None)


def fresh(path: str, inode: int, data: str | None = "x", **more) -> Pair:
    return Pair(None, entry(path, inode, data, **more), None, content(data))


def entry(path: str, inode: int, data: str | None, mtime: int = 0, links: int = 1) -> Entry:
    kind = FileKind.DIRECTORY if data is None else FileKind.FILE
    return Entry(path.encode(), kind, 0o644, 0, 0, 0, mtime, 0, inode, links, None, None, ())


def content(data: str | None) -> Content | None:
    return None if data is None else Content(len(data), data * 64 or "e" * 64, None, None, "")


def test_a_moved_file_and_one_that_was_copied_and_removed():
    pairs = [gone("/a", 12), fresh("/b", 12), gone("/c", 13, "y"), fresh("/d", 99, "y")]
    assert renames(pairs) == {b"/b": b"/a", b"/d": b"/c"}


def test_a_moved_folder_with_all_that_is_in_it():
    pairs = [
        gone("/a", 12, None), gone("/a/b", 13, None), gone("/a/b/f", 14), gone("/e", 15, None),
        fresh("/n", 12, None, mtime=5), fresh("/n/b", 13, None, mtime=5), fresh("/n/b/f", 14),
        fresh("/n/new", 77, "z"), fresh("/empty", 15, None),
    ]  # fmt: skip
    assert renames(pairs) == {
        b"/n": b"/a", b"/n/b": b"/a/b", b"/n/b/f": b"/a/b/f", b"/empty": b"/e"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((12, "x"), (12, "y")),  # the inode was handed out again
        ((12, ""), (13, "")),  # all empty files are alike
        ((12, ""), (12, "")),  # here too, unless the time is the same
        ((12, None), (12, None)),  # a folder removed, another one made
    ],
)
def test_a_number_that_was_used_again_is_no_rename(old, new):
    assert renames([gone("/a", *old), fresh("/b", *new, mtime=7)]) == {}


def test_of_several_equal_files_nobody_knows_which_went_where():
    pairs = [gone("/a", 12), gone("/b", 13), fresh("/c", 20), fresh("/d", 21)]
    assert renames(pairs) == {}


def test_a_name_less_of_a_file_with_several_is_no_rename():
    assert renames([gone("/a", 12, links=2), fresh("/b", 12, links=2)]) == {b"/b": b"/a"}
    assert renames([gone("/a", 12, links=2), fresh("/b", 12, links=2), fresh("/c", 12, links=2)]) == {}
