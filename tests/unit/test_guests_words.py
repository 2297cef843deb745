"""Why a connection failed, in the reader's words."""

from __future__ import annotations

import socket

import pytest

from backend.guests._words import words_of


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (ConnectionRefusedError(111, "Connect call failed ('192.0.2.7', 22)"), "Connection refused"),
        (TimeoutError(), "no answer"),
        (EOFError(), "EOFError"),
    ],
)
def test_the_reason_is_in_words(error: BaseException, words: str) -> None:
    assert words_of(error) == words
