"""The command lines for a guest's sshd under other log-in shells, and what is kept of a long output."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.guests._capture import Capture
from backend.guests._trampoline import build

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize("cwd", [None, "/usr"])
@pytest.mark.parametrize("env", [None, {"A": "it's $HOME"}])
def test_a_line_means_the_same_to_every_log_in_shell(
    shell: str, cwd: str | None, env: dict[str, str] | None
) -> None:
    line = build("[[ a == a* ]] && echo \"$A\" 'q' $0", token=TOKEN, env=env, cwd=cwd)
    done = subprocess.run([shell, "-c", line.exec_line], capture_output=True, check=True)
    assert done.stdout == ("it's $HOME" if env else "").encode() + b" q bash\n"
    marker, _, rest = done.stderr.partition(b"\n")
    assert marker.startswith(TOKEN.encode() + b" ")
    assert rest == b""


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200))
def test_any_text_is_one_argument_of_bash(text: str) -> None:
    line = build(f"printf %s {_dollar_quote(text)}", token=TOKEN)
    done = subprocess.run(["bash", "-c", line.exec_line], capture_output=True, check=True)
    assert done.stdout == text.encode()


def _dollar_quote(text: str) -> str:
    """Bash's own $'…' form, byte by byte: written without the quoting under test."""
    return "$'" + "".join(f"\\x{byte:02x}" for byte in text.encode()) + "'"


@given(st.lists(st.binary(max_size=3000), max_size=30), st.integers(0, 5000))
def test_what_is_kept_is_within_the_limit_and_the_size_is_true(pieces: list[bytes], limit: int) -> None:
    capture = Capture(limit)
    shown = b"".join(capture.feed(piece) for piece in pieces)
    whole = b"".join(pieces)
    kept = capture.kept()
    assert capture.size == len(whole)
    assert len(kept) <= limit
    assert kept == shown + capture.finish()
    if len(whole) <= limit:
        assert kept == whole
        assert not capture.truncated
    else:
        assert capture.truncated
        assert kept.startswith(whole[: limit // 2])
        assert limit < 1024 or kept.endswith(whole[-limit // 8 :])
