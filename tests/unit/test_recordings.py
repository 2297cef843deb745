"""Recordings: the format, what bounds them, what is withheld, and what a kill leaves."""

from __future__ import annotations

import json
import stat
import time
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend import replay
from backend.asciicast import (
    MARK,
    OUTPUT,
    RESIZE,
    Cast,
    CastEvent,
    NotACast,
    event_line,
    header_line,
    read_cast,
)
from backend.models import Recording, now
from backend.panes.redaction import redacted
from backend.panes.shelf import Shelf
from backend.panes.tape import BURST_BYTES, RATE_BYTES_S, Tape, redraw
from backend.replay import Replay
from backend.tmux import Drawn

KEY = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\r\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\r\nAAAAB3NzaC1yc2E=\r\n"
    "-----END OPENSSH PRIVATE KEY-----"
)
TOKEN = "ghp_" + "a1B2" * 9
HASH = "$6$saltsalt$" + "x" * 86


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def recording(**more: object) -> Recording:
    told = {"id": "REC-00000001", "sandbox_id": "SBX-1", "sandbox_name": "web", "pane_id": "%3"}
    return Recording.model_validate({"started_at": now(), **told, **more})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tape(clock: Clock) -> Tape:
    return Tape(recording(), clock)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "recordings").mkdir()
    return Shelf(tmp_path / "recordings")


def drawn(rows: list[str], width: int = 10, **more: object) -> Drawn:
    told = {"height": len(rows), "cursor": (0, 0), "region": (0, len(rows) - 1), "is_alternate": False}
    return Drawn(width=width, rows=rows, **{**told, **more})  # type: ignore[arg-type]


def texts(events: list[CastEvent]) -> str:
    return "".join(event.data for event in events if event.code == OUTPUT)


# --- the format ---------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 1e6), st.sampled_from([OUTPUT, RESIZE, MARK]), st.text())))
def test_what_is_written_is_read_again_and_acts_on_no_terminal(told: list[tuple[float, str, str]]) -> None:
    events = [CastEvent(round(at, 3), code, data) for at, code, data in sorted(told, key=lambda one: one[0])]
    lines = header_line(80, 24, 1, "web", "screen") + "".join(map(event_line, events))
    assert all(line.isascii() and line.isprintable() for line in lines.splitlines())
    assert json.loads(lines.splitlines()[0])["version"] == 2
    assert read_cast(lines) == Cast(80, 24, 1, "web", events)


@pytest.mark.parametrize("text", ["", "x", "[]", '{"version": 1}', "\x1b]0;x\x07", "[" * 100_000])
def test_what_is_no_recording_is_refused(text: str) -> None:
    with pytest.raises(NotACast):
        read_cast(text)


def test_a_strangers_file_is_read_within_limits() -> None:
    lines = [
        '{"version": 2, "width": 999999, "height": "a", "timestamp": 1e300, "title": []}',
        '[1.0, "o", "a"]', '[0.5, "o", "b"]', "[NaN, 1", '["x", "o", "c"]', "null", '[1e999, "o", "d"]',
        '[2, "o"',
    ]  # fmt: skip
    cast = read_cast("\n".join(lines))
    assert (cast.width, cast.height, cast.timestamp, cast.title) == (500, 24, 0, "")
    assert [(event.at, event.data) for event in cast.events] == [(1.0, "a"), (1.0, "b")]
    assert cast.broken == 5


# --- what comes in ------------------------------------------------------------------------------------------


def test_bytes_that_come_together_are_one_event_and_a_character_is_never_cut(
    tape: Tape, clock: Clock
) -> None:
    tape.put("ä".encode()[:1])
    clock.at = 0.01
    tape.put("ä".encode()[1:])
    clock.at = 5.0
    tape.put(b"\xff\xf0\x9f")
    assert tape.take() == [CastEvent(0.0, OUTPUT, "ä"), CastEvent(5.0, OUTPUT, "\ufffd")]
    tape.put("😀".encode()[2:])
    assert texts(tape.take()) == "😀"


def test_a_flood_is_cut_at_the_burst_and_the_gap_is_told(tape: Tape, clock: Clock) -> None:
    for _ in range(100):
        if not tape.is_full:
            tape.put(b"y\n" * 8192)
    events = tape.take()
    assert tape.is_full and len(texts(events)) <= BURST_BYTES
    assert events[-1].code == MARK and "not recorded" in events[-1].data
    clock.at = 2.0
    tape.draw(drawn(["y"]))
    assert not tape.is_full
    tape.take()
    tape.put(b"y" * (2 * RATE_BYTES_S))
    assert not tape.is_full, "what the rate allows is recorded again"
    tape.put(b"y" * RATE_BYTES_S)
    assert tape.is_full


