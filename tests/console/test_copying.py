"""What is under the cursor goes to the terminal's clipboard or into a file, and the console says which."""

from __future__ import annotations

import re
from base64 import b64decode
from pathlib import Path

import pytest

from fluid_tui.copying import MAX_BYTES, SCREEN_BYTES, clipboard_sequence

XTERM = {"TERM": "xterm-256color"}
TEXT = "nginx-tls é\n"
OSC52 = re.compile(r"\x1b\]52;c;([A-Za-z0-9+/=]*)\x07")


def held(sequence: str) -> str:
    found = OSC52.search(sequence)
    assert found is not None
    return b64decode(found[1]).decode()


def test_a_terminal_gets_the_bare_sequence() -> None:
    made = clipboard_sequence(TEXT, XTERM)
    assert OSC52.fullmatch(made)
    assert held(made) == TEXT


def test_tmux_gets_it_for_itself_and_for_the_terminal_outside() -> None:
    made = clipboard_sequence(TEXT, {"TERM": "tmux-256color", "TMUX": "/tmp/x,1,0"})
    bare = clipboard_sequence(TEXT, XTERM)
    doubled = bare.replace("\x1b", "\x1b\x1b")
    assert made == f"{bare}\x1bPtmux;{doubled}\x1b\\"


def test_screen_gets_it_in_pieces_that_it_passes_on() -> None:
    made = clipboard_sequence("x" * 2000, {"TERM": "screen-256color", "STY": "1.pts"})
    pieces = re.findall(r"\x1bP(.*?)\x1b\\", made, re.DOTALL)
    assert max(map(len, pieces)) == SCREEN_BYTES
    assert held("".join(pieces)) == "x" * 2000


@pytest.mark.parametrize(
    ("text", "environment"),
    [(TEXT, {"TERM": "linux"}), (TEXT, {"TERM": "vt100"}), (TEXT, {}), ("é" * MAX_BYTES, XTERM)],
)
def test_what_no_clipboard_takes_is_not_sent(text: str, environment: dict[str, str]) -> None:
    assert clipboard_sequence(text, environment) == ""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("TMUX", raising=False)
    monkeypatch.delenv("STY", raising=False)
    return tmp_path


async def test_the_row_under_the_cursor_and_marked_rows_are_copied(
    console, folder: Path, monkeypatch
) -> None:
    async with console() as seen:
        written: list[str] = []
        monkeypatch.setattr(seen.app, "_to_terminal", written.append)
        await seen.press("j", "j", "C")
        await seen.sees("Sent the row to", "(OSC 52); W")
        assert held(written[-1]).split("\t")[:3] == ["nginx-tls", "claude-1", "kvm-01"]
        await seen.press("space", "space", "C")
        await seen.sees("Sent 2 marked rows")
        assert [row.split("\t")[0] for row in held(written[-1]).splitlines()] == ["nginx-tls", "pg-upgrade"]
    assert list(folder.iterdir()) == []


async def test_a_text_is_copied_as_it_is_before_wrapping_and_harmless(
    console, folder: Path, monkeypatch
) -> None:
    async with console(80, 24) as seen:
        written: list[str] = []
        monkeypatch.setattr(seen.app, "_to_terminal", written.append)
        await seen.press("enter", "2")
        await seen.sees("- name: Install nginx")
        await seen.press("C")
        await seen.sees("Sent the text")
        assert "    - name: Install nginx\n      ansible.builtin.apt:" in held(written[-1])
        await seen.press("1", "C")
        await seen.sees("Sent the diff")
        assert "-     worker_connections 768;" in held(written[-1]).splitlines()
        await seen.press("t")
        await seen.sees("systemctl reload nginx")
        await seen.press("C")
        await seen.sees("Sent the screen")
        assert "␛]52;c;" in held(written[-1])
        assert all(line.isprintable() for line in held(written[-1]).splitlines())


async def test_without_a_clipboard_it_goes_into_a_file_of_its_owner(
    console, folder: Path, monkeypatch
) -> None:
    monkeypatch.setenv("TERM", "linux")
    async with console() as seen:
        await seen.press("C")
        await seen.sees("No clipboard here takes it:", "fluid-fleet-")
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert "4f2a\tnginx-tls\tapply to web-01, web-02" in file.read_text()


async def test_a_file_is_written_when_asked_and_none_is_overwritten(
    console, folder: Path, monkeypatch
) -> None:
    async with console() as seen:
        await seen.press("d")
        await seen.sees("before → after")
        await seen.press("tab", "W")
        await seen.sees("Written: the diff is in")
        (file,) = folder.iterdir()
        assert "ssl_certificate_key" in file.read_text()
        file.write_text("mine")
        monkeypatch.setattr("fluid_tui.screens.base.Path.cwd", lambda: folder / "gone")
        await seen.press("W")
        await seen.sees("Could not write", "No such file")
        assert file.read_text() == "mine"
