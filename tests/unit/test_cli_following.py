"""What is new of a terminal's rows, for who reads them as lines."""

from __future__ import annotations

from backend.cli.following import Lines, rows_of, written_at
from backend.models import PaneScreen


def test_rows_are_plain_and_harmless_and_blank_ones_are_left_out() -> None:
    assert rows_of(["\x1b[31mred\x1b[0m  ", "", "  ", "a\u202eb", "\x1b]52;c;AA\x07x"]) == [
        "red",
        "a⟨U+202E⟩b",
        "␛]52;c;AA␇x",
    ]


def test_each_row_is_told_once_however_far_it_has_scrolled() -> None:
    lines = Lines()
    assert lines.new_of(["$ make", "one", "two"]) == ["$ make", "one", "two"]
    assert lines.new_of(["$ make", "one", "two"]) == []
    assert lines.new_of(["one", "two", "three", "four"]) is not None
    far = ["$ make", "one", "two", "three", "four", *(f"row {at}" for at in range(500)), "$"]
    assert lines.new_of(far)[-2:] == ["row 499", "$"]  # type: ignore[index]
    assert lines.new_of([*far, "$ id"]) == ["$ id"]


def test_a_prompt_that_stands_there_again_does_not_hide_what_came_before_it() -> None:
    lines = Lines()
    assert lines.new_of(["$"]) == ["$"]
    assert lines.new_of(["$ seq 3", "1", "2", "3", "$"]) == ["$ seq 3", "1", "2", "3"]


def test_a_row_is_told_when_it_is_written_and_again_when_it_is_another() -> None:
    lines = Lines(["a", "b", "c"])
    assert lines.new_of(["a", "b", "c", "10 %"], "10 %") == []
    assert lines.new_of(["a", "b", "c", "20 %"]) == ["20 %"]
    assert lines.new_of(["a", "b", "c", "20 %"], "20 %") == []
    assert lines.new_of(["a", "b", "c", "done", "$"]) == ["done", "$"]


def test_of_a_screen_that_is_drawn_over_only_rows_that_differ_are_told() -> None:
    lines = Lines(["$ ls", "x", "y"])
    assert lines.new_of(["$ ls", "x", "y", "load 1", "PID", "init"]) == ["load 1", "PID", "init"]
    assert lines.new_of(["$ ls", "x", "y", "load 2", "PID", "init"]) == ["load 2"]


def test_a_history_that_does_not_reach_back_says_so() -> None:
    lines = Lines(["a", "b", "c"])
    assert lines.new_of([f"row {at}" for at in range(100)], whole=False) is None
    assert lines.new_of([f"row {at}" for at in range(50, 101)], whole=False) == ["row 100"]


def test_the_row_that_is_being_written_is_the_cursors() -> None:
    assert written_at(PaneScreen(rows=["a", "10 %"], cursor=(4, 1))) == "10 %"
    assert written_at(PaneScreen(rows=["a"], cursor=(0, 1))) == ""
    assert written_at(PaneScreen(rows=["a"], cursor=None)) == ""