def test_who_prints_within_the_rate_is_never_cut(tape: Tape, clock: Clock) -> None:
    for second in range(600):
        clock.at = second
        tape.put(b"x" * RATE_BYTES_S)
        tape.take()
    assert not tape.is_full


def test_a_screen_drawn_anew_is_the_same_screen() -> None:
    rows = ["\x1b[31mred\x1b[39m", "0123456789", "ab", "", "漢字漢字漢", "x", ""]
    film = Replay(
        Cast(10, 7, events=[CastEvent(0, OUTPUT, "old\r\n" * 9 + redraw(drawn(rows, cursor=(2, 2))) + "!")])
    )
    film.go(0)
    told = ["".join(text for text, _ in row) for row in film.rows()]
    assert told == ["red", "0123456789", "ab!", "", "漢字漢字漢", "x", ""]


def test_an_empty_screen_is_drawn_anew_too() -> None:
    film = Replay(Cast(10, 3, events=[CastEvent(0, OUTPUT, "old" + redraw(drawn(["", "", ""])) + "new")]))
    film.go(0)
    assert film.rows()[0][0][0] == "new"


# --- secrets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [KEY, TOKEN, HASH])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_secret_is_withheld_however_it_was_cut(secret: str, size: int) -> None:
    text = f"# cat it\r\n{secret} \r\n\x1b[31mdone\x1b[0m\r\n"
    events = [CastEvent(at, OUTPUT, text[at : at + size]) for at in range(0, len(text), size)]
    told = texts(redacted(events))
    assert len(told) == len(text)
    assert told.startswith("# cat it\r\n****") and told.endswith(" \r\n\x1b[31mdone\x1b[0m\r\n")
    assert not any(word in told for word in secret.split() if len(word) > 8)


def test_colours_and_wraps_inside_a_secret_hide_nothing() -> None:
    cut = f"{TOKEN[:9]}\x1b[1m{TOKEN[9:20]} \r{TOKEN[20:]}"
    told = texts(redacted([CastEvent(0, OUTPUT, f"a {cut} b")]))
    assert told == f"a {'*' * 9}\x1b[1m{'*' * 11} \r{'*' * 20} b"


def test_a_key_that_is_cut_off_is_withheld_and_what_is_no_secret_stays() -> None:
    half = KEY[: KEY.index("AAAAB3")]
    assert "b3Bl" not in texts(redacted([CastEvent(0, OUTPUT, half)]))
    for name in ("PGP PRIVATE KEY BLOCK", "OpenVPN Static key V1"):
        key = f"-----BEGIN {name}-----\r\nlQOYBF0\r\n-----END {name}-----\r\n$ "
        assert texts(redacted([CastEvent(0, OUTPUT, key)])).split()[-1] == "$"
        assert "lQOY" not in texts(redacted([CastEvent(0, OUTPUT, key)]))
    events = [CastEvent(0, OUTPUT, "ls -l\r\n"), CastEvent(1, MARK, TOKEN)]
    assert redacted(events) is events


