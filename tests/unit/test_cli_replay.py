"""``fluid replay`` and ``fluid recordings``: what reaches the terminal is ours, an export says what it is."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.asciicast import OUTPUT, CastEvent, event_line, header_line
from backend.cli import recordings
from backend.cli import replay as replay_module
from backend.cli.app import run
from backend.client.call import Call

HOSTILE = "\x1b]52;c;cm0=\x07\x1b]0;owned\x07\x1bP+q\x1b\\\x1b[6n\x9b31m\u202e\x1b[?1049h\x1b[?1049l"
CAST = header_line(40, 5, 0, "web %1", "screen") + "".join(
    event_line(CastEvent(at, OUTPUT, data))
    for at, data in (
        (0.0, "one\r\n"),
        (0.1, f"{HOSTILE}\x1b[31mred\x1b[0m\r\n"),
        (0.2, "3\r\n4\r\n5\r\n6\r\n"),
        (500.0, "last"),
    )
)
ROW = {
    "id": "REC-0000000a",
    "sandbox_id": "SBX-00000001",
    "sandbox_name": "web",
    "pane_id": "%1",
    "started_at": "2026-11-29T10:00:00Z",
    "ended_at": None,
    "duration_s": 500.0,
    "size_bytes": 3 << 20,
    "is_cut": False,
}
OURS = re.compile(rb"\x1b\[(?:H|2J|\d+;1H|K|7m|0m|38;5;1m|\?7[lh]|\?2004[lh])|[\r\n]")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "web.cast"
    path.write_text(CAST)
    return path


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Any] = {
        "/v1/recordings": {"recordings": [ROW, {**ROW, "id": "REC-00000009"}]},
        "/v1/recordings/REC-0000000a": ROW,
        "/v1/recordings/REC-0000000a/cast": CAST.encode(),
    }

    def answer(call: Call[Any]) -> Any:
        return answers[call.path]

    door = SimpleNamespace(json=answer, send=answer)
    monkeypatch.setattr(recordings, "door", lambda: door)
    monkeypatch.setattr(replay_module, "door", lambda: door)


class Terminal:
    """A real pty under the player."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        stdin = io.TextIOWrapper(io.FileIO(theirs, "r", closefd=False))
        stdout = io.TextIOWrapper(io.FileIO(theirs, "w", closefd=False), encoding="utf-8", write_through=True)
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("sys.stdout", stdout)
        self.seen = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(OSError):
            while data := os.read(self.ours, 65_536):
                self.seen += data

    def until(self, words: str) -> None:
        end = time.monotonic() + 10
        while words.encode() not in self.seen:
            assert time.monotonic() < end, f"never: {words!r} in {self.seen[-2000:]!r}"
            time.sleep(0.01)

    def press(self, key: bytes) -> None:
        self.seen = b""
        os.write(self.ours, key)


def in_background(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_nothing_of_a_guest_reaches_the_terminal_and_keys_work(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    terminal = Terminal(monkeypatch)
    playing = in_background(lambda: run(["replay", str(file), "--idle", "0"]))
    terminal.until("red")
    first = terminal.seen
    terminal.press(b" ")
    terminal.until("paused")
    terminal.press(b"i")
    terminal.until("pauses cut to 2 s")
    terminal.press(b"+")
    terminal.press(b" ")
    terminal.until("2x")
    terminal.press(b"\x1b[C")
    terminal.until("last")
    told = first + terminal.seen
    terminal.press(b"q")
    playing.join(5)
    assert not playing.is_alive()
    rest = OURS.sub(b"", told).decode()
    assert rest.isprintable() and "⟨U+202E⟩" in rest and "52;c" not in rest


@pytest.mark.parametrize(("no_color", "sent"), [("", True), ("1", False)])
def test_a_recordings_colours_are_not_sent_without_colour(
    monkeypatch: pytest.MonkeyPatch, file: Path, no_color: str, sent: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    terminal = Terminal(monkeypatch)
    playing = in_background(lambda: run(["replay", str(file), "--idle", "0"]))
    terminal.until("red")
    assert (b"\x1b[38;5;1mred" in terminal.seen) is sent
    terminal.press(b"q")
    playing.join(5)
    assert not playing.is_alive()


def test_a_film_at_its_end_or_paused_paints_nothing(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    terminal = Terminal(monkeypatch)
    playing = in_background(lambda: run(["replay", str(file), "--speed", "100"]))
    terminal.until(" end  ")
    terminal.seen = b""
    time.sleep(0.4)
    assert terminal.seen == b""
    terminal.press(b"q")
    playing.join(5)
    assert not playing.is_alive()


def test_without_a_terminal_all_of_it_is_lines_of_text(file: Path, capsys: Capture) -> None:
    assert run(["replay", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == ["one", "31m⟨U+202E⟩red", "3", "4", "5", "6", "last"]


def test_a_sandboxes_newest_recording_is_played(backend: None, capsys: Capture) -> None:
    assert run(["replay", "web", "--plain"]) == 0
    assert "last" in capsys.readouterr().out
    assert run(["replay", "nobody"]) == 3
    assert "no terminal of 'nobody' was recorded" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "hello\n", '{"version": 3}\n'])
def test_what_is_no_recording_is_said(tmp_path: Path, capsys: Capture, text: str) -> None:
    path = tmp_path / "x.cast"
    path.write_text(text)
    assert run(["replay", str(path)]) != 0
    told = capsys.readouterr()
    assert "no asciicast of version 2" in told.err and told.out == ""


def test_an_export_is_its_owners_alone_and_says_that_it_is_raw(
    backend: None, tmp_path: Path, capsys: Capture
) -> None:
    there = tmp_path / "web.cast"
    assert run(["recordings", "export", "web", "--to", str(there)]) == 0
    told = capsys.readouterr()
    assert there.read_text() == CAST and there.stat().st_mode & 0o777 == 0o600
    assert "raw output of a guest" in told.err and str(there) in told.out
    assert run(["recordings", "export", "web", "--to", str(there)]) == 2, "nothing is overwritten"


def test_an_export_never_goes_to_a_terminal(backend: None, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch)
    assert run(["recordings", "export", "web"]) == 2
    assert terminal.seen == b""


def test_the_list_tells_what_is_kept(backend: None, capsys: Capture) -> None:
    assert run(["recordings", "list"]) == 0
    assert "REC-0000000a\tweb\tSBX-00000001\t%1" in capsys.readouterr().out
    assert run(["recordings", "list", "--sandbox", "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"recordings": []}
