"""The console in a real terminal: tmux draws it, resizes it, and shows what an operator would see."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import sleep

import pytest

from fluid_tui.screens.confirm import ARMING_S
from tests.bench.terminal import Terminal as RawTerminal
from tests.fix_tmux import Terminal as TmuxTerminal

ROOT = Path(__file__).parents[2]
FIRST_PAINT_BYTES = 10_000


class Terminal(TmuxTerminal):
    """With the console on the sample backend. ``before`` stands before its command."""

    def __init__(
        self,
        socket: Path,
        width: int,
        height: int,
        environment: dict[str, str],
        before: Sequence[str] = (),
    ) -> None:
        command = ["env", "-C", str(ROOT), *before, sys.executable, "-m", "tests.console.demo_app"]
        super().__init__(
            socket, width, height, command, {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        )


@pytest.fixture(params=[(80, 24, {}), (160, 48, {"NO_COLOR": "1"})], ids=["80x24", "160x48 without colour"])
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    width, height, environment = request.param
    made = Terminal(tmp_path / "tmux.sock", width, height, environment)
    yield made
    made.close()


def test_from_the_alert_to_the_apply_by_keys(terminal: Terminal) -> None:
    terminal.sees("Needs you", "4f2a nginx-tls", "! asks")
    terminal.resize(40, 10)
    terminal.sees("4f2a nginx")
    terminal.resize(100, 30)
    terminal.sees("4f2a nginx-tls", "? help")
    terminal.press("Enter")
    terminal.sees("Serve the shop over TLS")
    terminal.press("a")
    terminal.sees("Type 4f2a to approve")
    sleep(1)
    terminal.press("4f2a", "Enter")
    terminal.sees("applying", "Install nginx")


def test_a_terminals_keys_are_the_agents_until_ctrl_bracket(tmp_path: Path) -> None:
    made = Terminal(tmp_path / "tmux.sock", 80, 24, {})
    try:
        made.sees("Needs you", "nginx-tls")
        made.press("t")
        made.sees("live", "take over")
        made.press("i")
        made.sees("YOU TYPE", "ctrl+] hand back")
        made.press("q", "C-p", "Escape")
        made.press("C-]")
        made.sees("is its agent's again", "· live")
    finally:
        made.close()


def test_a_slow_line_carries_the_first_screen_in_a_moment() -> None:
    command = [sys.executable, "-m", "tests.console.demo_app"]
    with RawTerminal(command, {**os.environ, "PYTHONPATH": str(ROOT)}, 80, 24) as seen:
        seen.until(b"kernel-cve")
        seen.settle(quiet_s=1.0)
        assert seen.written <= FIRST_PAINT_BYTES


def test_without_colour_nothing_is_coloured(tmp_path: Path) -> None:
    made = Terminal(tmp_path / "tmux.sock", 80, 24, {"NO_COLOR": "1"})
    try:
        made.sees("! asks", "✗ error")
        raw = "\n".join(made.lines("-e"))
        assert _hues(raw) == []
    finally:
        made.close()


def _hues(raw: str) -> list[str]:
    """The colour codes that are no shade of grey: of 16, of 256 or RGB."""
    found = []
    for sequence in re.findall(r"\x1b\[([\d;:]*)m", raw):
        codes = [int(code or 0) for code in re.split("[;:]+", sequence)]
        while codes:
            code, *codes = codes
            if code in (38, 48) and codes[:1] == [5]:
                grey, codes = (
                    codes[1] >= 232 or codes[1] in (0, 7, 8, 15, 16, 59, 102, 145, 188, 231),
                    codes[2:],
                )
            elif code in (38, 48) and codes[:1] == [2]:
                grey, codes = len(set(codes[1:4])) == 1, codes[4:]
            else:
                grey = code not in {*range(30, 38), *range(40, 48), *range(90, 98), *range(100, 108)}
            found += [] if grey else [sequence]
    return found


def test_the_reader_of_colours_knows_them() -> None:
    for hue in ("31", "1;94", "45", "103", "38;5;9", "38;5;100;1", "48;2;1;1;2", "38;5;240;48;5;20"):
        assert _hues(f"\x1b[{hue}mx") == [hue], hue
    assert _hues("\x1b[0;1;7m\x1b[38;5;240m\x1b[48;2;9;9;9;4m\x1b[39;49m") == []


@pytest.mark.parametrize(
    ("term", "ascii"),
    [
        ("linux", False),
        ("vt100", True),
        ("screen", False),
        ("screen-256color", False),
        ("tmux-256color", False),
        ("xterm-256color", False),
    ],
)
def test_every_terminal_shows_the_fleet_and_answers_keys(tmp_path: Path, term: str, ascii: bool) -> None:
    made = Terminal(tmp_path / "tmux.sock", 80, 24, {"LANG": "C.UTF-8"}, before=["env", f"TERM={term}"])
    try:
        made.sees("Needs you", "! asks", "? help")
        made.press("h")
        made.sees("hosts", "Creates")
        assert "\n".join(made.lines()).isascii() is ascii
    finally:
        made.close()


@pytest.mark.parametrize("inner", ["tmux", "screen"])
def test_inside_another_multiplexer_it_is_the_same(tmp_path: Path, inner: str) -> None:
    server = {
        "tmux": ["tmux", "-f", "/dev/null", "-S", str(tmp_path / "inner.sock")],
        "screen": ["screen", "-U", "-c", "/dev/null", "-S", "inner"],
    }[inner]
    opened, ended = {"tmux": ("new-session", ["kill-server"]), "screen": ("-q", ["-X", "quit"])}[inner]
    (home := tmp_path / "screens").mkdir(mode=0o700)
    at_home = ["env", "-u", "TMUX", f"SCREENDIR={home}"]
    before = [*at_home, *server, opened]
    made = Terminal(tmp_path / "tmux.sock", 100, 30, {"LANG": "C.UTF-8"}, before=before)
    try:
        made.sees("Needs you", "! asks", "? help")
        made.resize(40, 10)
        made.sees("4f2a nginx")
        made.resize(100, 30)
        made.press("h")
        made.sees("hosts", "Creates", "╭─ Hosts")
    finally:
        assert subprocess.run([*at_home, *server, *ended], check=False, timeout=10).returncode == 0
        made.close()


def test_what_was_typed_before_the_confirm_step_stood_there_does_not_answer_it() -> None:
    command = [sys.executable, "-m", "tests.console.demo_app"]
    with RawTerminal(command, {**os.environ, "PYTHONPATH": str(ROOT)}, 120, 36) as seen:
        seen.until(b"kernel-cve")
        seen.since(seen.press(b"\r"), b"Ready:")
        seen.since(seen.press(b"a4f2a\r"), b"Type 4f2a to approve")  # all of it in one write
        seen.settle(quiet_s=2 * ARMING_S)
        seen.since(seen.press(b"\r"), b"Nothing was typed")
        seen.since(seen.press(b"4f2a\r"), b"applying")
