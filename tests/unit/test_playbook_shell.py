"""Command lines of an agent: what is plain enough to be told apart, and what needs a shell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.playbooks._shell import simple_commands


def plain(line: str) -> list[list[str]]:
    return [command.argv for command in simple_commands(line) if command.simple]


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("a b", [["a", "b"]]),
        ("a && b; c\nd", [["a"], ["b"], ["c"], ["d"]]),
        ("a 'b c' \"d e\" f\\ g", [["a", "b c", "d e", "f g"]]),
        ("a '$x' \"\\$y\" \\$z", [["a", "$x", "$y", "$z"]]),
        ("a \\\n  b", [["a", "b"]]),
        ("a ''", [["a", ""]]),
        ("a 2>/dev/null", [["a"]]),
        ("a >/dev/null 2>&1 && b", [["a"], ["b"]]),
        ("sudo a b", [["a", "b"]]),
        ("# a\nb # c", [["b"]]),
        ("cat > f <<EOF\na b\nEOF\nc", [["c"]]),
        ("cat > f <<-'EOF'\n\ta\n\tEOF\nc", [["c"]]),
    ],
)
def test_plain_commands_are_told_apart(line: str, argv: list[list[str]]) -> None:
    assert plain(line) == argv


@pytest.mark.parametrize(
    "line",
    ["a $x", 'a "$x"', "a `b`", "a *", "a ?", "a [b]", "a {b,c}", "a > b", "a < b", "(a)",
     "a | b", "X=1 a", "a || b", "a &", "~a b"],
)  # fmt: skip
def test_what_a_shell_would_change_is_not_plain(line: str) -> None:
    assert simple_commands(line)[0].simple is False


def test_a_command_knows_the_folder_it_ran_in() -> None:
    assert [one.folder for one in simple_commands("cd /etc/x && a; cd .. && b")] == [
        "",
        "/etc/x",
        "/etc/x",
        "",
    ]


@given(st.text(alphabet="ab '\"\\$&;|<>\n#EOF(){}=/-", max_size=60))
def test_any_line_is_read(line: str) -> None:
    assert all(command.argv for command in simple_commands(line))
