"""The console in a real terminal: tmux draws it, resizes it, and shows what an operator would see."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep

import pytest

from backend.emulator import Emulator
from backend.text import Spans, Style
from fluid_tui.app import FIRST_PAINT_S
from fluid_tui.screens.confirm import ARMING_S
from tests.bench.terminal import Terminal as RawTerminal
from tests.fix_tmux import Terminal as TmuxTerminal

ROOT = Path(__file__).parents[2]
FIRST_PAINT_BYTES = 10_000
FULL_SCREEN = b"\x1b[?1049h"
SLACK_S = 3.0
"""A loaded machine is so late; the mirror gives a silent backend up far later."""


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


def test_the_first_paint_waits_for_no_fleet() -> None:
    command = [sys.executable, "-m", "tests.console.demo_app", "--silent"]
    given = {**os.environ, "PYTHONPATH": str(ROOT), "FLUID_ASCII": "0"}
    with RawTerminal(command, given, 80, 24, keeps=True) as seen:
        seen.until(FULL_SCREEN)
        began = monotonic()
        while "◌ connecting".encode() not in seen.output or "Connecting …".encode() not in seen.output:
            assert monotonic() < began + FIRST_PAINT_S + SLACK_S, bytes(seen.output)
            seen.settle(quiet_s=0.02)


@pytest.mark.parametrize(("locale", "ascii"), [("C", True), ("POSIX", True), ("C.UTF-8", False)])
def test_a_locale_without_utf_8_gets_ascii_from_the_first_byte_on(locale: str, ascii: bool) -> None:
    """CPython makes LC_CTYPE=C.UTF-8 of it in its own environment (PEP 538): that is not the operator's."""
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": locale}
    with RawTerminal([sys.executable, "-m", "tests.console.demo_app"], given, 80, 24, keeps=True) as seen:
        seen.until(b"kernel-cve")
        seen.settle(quiet_s=0.5)
        assert seen.output.isascii() is ascii


@pytest.mark.parametrize("term", ["xterm-256color", "linux"])
def test_without_colour_no_colour_is_sent_and_where_one_is_stands_out(term: str) -> None:
    """Not a grey either, and not the terminal's default: no-color.org."""
    command = ["env", "NO_COLOR=1", f"TERM={term}", sys.executable, "-m", "tests.console.demo_app"]
    with RawTerminal(command, {**os.environ, "PYTHONPATH": str(ROOT)}, 120, 36, keeps=True) as seen:
        screen, fed = Emulator(120, 36), 0

        def until(words: str, how: Style | None, below: int = 0) -> None:
            """Until these words, or what is so far below them, are drawn like this. None: not at all."""
            nonlocal fed
            limit = monotonic() + 30
            while how not in (_how(screen.rows(), words, below) or {None}):
                assert monotonic() < limit, (words, how, [text_of(row) for row in screen.rows()])
                seen.settle(quiet_s=0.1)
                new, fed = seen.output[fed:].decode("utf-8", "ignore"), len(seen.output)
                screen.feed(new)

        until("4f2a nginx-tls", REVERSE)  # the row under the cursor
        until("5b11 pg-upgrade", PLAIN)
        until("Needs you", REVERSE)  # the area that has the keys
        seen.press(b"w")
        until("main 5433 online", PLAIN)
        seen.press(b"q")
        until("4f2a nginx-tls", REVERSE)
        seen.press(b"\r")
        until("Ready:", PLAIN)
        seen.press(b"nnnn")
        until("768", MARKED)  # a word that differs
        seen.press(b"a")
        until("Type 4f2a to approve", REVERSE, below=1)  # where the next letter goes
        seen.press(b"\x1b")
        until("Type 4f2a to approve", None)
        seen.press(b"\x10")
        until("Ask to take an apply back", BOLD)
        seen.press(b"\x1b[B")
        until("Approve exactly what is shown", MARKED)
        assert _colours(seen.output.decode()) == set()


PLAIN, BOLD, REVERSE = Style(), Style(bold=True), Style(reverse=True)
MARKED = Style(bold=True, underline=True)


def text_of(row: Spans) -> str:
    return "".join(text for text, _ in row)


def _how(rows: list[Spans], words: str, below: int) -> set[Style]:
    """How the cells of these words are drawn, or all of the row so far below them; reverse is told alone."""
    found = set()
    for at, row in enumerate(rows[: len(rows) - below]):
        start = text_of(row).find(words)
        if start >= 0:
            cells = [style for text, style in rows[at + below] for _ in text]
            found |= set(cells if below else cells[start : start + len(words)])
    return {REVERSE if style.reverse else style for style in found}


def _colours(raw: str) -> set[str]:
    """The sequences that choose a colour, or go back to the terminal's own."""
    coloured = {*range(30, 50), *range(90, 108), 58, 59}
    found = re.findall(r"\x1b\[([\d;:]*)m", raw)
    return {one for one in found if coloured & {int(code or 0) for code in re.split("[;:]+", one)}}


def test_the_reader_of_colours_knows_them() -> None:
    for code in ("31", "1;94", "45", "103", "38;5;9", "48;2;1;1;2", "39", "0;49", "38;5;240", "58:5:1"):
        assert _colours(f"\x1b[{code}mx") == {code}, code
    assert _colours("\x1b[0m\x1b[m\x1b[1;7m\x1b[4mx\x1b[22;24;27m") == set()


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
def test_every_terminal_leads_from_the_fleet_to_the_apply_also_in_a_tiny_window(
    tmp_path: Path, term: str, ascii: bool
) -> None:
    made = Terminal(tmp_path / "tmux.sock", 80, 24, {"LANG": "C.UTF-8"}, before=["env", f"TERM={term}"])
    try:
        made.sees("Needs you", "! asks", "? help")
        made.press("h")
        made.sees("hosts", "Creates")
        assert "\n".join(made.lines()).isascii() is ascii
        made.press("q")
        made.sees("Needs you")
        made.press("Enter")
        made.sees("review 4f2a", "web-01  deploy@10.20.0.1:22")
        made.resize(40, 10)
        made.press("a")
        made.sees(
            "Approve 4f2a for", "web-01", "deploy@10.20.0.1:22", "Type 4f2a to approve", "pgdn reads on"
        )
        assert "\n".join(made.lines()).isascii() is ascii
        sleep(1)
        made.press("4f2a", "Enter")
        made.sees("applying")
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
