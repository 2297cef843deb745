"""P8: what Ansible runs is of a user that reaches nothing of the backend, and has one key."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backend.ansible import Runner
from backend.api.server import bind_door
from backend.guests import CertificateAuthority
from backend.paths import Paths
from backend.store import EmbeddedPostgres
from backend.tmux import TmuxServer
from tests.processes import argv_of
from tests.service.runner.conftest import SYSTEM_PYTHON
from tests.service.runner.test_ansible_runner import HOLD, play, processes_of, spec_of

TEST_S = 300  # on a busy machine
USER = "daemon"  # not nobody, whose the tests' database is
CONNECT = """
import socket, sys
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
    except OSError as error:
        print(type(error).__name__)
    else:
        print("in")
"""
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")


def as_user(*words: str | Path, **environment: str) -> list[str]:
    """The lines that a command prints of the runner's user."""
    user = pwd.getpwnam(USER)
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]
    argv = [*become, *words]
    return subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=False).stdout.split(
        "\n"
    )[:-1]


def tries(sockets: Sequence[Path]) -> list[str]:
    argv = [SYSTEM_PYTHON, "-c", CONNECT, *map(str, sockets)]
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


async def test_the_runners_user_reaches_no_door_no_pane_no_database_and_no_key_of_the_ca(
    open_folder: Path, postgres: EmbeddedPostgres
) -> None:
    paths = Paths.under(open_folder / "home")
    paths.make()
    CertificateAuthority(paths.secrets)
    tmux = TmuxServer(paths.tmux_socket)
    await tmux.start()
    try:
        with (
            closing(bind_door(paths.agent_socket, None)) as agents,
            closing(bind_door(paths.operator_socket, None)) as operators,
        ):
            agents.listen()
            operators.listen()
            database = postgres.sockets / ".s.PGSQL.5432"
            sockets = [paths.agent_socket, paths.operator_socket, paths.tmux_socket, database]
            assert tries(sockets) == ["in"] * 4
            told = as_user(SYSTEM_PYTHON, "-c", CONNECT, *sockets)
            assert told == ["PermissionError"] * 4
        keys = [path for path in paths.secrets.rglob("*") if path.is_file()]
        assert [path for path in keys if b"PRIVATE KEY" in path.read_bytes()]
        assert as_user("cat", *keys) == []
    finally:
        await tmux.kill_server()


async def test_the_processes_of_a_run_gain_nothing_and_their_agent_has_the_groups_key_alone(
    sshd: Any, runs: Path, python: str
) -> None:
    runner = Runner(runs, run_as=USER, python=python)
    await runner.start(spec_of(sshd, play(HOLD)), key=sshd.key)
    while not any(b"ssh\0" in argv_of(pid) for pid in there(runs)):
        await asyncio.sleep(0.05)
    user = pwd.getpwnam(USER)
    for pid in there(runs):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = {name: values.split() for name, _, values in (line.partition(":") for line in lines)}
        ids = status["Uid"], status["Gid"], status["Groups"], status["NoNewPrivs"]
        assert ids == ([str(user.pw_uid)] * 4, [str(user.pw_gid)] * 4, [], ["1"])
    socket = (runs / "RUN-1" / "private").resolve().parent / "agent"
    (key,) = as_user("ssh-add", "-L", SSH_AUTH_SOCK=str(socket), PATH=os.environ["PATH"])
    assert key.split()[:2] == (sshd.folder / "user.pub").read_text().split()[:2]
    await runner.cancel("RUN-1")
    await runner.wait("RUN-1")
    assert not socket.exists()


def there(runs: Path) -> list[int]:
    return processes_of(runs / "RUN-1")
