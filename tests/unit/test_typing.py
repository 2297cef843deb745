"""What an operator types: pastes told from keys, marks of who types read back, rows that matter in sight."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from backend.panes.taking import Mark
from backend.text import in_sight, screen
from backend.tmux.pastes import BEGIN, END, MAX_PASTE_BYTES, PasteSplitter, Typed

KEYS = b"ls \x1b[A\x1b[2~\x1b"
STREAM = KEYS + BEGIN + b"a\rb\x1b[20" + END + b"\r"


def split(*chunks: bytes) -> tuple[bytes, list[bytes]]:
    splitter = PasteSplitter()
    found = [part for chunk in chunks for part in splitter.feed(chunk)]
    pasted = [part.data for part in found if part.pasted]
    return b"".join(part.data for part in found if not part.pasted), pasted


def test_a_paste_is_found_wherever_the_stream_is_cut() -> None:
    whole = (KEYS + b"\r", [b"a\rb\x1b[20"])
    for at in range(len(STREAM) + 1):
        found = split(STREAM[:at], STREAM[at:])
        if at in (len(KEYS) + 1, len(KEYS) + 2):  # so little of a beginning is a key, and never kept back
            assert found == (STREAM, [])
        else:
            assert found == whole, at


def test_a_key_is_never_kept_back() -> None:
    assert PasteSplitter().feed(b"\x1b") == [Typed(b"\x1b")]
    assert PasteSplitter().feed(b"\x1b[") == [Typed(b"\x1b[")]


def test_a_paste_without_end_takes_no_more_than_its_room() -> None:
    splitter = PasteSplitter()
    splitter.feed(BEGIN)
    for _ in range(3):
        assert splitter.feed(b"x" * MAX_PASTE_BYTES) == []
    (paste,) = splitter.feed(END)
    assert len(paste.data) == MAX_PASTE_BYTES


@pytest.mark.parametrize("name", ["ops", "CORP\\\\änna.b@x", ""])
def test_who_types_is_read_back_from_the_mark(name: str) -> None:
    mark = Mark(1000, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), name)
    assert Mark.of(str(mark)) == mark


@pytest.mark.parametrize("text", ["", "x", "1000", "1000.x.ops"])
def test_a_pane_without_a_mark_is_its_agents(text: str) -> None:
    assert Mark.of(text) is None


@pytest.mark.parametrize(
    ("cursor", "seen"),
    [(None, ["3", "4"]), (0, ["1", "2"]), (3, ["3", "4"]), (5, ["", ""]), (4, ["4", ""])],
)
def test_the_row_of_the_cursor_is_in_sight(cursor: int | None, seen: list[str]) -> None:
    rows = screen(["1", "2", "3", "4", "", ""])
    assert ["".join(text for text, _ in runs) for runs in rows[in_sight(rows, 2, cursor)]] == seen
