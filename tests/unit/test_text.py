"""What an agent or a guest prints can never act on an operator's terminal."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.text import PLAIN, Style, harmless, screen, spans, visible

ATTACKS = [
    "\x1b]52;c;cm0gLXJmIC8=\x07",
    "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x1b]0;title\x07",
    "\x1b]2;title\x1b\\",
    "\x1bP$qm\x1b\\",
    "\x1bPq#0;2;0;0;0~-\x1b\\",
    "\x1bP0p\x1b\\",
    "\x1b[201~rm -rf /\r",
    "\x9b31mred\x9d0;x\x9c",
    "\u202egnp.exe",
    "a\u200bb\u200d\ufeff",
    "\x1b[2J\x1b[1;1H",
    "\x1b[?1049h\x1b[6n",
    "\x1b[8mhidden\x1b[5mblink",
    "\x0e\x0f\x08\x08\x7f",
    "o" + "\u0338" * 40,
    "\x1b" * 50,
    "\x1b[" + "1;" * 200 + "m",
    "\U000e0041\U000e0042",
    "\ud800",
]
CONTROLS = {"Cc", "Cs", "Zl", "Zp"}


def assert_harmless(text: str) -> None:
    for character in text:
        category = unicodedata.category(character)
        assert category not in CONTROLS, ascii(character)
        assert category != "Cf" or ord(character) > 0x600, ascii(character)
        assert not 0x202A <= ord(character) <= 0x202E, ascii(character)
        assert not 0x2066 <= ord(character) <= 0x2069, ascii(character)
        assert ord(character) not in (0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0xFEFF)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_shows_as_text(attack: str) -> None:
    assert_harmless(visible(attack))
    assert visible(attack)
    for text, _ in spans(attack):
        assert_harmless(text)


@given(st.one_of(st.text(), st.binary(), st.lists(st.sampled_from(ATTACKS)).map("".join)))
def test_nothing_that_comes_out_can_act(text: str | bytes) -> None:
    shown = visible(text)
    assert_harmless(shown)
    assert visible(shown) == shown
    for line in visible(text, keep_newlines=True, tab=8).split("\n"):
        assert_harmless(line)


@given(st.lists(st.one_of(st.text(), st.sampled_from(ATTACKS), st.sampled_from(["\x1b[31m", "\x1b[0m"]))))
def test_no_span_can_act(parts: list[str]) -> None:
    for row in screen(["".join(parts), "next"]):
        for text, style in row:
            assert_harmless(text)
            assert style.fg is None or style.fg != style.bg


@given(st.lists(st.one_of(st.text(), st.sampled_from(ATTACKS), st.sampled_from(["\x1b[31m", "\x1b[0m"]))))
def test_a_row_for_the_api_has_no_control_but_colours_and_is_drawn_as_it_was(parts: list[str]) -> None:
    row = "".join(parts).replace("\n", " ").replace("\r", " ")[:500]
    told = harmless(row)
    assert screen([told], limit=100_000) == screen([row], limit=100_000)
    assert_harmless(re.sub(r"\x1b\[[0-9;:]*m", "", told))


def test_marks_name_what_was_there() -> None:
    assert visible("a\x1b[31mb\x00\x7f") == "a␛[31mb␀␡"
    assert visible(b"caf\xc3\xa9 \xff\xfe") == "café \\xff\\xfe"
    assert visible("\x9b\u202e") == "\\x9b⟨U+202E⟩"
    assert visible("one\ntwo\tx") == "one␊two␉x"
    assert visible("one\r\ntwo\tx", keep_newlines=True, tab=4) == "one\ntwo x"
    assert visible("one\rtwo", keep_newlines=True) == "one␍two"


def test_long_text_is_cut_and_says_so() -> None:
    assert visible("x" * 20, limit=10) == "xxxxxxxxxx… (10 more characters)"
    ((text, _),) = spans("x" * 1_000_000, limit=80)
    assert text == "x" * 80 + "…"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("plain", [("plain", PLAIN)]),
        ("\x1b[1;31mred\x1b[0m x", [("red", Style(fg=1, bold=True)), (" x", PLAIN)]),
        ("\x1b[38;5;208mo", [("o", Style(fg=208))]),
        ("\x1b[48;2;1;2;3mo", [("o", Style(bg=(1, 2, 3)))]),
        ("\x1b[38:2::1:2:3mo", [("o", Style(fg=(1, 2, 3)))]),
        ("\x1b[97;104mo", [("o", Style(fg=15, bg=12))]),
        ("\x1b[mo", [("o", PLAIN)]),
        ("\x1b[31;41mhidden", [("hidden", PLAIN)]),
        ("\x1b[38;5;1;4mo", [("o", Style(fg=1, underline=True))]),
        ("\x1b[8;5mo", [("o", PLAIN)]),
        ("a\tb", [("a       b", PLAIN)]),
    ],
)
def test_whitelisted_colours_survive(line: str, expected: list[tuple[str, Style]]) -> None:
    assert spans(line) == expected


def test_a_colour_runs_on_into_the_next_row() -> None:
    assert screen(["\x1b[32mgreen", "still", "\x1b[39mplain"])[1:] == [
        [("still", Style(fg=2))],
        [("plain", PLAIN)],
    ]
