"""What the real console, and the commands, write to a real terminal holds no sequence but their own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from time import perf_counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from backend.text import Style
from fluid_tui.widgets.painted import AGENT_STYLES, rich_style
from fluid_tui.widgets.text_view import TextView
from tests.bench.terminal import Terminal
from tests.console.attacks import CORPUS, LONG_LINE, copied, foreign
from tests.console.door import sample_door
from tests.console.hostile_app import poisoned
from tests.console.sample import fleet

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}
QUIET_S = 0.06
LIMIT_S = 30.0
EXAMPLES = 8
HOME = (b"q", b"Needs you")
ESCAPE = (b"\x1b[27u", b"")  # as kitty sends it: a bare one could begin a sequence
WALK = (
    (b"h", b"Creates"),
    HOME,
    (b"l", b"chain holds"),
    (b"jj\r", b""),
    (b"a", b""),
    HOME,
    (b"w", b"live terminal"),
    HOME,
    (b"v", b"Request and evidence"),
    (b"1", b""),  # where it opens
    (b"ni", b""),
    (b"2", b"Playbook"),
    (b"3", b"Rehearsal"),
    (b"4", b"Dry run"),
    (b"5", b"Commands"),
    (b"C", b"clipboard (OSC 52)"),
    (b"6", b"pauses cut to"),
    (b" \x1b[F", b"end \xc2\xb7"),
    (b"0", b""),
    (b"GgC", b"clipboard (OSC 52)"),
    (b"a", b"for production"),
    ESCAPE,
    (b"r", b"the agent reads it"),
    ESCAPE,
    HOME,
    (b"j\r", b"The agent asks"),
    (b"y", b"enter sends it"),
    ESCAPE,
    HOME,
    (b"j", b""),
    (b"d", b"Changes"),
    (b"ni", b""),
    HOME,
    (b"t", b"last output"),
    (b"\x1b[5~", b"reading back"),
    HOME,
    (b"p", b""),
    (b"s", b"Take a snapshot"),
    ESCAPE,
    (b"D", b"cannot be undone"),
    ESCAPE,
    (b":sandbox ", b""),
    ESCAPE,
    (b"f", b""),
    ESCAPE,
    (b"?", b"Open what is under the cursor"),
    HOME,
    (b"!!", b"No apply starts"),
    HOME,
)


class Hostile:
    """A console that runs, and the pipe that gives its backend other words."""

    def __init__(self, folder: Path) -> None:
        self._told = 0
        self._pipe = folder / "words"
        os.mkfifo(self._pipe)
        argv = [sys.executable, "-m", "tests.console.hostile_app", str(self._pipe)]
        self.terminal = Terminal(argv, ENVIRONMENT, 120, 36, keeps=True)
        self.terminal.until(b"Needs you")

    def tell(self, words: list[str], rows: list[str]) -> None:
        """Others from now on; wait until a pane shows them."""
        self._told += 1
        last, at = f"told {self._told}.", perf_counter()
        pipe = os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK)  # an error, not a wait, when nobody reads
        os.set_blocking(pipe, True)
        with os.fdopen(pipe, "w") as file:
            file.write(json.dumps({"words": words, "rows": [*rows, last]}) + "\n")
        self.terminal.since(at, last.encode(), LIMIT_S)

    def walk(self, *steps: tuple[bytes, bytes]) -> None:
        for keys, marker in steps:
            at = self.terminal.press(keys)
            if marker:
                self.terminal.since(at, marker, LIMIT_S)
            self.terminal.settle(QUIET_S)

    def wrote_its_own(self) -> bytes:
        """What was written since the last look: its own and nothing else."""
        self.terminal.settle(QUIET_S)
        output = bytes(self.terminal.output)
        self.terminal.output.clear()
        assert foreign(output) == []
        return output


@pytest.mark.parametrize(
    "own",
    [
        "{}",
        "{}\x1b[2;1Htext",
        "text\x1b[0m\x1b[1;1H{}",
        "text\x1b[1;1H{}\x07",
        "\x07{}\x1b[2;1H",
        "\x1b[?2026l{}",
    ],
)
def test_the_console_asks_where_the_cursor_is_behind_what_it_wrote(own: str) -> None:
    assert foreign(own.format("\x1b[6n").encode()) == []


@pytest.mark.parametrize(
    "attack", ["text{}", "\x1b[1;1H{}text", "\x1b[31m{}", "\n{}", "\x1b[1;1H{0}{0}", "ll{}"]
)
def test_nobody_else_asks(attack: str) -> None:
    assert foreign(attack.format("\x1b[6n").encode()) != []


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    made = Hostile(tmp_path_factory.mktemp("hostile"))
    with made.terminal:
        yield made


def test_no_screen_lets_an_attack_through(hostile: Hostile) -> None:
    hostile.walk(*WALK)
    output = hostile.wrote_its_own()
    assert copied(output) == 2, "those that the operator asked for"
    assert "␛]52;c;".encode() in output, "attacks were drawn"
    hostile.walk((b"w", b"next page"))  # the title is cut: that all stands still has the room
    hostile.tell(list(CORPUS), [*CORPUS, LONG_LINE, f"\x1b[31m{LONG_LINE}\x1b]0;"])
    hostile.walk(HOME)
    assert copied(hostile.wrote_its_own()) == 0


fragments = st.one_of(
    st.sampled_from(
        [*"\x1b\x9b\x9d\x90\x9c\x07\x08\r\n\t\x00\x7f[]P_^X;?$0123456789mhHJKcq\\", "52;c;", "8;;", "\u202e"]
    ),
    st.sampled_from(CORPUS),
    st.characters(),
)
lines = st.lists(st.lists(fragments, min_size=1, max_size=30).map("".join), min_size=2, max_size=20)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(words=lines)
def test_no_words_and_no_rows_let_an_attack_through(hostile: Hostile, words: list[str]) -> None:
    hostile.tell(words, words)
    hostile.wrote_its_own()


def test_leaving_gives_the_terminal_back(hostile: Hostile) -> None:
    hostile.terminal.press(b"q")
    assert hostile.terminal.wait() == 0
    output = bytes(hostile.terminal.output)
    assert foreign(output) == []
    assert all(end in output for end in (b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?2004l", b"\x1b[23;2t"))


@pytest.mark.parametrize(("words", "environment"), [("--no-mouse", {}), ("", {"FLUID_MOUSE": "0"}), ("", {})])
def test_the_mouse_is_left_to_the_terminal_on_demand(
    tmp_path: Path, words: str, environment: dict[str, str]
) -> None:
    with sample_door(tmp_path / "operator.sock", fleet()):
        given = ENVIRONMENT | environment | {"FLUID_SOCKET": str(tmp_path / "operator.sock")}
        with Terminal(
            [sys.executable, "-m", "backend.cli", *words.split()], given, 120, 36, keeps=True
        ) as seen:
            seen.until(b"Needs you")
            taken = b"\x1b[?1000h" in bytes(seen.output)
            assert taken is not bool(words or environment)
            seen.press(b"q")


@pytest.mark.parametrize("words", [["--read-only"], []])
def test_a_console_that_only_looks_is_begun_by_its_option_and_says_so(
    tmp_path: Path, words: list[str]
) -> None:
    with sample_door(tmp_path / "operator.sock", fleet()):
        given = ENVIRONMENT | {"FLUID_SOCKET": str(tmp_path / "operator.sock")}
        argv = [sys.executable, "-m", "backend.cli", *words]
        with Terminal(argv, given, 120, 36, keeps=True) as seen:
            seen.until(b"read-only" if words else b"Needs you")  # the title comes before the screen
            seen.settle(quiet_s=0.3)
            assert (b"read-only" in seen.output) is bool(words)
            seen.press(b"?")
            seen.until(b"fleet.pause")
            seen.settle(quiet_s=0.3)
            assert (b"(off: read-only)" in seen.output) is bool(words)


@pytest.mark.parametrize(
    "words", ["status", "status --line", "--plain", "sandboxes list", "approvals watch --once"]
)
def test_no_command_lets_an_attack_through(tmp_path: Path, words: str) -> None:
    attacks = cycle(CORPUS)
    with sample_door(tmp_path / "operator.sock", poisoned(fleet(), attacks)) as door:
        door.status["hosts"] = [{"name": next(attacks), "status": next(attacks), "virt": next(attacks)}]
        door.status["components"] = [
            {"name": next(attacks), "status": next(attacks), "message": next(attacks)}
        ]
        environment = ENVIRONMENT | {"FLUID_SOCKET": str(tmp_path / "operator.sock")}
        argv = [sys.executable, "-m", "backend.cli", *words.split()]
        with Terminal(argv, environment, 120, 36, keeps=True) as seen:
            assert seen.wait(30.0) == 0
            assert b"\xe2\x90\x9b" in seen.output, "attacks were printed"
            assert foreign(bytes(seen.output)) == []


def test_an_agents_colours_are_not_kept_for_ever() -> None:
    view = TextView()
    for number in range(3 * AGENT_STYLES):
        view.role_style(Style(fg=(number % 256, number // 256, 7)))
    assert not any(isinstance(known, Style) for known in view._styles_of)
    assert rich_style.cache_info().currsize <= AGENT_STYLES
