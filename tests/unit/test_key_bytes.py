"""Keys as a terminal sends them."""

from __future__ import annotations

import pytest

from fluid_tui.key_bytes import key_bytes, paste_bytes


@pytest.mark.parametrize(
    ("key", "character", "sent"),
    [
        ("a", "a", b"a"),
        ("A", "A", b"A"),
        ("full_stop", ".", b"."),
        ("ü", "ü", "ü".encode()),
        ("space", " ", b" "),
        ("enter", "\r", b"\r"),
        ("tab", "\t", b"\t"),
        ("shift+tab", None, b"\x1b[Z"),
        ("backspace", "\x7f", b"\x7f"),
        ("escape", "\x1b", b"\x1b"),
        ("ctrl+c", "\x03", b"\x03"),
        ("ctrl+q", "\x11", b"\x11"),
        ("ctrl+shift+c", None, b"\x03"),
        ("ctrl+@", "\0", b"\0"),
        ("ctrl+backslash", "\x1c", b"\x1c"),
        ("up", None, b"\x1b[A"),
        ("ctrl+right", None, b"\x1b[1;5C"),
        ("alt+shift+left", None, b"\x1b[1;4D"),
        ("home", None, b"\x1b[H"),
        ("pageup", None, b"\x1b[5~"),
        ("shift+delete", None, b"\x1b[3;2~"),
        ("f1", None, b"\x1bOP"),
        ("f5", None, b"\x1b[15~"),
        ("f12", None, b"\x1b[24~"),
        ("shift+f3", None, b"\x1b[1;2R"),
        ("alt+b", "b", b"\x1bb"),
        ("alt+b", None, b"\x1bb"),
        ("alt+shift+b", "B", b"\x1bB"),
        ("alt+enter", None, b"\x1b\r"),
        ("alt+backspace", None, b"\x1b\x7f"),
        ("alt+full_stop", ".", b"\x1b."),
        ("plus", "+", b"+"),
        ("+", "+", b"+"),
        ("left_shift", None, b""),
        ("super+a", None, b""),
        ("<ignore>", "\x1b[I", b""),
        ("ctrl+1", None, b""),
    ],
)
def test_a_key_is_sent_as_a_terminal_sends_it(key: str, character: str | None, sent: bytes) -> None:
    assert key_bytes(key, character) == sent


def test_a_paste_ends_where_we_say() -> None:
    hostile = "a\nb\r\nc\td\x1b[201~\x9b\x07\x7frm"
    assert paste_bytes(hostile) == b"\x1b[200~a\rb\rc\td[201~rm\x1b[201~"
