"""The pure parts of the console: diff rows, words of time, filters, lines."""

from __future__ import annotations

from datetime import timedelta
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.models import now
from fluid_tui.diff_rows import document, text_rows, unified
from fluid_tui.fleet_rows import matches
from fluid_tui.paint import Role, line, plain, width_of, wrap
from fluid_tui.words import ago, left, span
from tests.console.sample import changes, fleet

TEXTS = st.lists(st.sampled_from(["a", "b", "  c", "d e f", ""]), max_size=30).map("\n".join)


@given(TEXTS, TEXTS)
def test_no_changed_line_is_lost(old: str, new: str) -> None:
    rows = list(text_rows(old, new))
    numbers = [row.right.number for row in rows if row.right]
    assert numbers == sorted(numbers)
    removed = [plain(row.left.text) for row in rows if row.left and row.left.changed]
    added = [plain(row.right.text) for row in rows if row.right and row.right.changed]
    if old.split("\n") != new.split("\n"):
        assert removed or added
    flat, moved = unified(rows)
    assert [plain(row.right.text) for row in flat if row.right and row.right.changed] == added
    assert [plain(row.left.text) for row in flat if row.left and row.left.changed] == removed
    assert set(moved) == set(range(len(rows)))


def test_words_that_differ_are_marked() -> None:
    (row,) = text_rows("listen 80 default;\n", "listen 443 default;\n")
    assert [text for text, role in row.left.text if role is Role.REMOVED_WORD] == ["80"]
    assert [text for text, role in row.right.text if role is Role.ADDED_WORD] == ["443"]


def test_equal_lines_far_from_a_change_are_folded() -> None:
    old = "".join(f"{number}\n" for number in range(100))
    rows = list(text_rows(old, old.replace("50\n", "fifty\n")))
    assert "⋯ 47 equal lines" in plain(rows[0].whole)
    assert len(rows) == 9


def test_a_very_long_file_is_compared_without_a_stall() -> None:
    old = "".join(f"line {number}\n" for number in range(50_000))
    new = old.replace("line 20000\n", "changed\n").replace("line 40000\n", "")
    start = perf_counter()
    rows = list(text_rows(old, new))
    assert perf_counter() - start < 5
    assert any("equal lines" in plain(row.whole) for row in rows if row.whole)


def test_a_file_without_a_last_newline_says_so() -> None:
    rows = list(text_rows("a\n", "a"))
    assert any("no newline at the end" in plain(row.right.text) for row in rows if row.right)


def test_a_document_names_every_change_once() -> None:
    made = document(changes(now()))
    assert [item.name for item in made.items][:4] == ["nginx", "nginx-common", "nginx.service", "deploy"]
    assert "/var/log/dpkg.log" not in [item.name for item in made.items]
    assert "/var/log/dpkg.log" in [item.name for item in document(changes(now()), noise=True).items]
    text = "\n".join(plain(row.whole) for row in made.rows if row.whole)
    assert "content withheld: private key" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (19, "10 s"), (60, "1 m"), (3599, "59 m"), (7300, "2 h"), (200_000, "2 d")],
)
def test_times_move_in_coarse_steps(seconds: int, words: str) -> None:
    assert span(seconds) == words


def test_ages_and_ends() -> None:
    at = now()
    assert ago(at - timedelta(seconds=9), at) == "just now"
    assert ago(at - timedelta(seconds=45), at) == "40 s ago"
    assert ago(None, at) == ""
    assert left(at + timedelta(minutes=12, seconds=30), at) == "12m"
    assert left(None, at) == "—"
    assert left(at, at) == "over"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", 5),
        ("host:kvm-02", 3),
        ("host:kvm-02 state:error", 1),
        ("state:asks", 1),
        ("claude", 3),
        ("agent:codex nginx", 0),
    ],
)
def test_the_filter_needs_every_word(words: str, names: int) -> None:
    sandboxes = fleet().sandboxes
    assert sum(matches(one, words, one.sandbox_name == "nginx-tls") for one in sandboxes) == names


@given(st.text(alphabet="ab é漢 ", max_size=200), st.integers(12, 60))
def test_wrapping_keeps_words_and_width(text: str, width: int) -> None:
    lines = wrap(line(text), width, 2)
    assert all(width_of(each) <= width for each in lines if plain(each).strip())
    assert "".join("".join(plain(each).split()) for each in lines) == "".join(text.split())
