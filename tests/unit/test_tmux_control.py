"""Control mode's text, whatever is in it and however it is cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from backend.tmux.control import ControlParser, Exit, Notice, Output, Reply, unescape

STREAM = (
    b"%begin 1 1 0\n%end 1 1 0\n%session-changed $0 fluid\n%output %1 a\\015\\012\\\\ \xc3\xbc\n%exit bye\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_any_portions_give_the_same_notifications(cuts: list[int]) -> None:
    parser = ControlParser()
    places = [0, *sorted(cuts), len(STREAM)]
    found = [one for start, end in itertools.pairwise(places) for one in parser.feed(STREAM[start:end])]
    assert found == [
        Notice("session-changed", "$0 fluid"),
        Output("%1", b"a\r\n\\\\ \xc3\xbc"),
        Exit("bye"),
    ]


@given(st.binary(max_size=40))
def test_what_a_pane_prints_comes_through_the_escapes(data: bytes) -> None:
    escaped = b"".join(b"\\%03o" % byte if byte < 32 or byte == 0x5C else bytes([byte]) for byte in data)
    assert unescape(escaped) == data


@given(
    st.lists(
        st.sampled_from([b"%end 5 7 1", b"%error 5 7 1", b"%begin 5 8 1", b"%exit", b"text", b""]), max_size=8
    )
)
def test_text_of_a_known_length_is_never_taken_for_protocol(lines: list[bytes]) -> None:
    parser = ControlParser()
    results: list[tuple[list[bytes], bool]] = []
    parser.expect(Reply(lambda: len(lines), done=lambda reply, ok: results.append((reply.lines, ok))))
    body = b"".join(line + b"\n" for line in lines)
    told = parser.feed(b"%begin 5 7 1\n" + body + b"%end 5 7 1\n%output %2 x\n")
    assert list(told) == [Output("%2", b"x")]
    assert results == [(lines, True)]


def test_an_error_is_told_and_blocks_of_others_are_not_ours() -> None:
    parser = ControlParser()
    results: list[tuple[list[bytes], bool]] = []
    parser.expect(Reply(done=lambda reply, ok: results.append((reply.lines, ok))))
    list(parser.feed(b"%begin 1 1 0\nhook\n%end 1 1 0\n"))
    assert results == []
    list(parser.feed(b"%begin 1 2 1\ncan't find pane: %9\n%error 1 2 1\n"))
    assert results == [([b"can't find pane: %9"], False)]


def test_when_tmux_goes_every_expected_reply_fails() -> None:
    parser = ControlParser()
    results: list[bool] = []
    for _ in range(3):
        parser.expect(Reply(done=lambda _reply, ok: results.append(ok)))
    list(parser.feed(b"%begin 1 2 1\nhalf"))
    parser.abandon()
    assert results == [False, False, False]


def test_a_reply_is_done_between_what_was_told_before_and_after_it() -> None:
    parser = ControlParser()
    order: list[object] = []
    parser.expect(Reply(done=lambda _reply, _ok: order.append("reply")))
    told = parser.feed(b"%output %1 a\n%begin 1 2 1\n%end 1 2 1\n%output %1 b\n")
    order.append(next(told))
    assert order == [Output("%1", b"a")]
    order += told
    assert order == [Output("%1", b"a"), "reply", Output("%1", b"b")]
