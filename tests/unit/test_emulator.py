"""Our own terminal: what a program printed becomes the screen that tmux would show, and nothing acts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.emulator import Emulator
from backend.text import PLAIN, Style, visible


def shown(text: str, width: int = 10, height: int = 4) -> list[str]:
    screen = Emulator(width, height)
    screen.feed(text)
    return ["".join(part for part, _ in row) for row in screen.rows()]


@pytest.mark.parametrize(
    ("printed", "rows"),
    [
        ("one\r\ntwo", ["one", "two", "", ""]),
        ("0123456789ab", ["0123456789", "ab", "", ""]),
        ("0123456789\r\nab", ["0123456789", "ab", "", ""]),
        ("1\r\n2\r\n3\r\n4\r\n5", ["2", "3", "4", "5"]),
        ("abc\rX", ["Xbc", "", "", ""]),
        ("abc\b\bX", ["aXc", "", "", ""]),
        ("a\tb", ["a       b", "", "", ""]),
        ("\x1b[3;4Hx", ["", "", "   x", ""]),
        ("\x1b[2;2Hx\x1b[Ay\x1b[2Dz", [" zy", " x", "", ""]),
        ("abcdef\x1b[3D\x1b[K", ["abc", "", "", ""]),
        ("abcdef\x1b[1;3H\x1b[2P", ["abef", "", "", ""]),
        ("abcdef\x1b[1;3H\x1b[2@", ["ab  cdef", "", "", ""]),
        ("a\r\nb\r\nc\x1b[2;1H\x1b[L", ["a", "", "b", "c"]),
        ("a\r\nb\r\nc\x1b[1;1H\x1b[M", ["b", "c", "", ""]),
        ("a\r\nb\x1b[2Jc", ["", " c", "", ""]),
        ("\x1b[2;3r\x1b[2;1Ha\r\nb\r\nc", ["", "b", "c", ""]),
        ("a\x1b[?1049hb\x1b[?1049lc", ["ac", "", "", ""]),
        ("\x1b)0\x0eqx\x0fq", ["─│q", "", "", ""]),
        ("\x1b(0lk\x1b(Bq", ["┌┐q", "", "", ""]),
        ("漢字ab", ["漢字ab", "", "", ""]),
        ("012345678漢", ["012345678", "漢", "", ""]),
        ("漢\b\bx", ["x", "", "", ""]),
        ("e\u0301x", ["e\u0301x", "", "", ""]),
        ("a\x1b[4hbc\x1b[1;1HX", ["Xabc", "", "", ""]),
        ("ab\x1b[3b", ["abbbb", "", "", ""]),
        ("x\x1b7\x1b[4;1Hy\x1b8z", ["xz", "", "", "y"]),
        ("a\x1bcb", ["b", "", "", ""]),
    ],
)
def test_the_screen_is_what_the_program_made(printed: str, rows: list[str]) -> None:
    assert shown(printed) == rows


@pytest.mark.parametrize(
    "command",
    [
        "\x1b]0;fluid: approved\x07",
        "\x1b]52;c;cm0gLXJmIC8=\x1b\\",
        "\x1b]8;;http://evil\x1b\\",
        '\x1bP$q"p\x1b\\',
        "\x1bPq#0;2;0;0;0~\x1b\\",
        "\x1b_payload\x1b\\",
        "\x1bktitle\x1b\\",
        "\x1b[6n",
        "\x1b[>4;1m",
        "\x1b[?2004h",
        "\x07",
        "\x9b31m"[:1],
    ],
)
def test_what_is_meant_for_the_terminal_itself_is_not_drawn(command: str) -> None:
    assert shown(f"a{command}b") == ["ab", "", "", ""]


def test_colours_are_styles_and_invisible_characters_are_shown() -> None:
    screen = Emulator(40, 2)
    screen.feed("\x1b[1;31mred\x1b[0m x\u202ey")
    assert screen.rows()[0] == [("red", Style(fg=1, bold=True)), (" x⟨U+202E⟩y", PLAIN)]


PRINTED = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(
            ["\x1b[", "\x1b]", "\x1bP", "\x1b\\", "\x07", "\x1b[99999C", "\x1b[99999;99999H", "\x1b[99999L",
             "\x1b[?1049h", "\x1b[?1049l", "\x1b[2;3r", "\x1b[4h", "漢", "\x1b[99999b", "\x1b[99999@",
             "\x1b[99999S", "\x1b[99999T", "\x1b[99999P", "\x1b[99999X", "\x1b[J", "\x1b[1J", "\x1b[?7l",
             "\x1bM", "\n"]
        ),
    ),
    max_size=30,
)  # fmt: skip


@given(PRINTED, st.integers(1, 12), st.integers(1, 5), st.integers(0, 40))
def test_anything_in_any_portions_keeps_the_screen_in_its_size(
    parts: list[str], width: int, height: int, cut: int
) -> None:
    text = "".join(parts)
    whole, cut_up = Emulator(width, height), Emulator(width, height)
    whole.feed(text)
    cut_up.feed(text[:cut])
    twin = cut_up.copy()
    cut_up.feed(text[cut:])
    twin.feed(text[cut:])
    assert whole.rows() == cut_up.rows() == twin.rows()
    assert len(whole._grid) == whole.height and {len(row) for row in whole._grid} == {whole.width}
    drawn = "".join(part for row in whole.rows() for part, _ in row)
    assert visible(drawn) == drawn
    whole.resize(height + 2, width)
    assert len(whole._grid) == width and {len(row) for row in whole._grid} == {height + 2}


@pytest.mark.parametrize("unit", ["\x1b]", "\x1bP", "\x1b[1;", "\x1b", "\x1b[31m", "a", "\x1b[?"])
def test_a_megabyte_of_anything_is_drawn_in_linear_time(unit: str) -> None:
    began = time.perf_counter()
    Emulator(80, 24).feed(unit * (1_000_000 // len(unit)))
    assert time.perf_counter() - began < 20, "quadratic work takes minutes"


def test_rows_that_scroll_away_are_told() -> None:
    told: list[str] = []
    screen = Emulator(10, 2, lambda row: told.append("".join(text for text, _ in row)))
    screen.feed("1\r\n2\r\n3\r\n4")
    screen.feed("\x1b[2J")
    assert told == ["1", "2", "3", "4"]
