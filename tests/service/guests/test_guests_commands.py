"""Commands reach the guest's ``bash -c`` untouched, stream, end with their whole session, and stay small."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from backend.errors import GuestDown, InvalidValue, TooLarge
from backend.guests import Guest, GuestCommands, GuestConnections, GuestForwards
from backend.guests.commands import _signal
from backend.guests.forwards import Reader, Writer
from tests.service.guests.conftest import SshServer

LIMIT_S = 20.0

EXACT = [
    ("for i in 1 2; do echo $i; done", b"1\n2\n"),
    ("printf 'a b\\n' | awk '{print $2}'", b"b\n"),
    ("cat <<'END'\n$HOME `id` \"q\" 'r' \\n\nEND\n", b"$HOME `id` \"q\" 'r' \\n\n"),
    ("cat <<END\n$((1+1))\nEND", b"2\n"),
    ("echo grüße 日本 🦊", "grüße 日本 🦊\n".encode()),
    ("printf 'a\\0b'", b"a\0b"),
    ("echo '\"' \"'\"", b"\" '\n"),
    ("echo 'it'\\''s'", b"it's\n"),
    (r"printf '%s' 'C:\new\table\\'", rb"C:\new\table\\"),
    ("echo one\necho two", b"one\ntwo\n"),
    ("", b""),
    ("-x", None),
    ("echo $0", b"bash\n"),
    ("echo '{{ x }}' '${HOME}' '!!' '~' '*'", b"{{ x }} ${HOME} !! ~ *\n"),
    ("echo a\tb # and a remark", b"a b\n"),
    ("[[ abc == a* ]] && echo bash", b"bash\n"),
    ("set -- x y; echo $#", b"2\n"),
    ("echo 'two\nlines'", b"two\nlines\n"),
    ("printf %s ' ends with newline\n'", b" ends with newline\n"),
    ("echo $'\\x1b[31m'", b"\x1b[31m\n"),
    ("echo $# $-", b"0 hBc\n"),
    ("trap 'echo bye' EXIT; f() { return 0; }; f && exit 0", b"bye\n"),
]


@pytest.mark.parametrize(("command", "expected"), EXACT, ids=[command[:24] for command, _ in EXACT])
async def test_a_command_reaches_bash_untouched(
    guest: Guest, commands: GuestCommands, command: str, expected: bytes | None
) -> None:
    outcome = await commands.run(guest, command, timeout_s=LIMIT_S)
    if expected is None:
        assert (outcome.exit_code, outcome.stdout) == (127, b"")
        assert b"-x: command not found" in outcome.stderr
    else:
        assert (outcome.stdout, outcome.stderr, outcome.exit_code) == (expected, b"", 0)


@pytest.mark.parametrize(
    ("command", "code"), [("for", 2), ("echo )", 2), ("set -e; false; true", 1), ("no-such-program", 127)]
)
async def test_exit_codes_are_those_of_bash_c(
    guest: Guest, commands: GuestCommands, command: str, code: int
) -> None:
    outcome = await commands.run(guest, command, timeout_s=LIMIT_S)
    assert (outcome.exit_code, outcome.stdout) == (code, b"")


async def test_a_long_command_full_of_quotes_arrives_whole(guest: Guest, commands: GuestCommands) -> None:
    text = "'\"" * 30_000 + "\n\n"
    outcome = await commands.run(
        guest, f"cat; cat <<'END'\n{text}END", timeout_s=LIMIT_S, stdin=b"input\0too"
    )
    assert outcome.stdout == b"input\0too" + text.encode()


async def test_a_command_beyond_one_argument_is_refused_with_words(
    guest: Guest, commands: GuestCommands
) -> None:
    with pytest.raises(TooLarge, match="131071"):
        await commands.run(guest, "x" * 140_000, timeout_s=LIMIT_S)
    with pytest.raises(InvalidValue, match="NUL"):
        await commands.run(guest, "echo a\0b", timeout_s=LIMIT_S)


async def test_streams_are_kept_apart_and_the_exit_code_is_told(
    guest: Guest, commands: GuestCommands
) -> None:
    outcome = await commands.run(guest, "echo out; echo err >&2; exit 3", timeout_s=LIMIT_S)
    assert (outcome.stdout, outcome.stderr, outcome.exit_code) == (b"out\n", b"err\n", 3)
    assert (outcome.stdout_bytes, outcome.stderr_bytes, outcome.truncated) == (4, 4, False)
    assert outcome.started_at <= outcome.ended_at


@pytest.mark.parametrize(("signal", "code"), [("KILL", 137), ("TERM", 143), ("SEGV", 139)])
async def test_death_by_a_signal_is_128_and_its_number(
    guest: Guest, commands: GuestCommands, signal: str, code: int
) -> None:
    outcome = await commands.run(guest, f"kill -{signal} $$", timeout_s=LIMIT_S)
    assert outcome.exit_code == code


async def test_output_comes_as_it_is_printed(guest: Guest, commands: GuestCommands) -> None:
    seen: list[tuple[float, str, bytes]] = []
    started = time.monotonic()
    await commands.run(
        guest,
        "echo a; echo e >&2; sleep 3; echo b",
        timeout_s=LIMIT_S,
        on_output=lambda stream, data: seen.append((time.monotonic() - started, stream, data)),
    )
    early = {(stream, data) for at, stream, data in seen if at < 1.0}
    late = {(stream, data) for at, stream, data in seen if at >= 2.9}
    assert early == {("stdout", b"a\n"), ("stderr", b"e\n")}
    assert late == {("stdout", b"b\n")}


async def test_environment_folder_and_input_arrive(
    guest: Guest, commands: GuestCommands, tmp_path: Path
) -> None:
    folder = tmp_path / "a b'$x\n{{"
    folder.mkdir()
    outcome = await commands.run(
        guest,
        'pwd; echo "$GREETING"; echo "$EMPTY."; cat',
        timeout_s=LIMIT_S,
        env={"GREETING": "it's $HOME\nand `id`", "EMPTY": ""},
        cwd=str(folder),
        stdin=b"\0\xff end",
    )
    assert outcome.stdout == f"{folder}\nit's $HOME\nand `id`\n.\n".encode() + b"\0\xff end"


async def test_another_user_has_its_own_home_groups_and_folder(guest: Guest, commands: GuestCommands) -> None:
    question = "id -un; id -gn; id -Gn; echo $HOME $USER $LOGNAME; pwd; echo $A"
    outcome = await commands.run(guest, question, user="games", env={"A": "b c"}, timeout_s=LIMIT_S)
    assert outcome.stdout.decode().splitlines()[:4] == ["games", "games", "games", "/usr/games games games"]
    assert outcome.stdout.endswith(b"/usr/games\nb c\n")
    elsewhere = await commands.run(guest, "pwd", user="games", cwd="/usr", timeout_s=LIMIT_S)
    assert elsewhere.stdout == b"/usr\n"
    homeless = await commands.run(guest, "pwd", user="nobody", timeout_s=LIMIT_S)
    assert (homeless.exit_code, homeless.stdout) == (0, b"/\n")
    refused = await commands.run(guest, "echo no", user="games", cwd="/root/.ssh-none", timeout_s=LIMIT_S)
    assert (refused.exit_code, refused.stdout) == (125, b"")


async def test_an_unknown_user_or_folder_starts_nothing(guest: Guest, commands: GuestCommands) -> None:
    nobody = await commands.run(guest, "echo ran", user="no-such-user", timeout_s=LIMIT_S)
    assert (nobody.exit_code, nobody.stdout) == (125, b"")
    assert b"no-such-user" in nobody.stderr
    nowhere = await commands.run(guest, "echo ran", cwd="/no/such/folder", timeout_s=LIMIT_S)
    assert (nowhere.exit_code, nowhere.stdout) == (125, b"")
    assert b"/no/such/folder" in nowhere.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"user": "root; id"}, "root; id"),
        ({"user": "-x"}, "-x"),
        ({"env": {"A=B": "c"}}, "A=B"),
        ({"env": {"A": "\0"}}, "A holds"),
        ({"cwd": "relative"}, "relative"),
    ],
)
async def test_what_cannot_be_passed_on_is_refused_by_name(
    guest: Guest, commands: GuestCommands, arguments: dict[str, object], word: str
) -> None:
    with pytest.raises(InvalidValue, match=word):
        await commands.run(guest, "true", timeout_s=LIMIT_S, **arguments)  # type: ignore[arg-type]


def alive(pid_file: Path) -> bool:
    """Whether the process that wrote its pid there still runs (a zombie does not)."""
    stat = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    try:
        return stat.read_text().rsplit(") ", 1)[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


FAMILIES = {
    "grandchild": "(sleep 300 & echo $! >{pid}; wait)",
    "deaf to TERM": "trap '' TERM; (trap '' TERM; sleep 300 & echo $! >{pid}; wait; sleep 300); sleep 300",
    "job control": "set -m; sleep 300 & echo $! >{pid}; wait",
    "forger": "echo {fake} >&2; printf '%s 1\\n' {fake} >&2; sleep 300 & echo $! >{pid}; wait",
}


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_time_out_ends_all_descendants(
    guest: Guest, commands: GuestCommands, tmp_path: Path, family: str
) -> None:
    pid = tmp_path / "pid"
    script = FAMILIES[family].format(pid=pid, fake="0123456789abcdef" * 2)
    started = time.monotonic()
    outcome = await commands.run(guest, f"echo before; {script}", timeout_s=1)
    assert outcome.timed_out
    assert outcome.stdout == b"before\n"
    assert outcome.exit_code is None or outcome.exit_code > 128
    assert time.monotonic() - started < 6
    assert not alive(pid)


async def test_a_daemon_with_a_session_of_its_own_outlives_the_time_out(
    guest: Guest, commands: GuestCommands, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    command = f"setsid sleep 300 >/dev/null 2>&1 </dev/null & echo $! >{pid}; sleep 300"
    assert (await commands.run(guest, command, timeout_s=1)).timed_out
    assert alive(pid)
    os.kill(int(pid.read_text()), 9)


async def test_a_caller_that_leaves_ends_the_command(
    guest: Guest, commands: GuestCommands, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    started = asyncio.Event()
    task = asyncio.create_task(
        commands.run(
            guest,
            f"sleep 300 & echo $! >{pid}; echo go; wait",
            timeout_s=60,
            on_output=lambda *_: started.set(),
        )
    )
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await commands.close()
    assert not alive(pid)


async def test_a_child_left_in_the_background_is_not_waited_for(
    guest: Guest, commands: GuestCommands, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    started = time.monotonic()
    outcome = await commands.run(guest, f"sleep 300 & echo $! >{pid}; echo done", timeout_s=60)
    assert (outcome.stdout, outcome.exit_code, outcome.timed_out) == (b"done\n", 0, False)
    assert time.monotonic() - started < 5
    assert alive(pid)
    os.kill(int(pid.read_text()), 9)


async def test_a_flood_keeps_memory_flat_and_tells_the_true_size(
    guest: Guest, commands: GuestCommands
) -> None:
    size = 64 * 1024**2
    await commands.run(guest, "true", timeout_s=LIMIT_S)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = await commands.run(
        guest, f"echo first; head -c {size} /dev/zero; echo last; exit 7", timeout_s=120, limit_bytes=100_000
    )
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert outcome.stdout_bytes == size + 11
    assert outcome.truncated
    assert len(outcome.stdout) <= 100_000
    assert outcome.stdout.startswith(b"first\n")
    assert outcome.stdout.endswith(b"\0last\n")
    assert b"bytes left out]" in outcome.stdout
    assert outcome.exit_code == 7
    assert grown_kib < 16 * 1024


UNHEARD: dict[str, Callable[[GuestConnections, Guest, int], Awaitable[object]]] = {
    "ready": lambda connections, guest, _: connections.ready(guest, timeout_s=LIMIT_S),
    "signal": lambda connections, guest, _: signal(connections, guest),
    "forward": lambda connections, guest, port: GuestForwards(connections)._listen(guest, no_call, port),
}


async def signal(connections: GuestConnections, guest: Guest) -> None:
    await _signal(await connections.connection(guest), 1, "TERM")


async def no_call(reader: Reader, writer: Writer) -> None:
    raise AssertionError("nobody calls")


@pytest.mark.parametrize("what", UNHEARD)
async def test_a_flood_of_a_guest_that_has_nothing_to_say_is_not_kept(
    own_sshd: SshServer, connections: GuestConnections, what: str
) -> None:
    """Its login shell is its own, whatever we ask it to run."""
    await connections.connect(own_sshd.guest, timeout_s=LIMIT_S)
    size, said = 48 * 1024**2, own_sshd.folder / "said"
    flood = f"head -c {size} /dev/zero"
    (own_sshd.folder / ".bashrc").write_text(f"{flood}; {flood} >&2; touch {said}; exit 0")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with socket.create_server(("127.0.0.1", 0)) as held, suppress(GuestDown):
        await UNHEARD[what](connections, own_sshd.guest, held.getsockname()[1])
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert said.exists()
    assert grown_kib < 16 * 1024


async def test_fifty_commands_at_once_on_one_connection(guest: Guest, commands: GuestCommands) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(commands.run(guest, f"sleep 0.2; echo {n}", timeout_s=60)) for n in range(50)
        ]
    assert [task.result().stdout for task in tasks] == [f"{n}\n".encode() for n in range(50)]


async def test_more_commands_than_sessions_wait_their_turn(guest: Guest, commands: GuestCommands) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(commands.run(guest, f"echo {n}", timeout_s=60)) for n in range(150)]
    assert sorted(int(task.result().stdout) for task in tasks) == list(range(150))


async def test_a_failing_listener_costs_neither_the_output_nor_the_connection(
    guest: Guest, commands: GuestCommands
) -> None:
    def fail(stream: str, data: bytes) -> None:
        raise RuntimeError(stream)

    outcome = await commands.run(guest, "echo a", timeout_s=LIMIT_S, on_output=fail)
    assert outcome.stdout == b"a\n"
    assert (await commands.run(guest, "echo b", timeout_s=LIMIT_S)).stdout == b"b\n"
