"""Hunks of the command line: what diff(1) would say, in bounded time, and words on request."""

from __future__ import annotations

import random
import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.alignment import coarse, opcodes
from backend.cli.hunks import SHOWN_LINES, hunks

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "", "é"]), max_size=30).map("\n".join)


@given(TEXTS, TEXTS)
@settings(deadline=None)
def test_a_patch_made_of_the_hunks_makes_the_new_text(before: str, after: str):
    assert patched(before, list(hunks(before, after))) == after


def patched(before: str, lines: list[str]) -> str:
    """What patch(1) does, by the numbers in the hunks' heads."""
    made: list[str] = []
    left = before.split("\n")
    left = left[:-1] if left[-1] == "" else [*left[:-1], left[-1] + "\n\\ no newline at the end"]
    at = 0
    for line in lines:
        if line.startswith("@@"):
            start, count = map(int, line.split()[1][1:].split(","))
            begin = start - 1 if count else start
            made += left[at:begin]
            at = begin
        elif line[0] == "+":
            made.append(line[1:])
        else:
            assert left[at] == line[1:]
            made += [line[1:]] if line[0] == " " else []
            at += 1
    made += left[at:]
    text = "".join(f"{line}\n" for line in made)
    return text.replace("\n\\ no newline at the end\n", "")


def test_hunks_are_those_of_diff(tmp_path):
    before = "".join(f"line {number}\n" for number in range(40))
    after = before.replace("line 3\n", "").replace("line 30\n", "line thirty\nand more\n")
    for name, text in (("a", before), ("b", after)):
        (tmp_path / name).write_text(text)
    told = subprocess.run(["diff", "-U3", "a", "b"], cwd=tmp_path, capture_output=True, text=True, timeout=9)
    assert list(hunks(before, after)) == told.stdout.splitlines()[2:]


def test_words_that_changed_are_marked_in_their_line():
    told = list(hunks("server_name old.example; # x\n", "server_name new.example; # x\n", words=True))
    assert told[1:] == ["~server_name [-old-]{+new+}.example; # x"]


def test_fifty_thousand_lines_cost_little_and_what_is_coarse_says_so():
    rolled = random.Random(1)
    hostile = ["".join(f"{rolled.randrange(2)}\n" for _ in range(50_000)) for _ in range(2)]
    started = time.process_time()
    told = list(hunks(*hostile))
    assert time.process_time() - started < 2
    assert told[0].endswith("compared coarsely")
    assert told[-1] == f"… more than {SHOWN_LINES} lines, the rest is not shown"


@pytest.mark.parametrize(("lines", "rough"), [(5_000, False), (50_000, True)])
def test_texts_made_to_hurt_cost_a_moment_and_say_what_was_not_compared(lines: int, rough: bool):
    rolled = random.Random(1)
    before, after = (
        [f"only {at}" if at % 120 == 1 else rolled.choice("ab") for at in range(lines)] for _ in range(2)
    )
    started = time.process_time()
    runs = opcodes(before, after)
    assert time.process_time() - started < 1
    assert any(map(coarse, runs)) is rough


def test_a_long_text_that_is_no_trouble_is_compared_exactly():
    before = [f"line {number}" for number in range(50_000)]
    after = [line for number, line in enumerate(before) if not 20_000 <= number < 21_000]
    after[30_000:30_000] = ["}"] * 2_000
    assert not any(map(coarse, opcodes(before, after)))