@pytest.mark.parametrize("unit", ["-----BEGIN PRIVATE KEY-----", "-----END ", "ghp_", "$6$a$", "\x1b]", "A "])
def test_a_megabyte_of_almost_secrets_is_looked_through_in_linear_time(unit: str) -> None:
    began = time.perf_counter()
    redacted([CastEvent(0, OUTPUT, unit * (1_000_000 // len(unit)))])
    assert time.perf_counter() - began < 20, "quadratic work takes minutes"


# --- on the disk --------------------------------------------------------------------------------------------


def write(shelf: Shelf, one: Recording, part: int, *words: str) -> None:
    shelf.append(one, part, [CastEvent(part, OUTPUT, word) for word in words])


def test_files_are_their_owners_alone_and_parts_make_one_recording(shelf: Shelf) -> None:
    one = recording()
    shelf.begin(one)
    for part in (1, 2, 3):
        write(shelf, one, part, f"part {part} ")
    shelf.pack(one.id, but=3)
    folder = shelf.folder / one.id
    assert sorted(path.name for path in folder.iterdir()) == [
        "000001.cast.gz", "000002.cast.gz", "000003.cast", "about.json",
    ]  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    cast = read_cast(shelf.cast(one.id))
    assert texts(cast.events) == "part 1 part 2 part 3 " and cast.title == "web %3"


@pytest.mark.parametrize("cut", range(2, 60, 7))
def test_a_file_that_a_kill_cut_off_anywhere_is_read_to_there(shelf: Shelf, cut: int) -> None:
    one = recording()
    shelf.begin(one)
    write(shelf, one, 1, *(f"word{number} " for number in range(9)))
    file = shelf.folder / one.id / "000001.cast"
    file.write_bytes(file.read_bytes()[:-cut])
    told = texts(read_cast(shelf.cast(one.id)).events)
    assert told.startswith("word0 word1 ") and "word8 " not in told
    write(shelf, one, 2, "and on")
    assert texts(read_cast(shelf.cast(one.id)).events) == told + "and on"


def test_a_packed_file_that_is_broken_gives_what_is_whole(shelf: Shelf) -> None:
    one = recording()
    shelf.begin(one)
    write(shelf, one, 1, *(f"{number * number} " for number in range(4000)))
    shelf.pack(one.id)
    file = shelf.folder / one.id / "000001.cast.gz"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert texts(read_cast(shelf.cast(one.id)).events).startswith("0 1 4 9 ")


def test_what_a_killed_backend_left_is_settled(shelf: Shelf) -> None:
    one, live = recording(), recording(id="REC-00000002")
    for each in (one, live):
        shelf.begin(each)
        write(shelf, each, 7, "x")
    (shelf.folder / one.id / "000006.cast.gz.half").write_bytes(b"half")
    (shelf.folder / "REC-00000003").mkdir()
    shelf.settle([live.id])
    assert {each.id: each.ended_at is None for each in shelf.all()} == {one.id: False, live.id: True}
    assert shelf.require(one.id).duration_s == 7
    assert sorted(path.name for path in (shelf.folder / one.id).iterdir()) == ["000007.cast.gz", "about.json"]
    assert not (shelf.folder / "REC-00000003").exists()


def test_a_long_recording_keeps_its_start_and_its_end(shelf: Shelf) -> None:
    one = recording()
    shelf.begin(one)
    for part in range(1, 8):
        write(shelf, one, part, f"{part} ")
    assert shelf.cut(one.id, 3) and not shelf.cut(one.id, 3)
    assert texts(shelf.events(one.id)) == "1 6 7 "


def test_the_oldest_that_have_ended_go_first(shelf: Shelf) -> None:
    for number in range(1, 5):
        began = now() - timedelta(days=9 - number)
        ended = None if number == 1 else began
        one = recording(id=f"REC-{number:08x}", started_at=began, ended_at=ended)
        shelf.begin(one)
        write(shelf, one, 1, "x" * 1000)
    each = shelf.all()[0].size_bytes
    assert [one.id for one in shelf.expired(now() - timedelta(days=6.5))] == ["REC-00000002"]
    assert [one.id for one in shelf.trim(3 * each)] == ["REC-00000002"]
    assert [one.id for one in shelf.trim(0)] == ["REC-00000003", "REC-00000004"]
    assert [one.id for one in shelf.all()] == ["REC-00000001"], "what is being made stays"


# --- playing ------------------------------------------------------------------------------------------------


def film_of(*events: tuple[float, str], idle_s: float | None = None) -> Replay:
    return Replay(Cast(20, 3, events=[CastEvent(at, OUTPUT, data) for at, data in events]), idle_s)


def test_pauses_are_cut_and_left_as_they_were() -> None:
    film = film_of((0, "a"), (1, "b"), (100, "c"), idle_s=2.0)
    assert film.duration == 3.0
    film.go(2.9)
    assert film.rows()[0][0][0] == "ab" and film.next_at == 3.0
    film.skip_idle(None)
    assert (film.at, film.duration, film.recorded_s) == (1.0, 100.0, 1.0)
    film.go(film.duration)
    assert film.over and film.rows()[0][0][0] == "abc"


def test_going_back_shows_what_stood_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "KEYFRAME_CHARS", 400)
    chunk = "x" * 100
    film = film_of(*((at, f"\x1b[H\x1b[J{chunk}\x1b[H\x1b[Jscreen {at}") for at in range(40)))
    for at in (39, 3, 20, 19, 0, 38):
        film.go(at)
        assert film.rows()[0][0][0] == f"screen {at}"
