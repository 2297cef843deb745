"""Real runs: real sshd, real ansible-runner, a supervisor that outlives whoever started it."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.ansible import Runner, RunOutcome, RunSpec
from backend.ansible._folder import prepare
from backend.errors import AlreadyRunning, InvalidName, InvalidValue, RunnerFailed, RunNotFound, WrongState
from backend.models import RunKind, RunState
from backend.paths import Paths
from tests.processes import argv_of
from tests.service.runner.conftest import venv

STRANGE = "a ü {{ lookup('pipe', 'id') }}.txt"
CONTENT = b"{{ not a template }}\n"
SHA = hashlib.sha256(CONTENT).hexdigest()
MOMENT_S = 0.15
TEST_S = 300  # on a busy machine
HOLD = "ansible.builtin.command: {argv: [sleep, '120'], creates: /nonexistent}"


def play(*tasks: str, secret: bool = False) -> str:
    lines = "".join(f"    - name: Task {n}\n      {task}\n" for n, task in enumerate(tasks))
    return f"---\n- name: Test\n  hosts: all\n  become: true\n  gather_facts: false\n  tasks:\n{lines}"


def folder_task(path: Path) -> str:
    return f"ansible.builtin.file: {{path: {path}, state: directory, mode: '0755'}}"


def append_task(path: Path) -> str:
    return f"ansible.builtin.command: {{argv: [sh, -c, 'echo once >> {path}'], creates: /nonexistent}}"


def spec_of(sshd: Any, playbook: str, **changes: Any) -> RunSpec:
    spec = RunSpec("RUN-1", RunKind.APPLY, playbook, [sshd.target()], timeout_s=120)
    return replace(spec, **changes)


async def run(runner: Runner, sshd: Any, playbook: str, **changes: Any) -> RunOutcome:
    spec = spec_of(sshd, playbook, **changes)
    await runner.start(spec, key=sshd.key)
    return await runner.wait(spec.id)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
async def test_a_third_user_reads_nothing_of_a_run(
    runner: Runner, sshd: Any, machine: Path, runs: Path
) -> None:
    done = await run(runner, sshd, play(folder_task(machine / "made")))
    assert done.state is RunState.SUCCESSFUL
    cat = ["cat", *(str(runs / "RUN-1" / name) for name in ("out/events.jsonl", "etc/hosts.json"))]
    assert subprocess.run(cat, capture_output=True, check=True).stdout
    third = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--", *cat]
    assert subprocess.run(third, capture_output=True, check=False).stdout == b""


@pytest.mark.parametrize("strategy", ["linear", "mitogen_linear"])
async def test_a_run_does_its_tasks_and_tells_each(
    runner: Runner, sshd: Any, machine: Path, strategy: str
) -> None:
    copy = f"ansible.builtin.copy: {{src: files/{SHA}, dest: !unsafe \"{machine}/{STRANGE}\", mode: '0640'}}"
    done = await run(
        runner, sshd, play(folder_task(machine / "made"), copy), files={SHA: CONTENT}, strategy=strategy
    )
    assert (done.state, done.strategy) == (RunState.SUCCESSFUL, strategy)
    assert (done.results["web-01"].changed, done.results["web-01"].failed) == (2, 0)
    assert (machine / STRANGE).read_bytes() == CONTENT
    events = [event async for event in runner.follow("RUN-1")]
    assert [(event.task_index, event.status) for event in events] == [(0, "changed"), (1, "changed")]
    assert [event.module for event in events] == ["ansible.builtin.file", "ansible.builtin.copy"]
    assert [event.task async for event in runner.follow("RUN-1", after=1)] == ["Task 1"]


async def test_check_mode_touches_nothing_and_shows_the_difference(
    runner: Runner, sshd: Any, machine: Path
) -> None:
    (machine / "motd").write_text("old\n")
    copy = f"ansible.builtin.copy: {{src: files/{SHA}, dest: {machine}/motd, mode: '0644'}}"
    done = await run(runner, sshd, play(copy), files={SHA: CONTENT}, check=True)
    assert (done.state, done.results["web-01"].changed) == (RunState.SUCCESSFUL, 1)
    (event,) = [event async for event in runner.follow("RUN-1")]
    assert "-old\n+{{ not a template }}" in event.diff
    assert str(runner._folder) not in event.diff  # differs from run to run
    assert (machine / "motd").read_text() == "old\n"


async def test_a_file_of_another_encoding_is_told_like_any_other(
    runner: Runner, sshd: Any, machine: Path
) -> None:
    content = b"Stra\xdfe\n"
    sha = hashlib.sha256(content).hexdigest()
    copy = f"ansible.builtin.copy: {{src: files/{sha}, dest: {machine}/latin1.txt, mode: '0644'}}"
    await run(runner, sshd, play(copy), files={sha: content})
    (event,) = [event async for event in runner.follow("RUN-1")]
    assert (event.status, "+Stra\\xdfe\n" in event.diff) == ("changed", True)


async def test_a_secret_that_a_target_has_is_in_no_diff(
    runner: Runner, sshd: Any, machine: Path, runs: Path
) -> None:
    """A password is taken out of its line; a file with a private key shows nothing."""
    begin = "-----BEGIN PRIVATE KEY-----"
    (machine / "app.conf").write_text("host = db\npassword = hunter2secret\n")
    (machine / "own.pem").write_text(f"{begin}\nhunter2secret\n")
    tasks = [
        f"ansible.builtin.copy: {{src: files/{SHA}, dest: {machine}/{name}, mode: '0644'}}"
        for name in ("app.conf", "own.pem")
    ]
    done = await run(runner, sshd, play(*tasks), files={SHA: CONTENT}, check=True)
    assert done.results["web-01"].changed == 2
    first, second = [event.diff async for event in runner.follow("RUN-1")]
    assert "-host = db\n-password = ‹secret›\n" in first
    assert "-content is a secret\n" in second
    left = [path for path in runs.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert left == []


async def test_check_mode_goes_on_where_a_task_cannot_be_tried_yet(
    runner: Runner, sshd: Any, machine: Path
) -> None:
    absent = f"ansible.builtin.file: {{path: {machine}/later, mode: '0600'}}"
    done = await run(runner, sshd, play(absent, folder_task(machine / "made")), check=True)
    events = [event async for event in runner.follow("RUN-1")]
    assert [event.status for event in events] == ["skipped", "changed"]
    assert events[0].message.startswith("not previewed")
    assert done.state is RunState.SUCCESSFUL


async def test_after_an_apply_what_check_mode_cannot_find_is_missing(
    runner: Runner, sshd: Any, machine: Path
) -> None:
    absent = f"ansible.builtin.file: {{path: {machine}/later, mode: '0600'}}"
    done = await run(runner, sshd, play(absent), check=True, kind=RunKind.VERIFY)
    assert (done.state, done.results["web-01"].failed) == (RunState.FAILED, 1)
    assert "web-01: Task 0" in done.reason and "is absent" in done.reason


async def test_a_failed_task_ends_the_run_and_is_named(runner: Runner, sshd: Any, machine: Path) -> None:
    bad = "ansible.builtin.command: {argv: ['false'], creates: /nonexistent}"
    done = await run(runner, sshd, play(bad, folder_task(machine / "never")))
    assert done.state is RunState.FAILED
    assert "web-01: Task 0" in done.reason
    assert not (machine / "never").exists()


@pytest.mark.parametrize("strategy", ["linear", "mitogen_linear"])
async def test_an_unreachable_target_fails(runner: Runner, sshd: Any, machine: Path, strategy: str) -> None:
    """No login worked, so nothing was done there."""
    target = sshd.target(port=1)
    done = await run(runner, sshd, play(folder_task(machine / "never")), hosts=[target], strategy=strategy)
    assert (done.state, done.results["web-01"].unreachable) == (RunState.FAILED, 1)


@pytest.mark.parametrize("strategy", ["linear", "mitogen_linear"])
async def test_a_changed_host_key_is_refused(
    runner: Runner, sshd: Any, machine: Path, strategy: str, tmp_path: Path
) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "k")], check=True)
    other = " ".join((tmp_path / "k.pub").read_text().split()[:2])
    target = sshd.target(host_key=other)
    done = await run(runner, sshd, play(folder_task(machine / "never")), hosts=[target], strategy=strategy)
    assert (done.state, done.results["web-01"].unreachable) == (RunState.FAILED, 1)
    assert not (machine / "never").exists()


async def test_a_certificate_lets_the_runner_in(runner: Runner, sshd: Any, machine: Path) -> None:
    await runner.start(spec_of(sshd, play(folder_task(machine / "made"))), key=sshd.certified())
    assert (await runner.wait("RUN-1")).state is RunState.SUCCESSFUL
    assert (machine / "made").is_dir()


async def test_a_secret_reaches_the_target_and_no_file(
    runner: Runner, sshd: Any, machine: Path, runs: Path
) -> None:
    secret = "0123 {{ x }} \"q\" 'ü' \\\nsecond line\n"
    write = (
        f"ansible.builtin.copy: {{content: \"{{{{ word }}}}\", dest: {machine}/word, mode: '0600'}}"
        "\n      no_log: true"
    )
    done = await run(runner, sshd, play(write), secrets={"word": secret})
    assert done.state is RunState.SUCCESSFUL
    assert (machine / "word").read_text() == secret
    left = [path for path in runs.rglob("*") if path.is_file()]
    assert left
    assert not [path for path in left if b"0123 {{" in path.read_bytes()]
    assert not [path for path in left if b"BEGIN OPENSSH PRIVATE KEY" in path.read_bytes()]


# Of Ansible: the file that copy makes of its content is not taken away for a while.
SLOW_COPY = """
import os, sys, time
from pathlib import Path

def remove(path, *args, real=os.remove, **given):
    home = Path(os.environ["HOME"])
    if os.path.basename(str(path)).startswith("."):
        (home / "copying").touch()
        while not (home / "go").exists():
            time.sleep(0.01)
    return real(path, *args, **given)

if "ansible.cli.playbook" in sys.orig_argv:
    os.remove = remove
"""


def processes_of(run: Path) -> list[int]:
    """Those that have the run's folder as their home."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"HOME={run}/private".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def on_disk(word: bytes, *folders: Path) -> list[Path]:
    """The files with a word in them that do not lie in memory."""
    found = []
    for path in (path for folder in folders for path in folder.rglob("*")):
        with suppress(OSError):
            if path.is_file() and not path.is_symlink() and word in path.read_bytes():
                found.append(path)
    return found


async def test_a_secret_is_on_no_disk_and_in_no_argv_while_it_runs_and_nowhere_once_that_was_killed(
    sshd: Any, runs: Path, run_as: str | None, machine: Path, scratch: Path
) -> None:
    runner = Runner(runs, run_as=run_as, python=venv(scratch / "copies", first=SLOW_COPY))
    write = f"ansible.builtin.copy: {{content: '{{{{ word }}}}', dest: {machine}/word, mode: '0600'}}"
    playbook = play(f"{write}\n      no_log: true")
    await runner.start(spec_of(sshd, playbook, secrets={"word": "hunter2secret"}), key=sshd.key)
    private = runs / "RUN-1" / "private"
    while not (private / "copying").exists():
        await asyncio.sleep(0.05)
    in_memory = private.resolve().parent
    assert on_disk(b"hunter2secret", in_memory), "Ansible has it in a file now"
    assert in_memory.is_relative_to("/dev/shm") and in_memory.stat().st_mode & 0o077 == 0
    assert on_disk(b"hunter2secret", runs, *Path("/tmp").glob("fluid-*")) == []
    processes = processes_of(runs / "RUN-1")
    assert len(processes) > 2
    words = b"".join(map(argv_of, processes))
    assert b"ansible" in words and b"hunter2secret" not in words
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert (await runner.wait("RUN-1")).state is RunState.LOST
    assert on_disk(b"hunter2secret", runs, *Path("/tmp").glob("fluid-*")) == []
    runner.tidy_all()
    assert in_memory.exists(), "it might be just being started"
    os.utime(runs / "RUN-1" / "lock", times=(0, 0))
    runner.tidy_all()
    assert not in_memory.exists()


async def test_a_secret_of_digits_stays_text(runner: Runner, sshd: Any, machine: Path) -> None:
    write = (
        f"ansible.builtin.copy: {{content: \"{{{{ word }}}}\", dest: {machine}/word, mode: '0600'}}"
        "\n      no_log: true"
    )
    await run(runner, sshd, play(write), secrets={"word": "0755"})
    assert (machine / "word").read_text() == "0755"


@pytest.mark.parametrize(
    ("bad", "strategy"),
    [
        ("web-01", "mitogen_linear"),
        *(
            pytest.param(bad, strategy, marks=pytest.mark.full)
            for bad, strategy in (
                ("web-01", "linear"),
                ("web-02", "linear"),
                ("", "linear"),
                ("", "mitogen_linear"),
            )
        ),
    ],
)
async def test_the_first_target_goes_alone_and_where_it_fails_no_other_is_touched(
    runner: Runner, sshd: Any, machine: Path, bad: str, strategy: str
) -> None:
    order = machine / "order"
    say = f"ansible.builtin.command: {{argv: [sh, -c, 'echo {{{{ inventory_hostname }}}} N >> {order}']}}"
    tasks = [
        say.replace("N", "1"),
        f"ansible.builtin.file: {{path: '{machine}/fails-{{{{ inventory_hostname }}}}'}}",
    ]
    for name in ("web-01", "web-02", "web-03"):
        if name != bad:
            (machine / f"fails-{name}").touch()
    hosts = [sshd.target(name) for name in ("web-01", "web-02", "web-03")]
    playbook = play(*tasks, say.replace("N", "2"))
    done = await run(runner, sshd, playbook, hosts=hosts, first_alone=True, strategy=strategy)
    said = order.read_text().split("\n")[:-1]
    assert done.state is (RunState.FAILED if bad else RunState.SUCCESSFUL)
    if bad == "web-01":
        assert said == ["web-01 1"] and set(done.results) == {"web-01"}
        assert "web-01: Task 1" in done.reason and done.reason.endswith("; not touched: web-02, web-03")
    else:
        assert said[:2] == ["web-01 1", "web-01 2"]
        assert sorted(said[2:]) == sorted(
            ["web-02 1", "web-03 1", "web-03 2", *([] if bad else ["web-02 2"])]
        )
    events = [event async for event in runner.follow("RUN-1")]
    assert {event.task: event.task_index for event in events}.items() <= {
        "Task 0": 0,
        "Task 1": 1,
        "Task 2": 2,
    }.items()


async def test_cancel_ends_it_and_later_tasks_do_not_run(runner: Runner, sshd: Any, machine: Path) -> None:
    playbook = play(folder_task(machine / "first"), HOLD, folder_task(machine / "never"))
    await runner.start(spec_of(sshd, playbook), key=sshd.key)
    async for _ in runner.follow("RUN-1"):
        await runner.cancel("RUN-1")  # the first task is done
        break
    done = await runner.wait("RUN-1")
    assert (done.state, done.results["web-01"].changed) == (RunState.CANCELED, 1)
    assert done.reason == "canceled; done: web-01 up to 'Task 0'"
    assert not (machine / "never").exists()
    with pytest.raises(WrongState):
        await runner.cancel("RUN-1")


CUT = """
import os, signal
pid = os.getpid()
while open(f"/proc/{pid}/comm").read() != "sshd\\n":
    pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
os.kill(pid, signal.SIGKILL)
"""


async def test_a_connection_that_is_lost_in_the_middle_makes_the_run_lost(
    runner: Runner, sshd: Any, machine: Path
) -> None:
    """The session's own sshd is killed by the task: nobody learns what the task did."""
    cut = machine / "cut.py"
    cut.write_text(CUT)
    lose = f"ansible.builtin.command: {{argv: [/usr/bin/python3, {cut}], creates: /nonexistent}}"
    done = await run(runner, sshd, play(folder_task(machine / "first"), lose, folder_task(machine / "never")))
    assert done.state is RunState.LOST
    assert "lost in 'Task 1'" in done.reason and done.reason.endswith("; done: web-01 up to 'Task 0'")
    assert not (machine / "never").exists()


@pytest.mark.parametrize("strategy", ["linear", "mitogen_linear"])
async def test_a_connection_that_is_lost_in_the_first_task_makes_the_run_lost(
    runner: Runner, sshd: Any, machine: Path, strategy: str
) -> None:
    cut = machine / "cut.py"
    cut.write_text(CUT)
    lose = f"ansible.builtin.command: {{argv: [/usr/bin/python3, {cut}], creates: /nonexistent}}"
    done = await run(runner, sshd, play(lose, folder_task(machine / "never")), strategy=strategy)
    assert done.state is RunState.LOST, done
    assert "lost in 'Task 0'" in done.reason and done.reason.endswith("is not known; done: nothing")
    assert done.results["web-01"].unreachable == 1
    assert not (machine / "never").exists()


async def test_over_its_time_it_ends_as_timeout(runner: Runner, sshd: Any) -> None:
    done = await run(runner, sshd, play(HOLD), timeout_s=3)
    assert done.state is RunState.TIMEOUT
    assert "3 s" in done.reason


STARTER = """
import asyncio, json, sys
from pathlib import Path
from backend.ansible import Runner, RunSpec, SshKey, TargetHost
from backend.models import RunKind
given = json.loads(sys.stdin.readline())
runner = Runner(Path(given["runs"]), run_as=given["run_as"], python=given["python"])
spec = RunSpec("RUN-1", RunKind.APPLY, given["playbook"], [TargetHost(**given["target"])])
async def main():
    await runner.start(spec, key=SshKey(given["key"].encode()))
    print("started", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_it_runs_on_exactly_once_when_its_starter_is_killed(
    runner: Runner, sshd: Any, machine: Path, runs: Path, python: str, run_as: str | None
) -> None:
    playbook = play(append_task(machine / "log"), folder_task(machine / "last"))
    given = {
        "runs": str(runs),
        "run_as": run_as,
        "python": python,
        "playbook": playbook,
        "target": vars(sshd.target()),
        "key": sshd.key.private.decode(),
    }
    starter = subprocess.Popen(  # noqa: ASYNC220 - it is killed before anything is awaited
        [sys.executable, "-c", STARTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    with starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        starter.stdin.write(json.dumps(given) + "\n")
        starter.stdin.flush()
        assert starter.stdout.readline() == "started\n"
        starter.kill()
    assert (await runner.status("RUN-1")).state in (RunState.STARTING, RunState.RUNNING)
    with pytest.raises(AlreadyRunning):
        await runner.start(spec_of(sshd, playbook), key=sshd.key)
    done = await runner.wait("RUN-1")
    assert done.state is RunState.SUCCESSFUL
    assert (machine / "log").read_text() == "once\n"
    assert (machine / "last").is_dir()


@pytest.mark.full
@pytest.mark.parametrize("moment", range(20))
async def test_a_backend_killed_at_any_moment_of_a_start_has_it_run_once_or_never(
    runner: Runner, sshd: Any, machine: Path, runs: Path, python: str, run_as: str | None, moment: int
) -> None:
    """From before the folder is made until tasks run; the next backend tries again with the same id."""
    playbook = play(append_task(machine / "log"))
    given = {
        "runs": str(runs),
        "run_as": run_as,
        "python": python,
        "playbook": playbook,
        "target": vars(sshd.target()),
        "key": sshd.key.private.decode(),
    }
    starter = subprocess.Popen(  # noqa: ASYNC220 - it is killed after a moment
        [
            sys.executable,
            "-c",
            "print('up', flush=True)" + STARTER.replace('print("started", flush=True)', ""),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    with starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        starter.stdin.write(json.dumps(given) + "\n")
        starter.stdin.flush()
        assert starter.stdout.readline() == "up\n"
        await asyncio.sleep(moment * MOMENT_S)  # the moment itself is what is tested
        starter.kill()
    began = (runs / "RUN-1").exists()
    try:
        await runner.start(spec_of(sshd, playbook), key=sshd.key)
    except AlreadyRunning:
        assert began
    else:
        assert not began
    try:
        state = (await runner.wait("RUN-1")).state
    except RunNotFound:  # there was a folder and no lock yet: whoever watches it takes it for lost
        state = RunState.LOST
    log = (machine / "log").read_text() if (machine / "log").exists() else ""
    assert (state, log) in ((RunState.SUCCESSFUL, "once\n"), (RunState.LOST, ""))


async def test_a_killed_supervisor_makes_the_run_lost(runner: Runner, sshd: Any, machine: Path) -> None:
    playbook = play(folder_task(machine / "first"), HOLD, folder_task(machine / "never"))
    handle = await runner.start(spec_of(sshd, playbook), key=sshd.key)
    seen = []
    async for event in runner.follow("RUN-1"):
        seen.append(event.task_index)
        os.kill(handle.pid, signal.SIGKILL)
    assert seen == [0]
    assert (await runner.status("RUN-1")).state is RunState.LOST
    assert not (machine / "never").exists()


# Of the supervisor: the fork that is to become Ansible waits, as one on a busy machine, before it is made so.
SLOW_FORK = """
import os, pty, signal, sys, time
from pathlib import Path

def fork(real=pty.fork):
    pid, fd = real()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as where the backend was started by nohup
        private = Path(sys.argv[1], "private")
        (private / "forked").touch()
        while not (private / "go").exists():
            time.sleep(0.01)
    return pid, fd

if sys.orig_argv[-3].endswith("supervisor.py"):
    pty.fork = fork
"""


async def test_a_supervisor_killed_before_its_fork_becomes_ansible_makes_the_run_lost(
    sshd: Any, runs: Path, run_as: str | None, machine: Path, scratch: Path
) -> None:
    """The fork is a copy of the supervisor, with the lock and without its terminal: it tells nothing."""
    runner = Runner(runs, run_as=run_as, python=venv(scratch / "slow", first=SLOW_FORK))
    handle = await runner.start(spec_of(sshd, play(folder_task(machine / "never"))), key=sshd.key)
    private = runs / "RUN-1" / "private"
    while not (private / "forked").exists():
        await asyncio.sleep(0.05)
    ended = asyncio.create_task(runner.wait("RUN-1"))
    os.kill(handle.pid, signal.SIGKILL)
    (private / "go").touch()
    assert (await ended).state is RunState.LOST
    assert not (machine / "never").exists()


async def test_the_text_that_runs_is_the_text_that_was_given(
    runner: Runner, sshd: Any, machine: Path, runs: Path
) -> None:
    playbook = play(folder_task(machine / "made"))
    await run(runner, sshd, playbook)
    folder = runs / "RUN-1" / "playbook"
    assert (folder / "playbook.yml").read_bytes() == playbook.encode()
    assert sorted(path.name for path in folder.iterdir()) == ["files", "playbook.yml"]
    assert not os.access(folder, os.W_OK) or os.geteuid() == 0
    runner.forget("RUN-1")
    with pytest.raises(RunNotFound):
        await runner.status("RUN-1")


async def test_the_runner_does_not_run_as_the_backend(
    runner: Runner, sshd: Any, runs: Path, run_as: str | None
) -> None:
    handle = await runner.start(spec_of(sshd, play(HOLD)), key=sshd.key)
    owner = Path(f"/proc/{handle.pid}").stat().st_uid
    await runner.cancel("RUN-1")
    await runner.wait("RUN-1")
    assert (owner != os.geteuid()) is (run_as is not None)


def test_the_runners_user_reads_nothing_of_the_backends(scratch: Path, run_as: str | None) -> None:
    paths = Paths.under(scratch / "home")
    paths.make()
    held = [paths.secrets, paths.blobs, paths.kept, paths.recordings, paths.links]
    for folder in (*held, paths.runs):
        (folder / "file").write_text("x")
    become = ["runuser", "-u", run_as, "--"] if run_as else []
    readable = [
        folder.name
        for folder in (*held, paths.runs)
        if subprocess.run([*become, "cat", folder / "file"], capture_output=True, check=False).stdout == b"x"
    ]
    assert readable == ([paths.runs.name] if run_as else [folder.name for folder in (*held, paths.runs)])


@pytest.mark.parametrize(
    "change",
    [{"name": "a b"}, {"address": "{{ x }}"}, {"user": "a;b"}, {"host_key": "ssh-ed25519 A\nB"}, {"port": 0}],
)
def test_values_that_ansible_would_interpret_never_reach_its_inventory(
    sshd: Any, change: dict[str, Any]
) -> None:
    with pytest.raises((InvalidName, InvalidValue)):
        sshd.target(**change)
    assert sshd.target().name == "web-01"


def test_an_id_is_no_path(runner: Runner) -> None:
    with pytest.raises(InvalidValue):
        runner.forget("../runs")


async def test_nothing_of_a_lost_run_stays_after_it_is_forgotten(
    runner: Runner, sshd: Any, runs: Path
) -> None:
    handle = await runner.start(spec_of(sshd, play(HOLD)), key=sshd.key)
    short = Path((runs / "RUN-1" / "etc" / "short").read_text())
    assert short.is_dir()
    os.kill(handle.pid, signal.SIGKILL)
    assert (await runner.wait("RUN-1")).state is RunState.LOST
    runner.forget("RUN-1")
    assert not short.exists()
    assert list(runs.iterdir()) == []


async def test_no_process_is_signalled_as_long_as_a_run_has_no_supervisor(
    runner: Runner, sshd: Any, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(runs / "RUN-1", spec_of(sshd, play(HOLD)), python=sys.executable, owner=None)
    signalled: list[int] = []
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda process, _: signalled.append(process))
    with (runs / "RUN-1" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunnerFailed):
            await runner.cancel("RUN-1")
    assert signalled == []


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "300"]) as process:
        yield process
        process.kill()


async def test_a_run_that_names_another_process_as_its_own_has_itself_ended(
    runner: Runner, sshd: Any, runs: Path, bystander: subprocess.Popen[bytes]
) -> None:
    """All that its user may write into its folder says so."""
    await runner.start(spec_of(sshd, play(HOLD)), key=sshd.key)
    (runs / "RUN-1" / "out" / "pid").write_text(str(bystander.pid))
    await runner.cancel("RUN-1")
    assert (await runner.wait("RUN-1")).state is RunState.CANCELED
    assert bystander.poll() is None


async def test_a_supervisor_that_has_no_place_for_its_events_did_not_start(
    runner: Runner, sshd: Any, runs: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, *args: Any, **more: Any) -> None:
        prepare(folder, *args, **more)
        (folder / "out" / "events.jsonl").mkdir()

    monkeypatch.setattr("backend.ansible.runner.prepare", full)
    with pytest.raises(RunnerFailed, match=r"did not start: IsADirectoryError.*events\.jsonl"):
        await runner.start(spec_of(sshd, play(folder_task(machine / "never"))), key=sshd.key)
    assert (await runner.status("RUN-1")).state is RunState.LOST
    assert not (machine / "never").exists()


async def test_a_supervisor_that_takes_too_long_did_not_start(
    runner: Runner, sshd: Any, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.ansible.runner.START_S", 0.01)
    with pytest.raises(RunnerFailed, match="did not start: no answer within"):
        await runner.start(spec_of(sshd, play(folder_task(machine / "never"))), key=sshd.key)
    assert (await runner.wait("RUN-1")).state is RunState.LOST
    assert not (machine / "never").exists()


# Of the supervisor: Ansible is begun a while after the last look whether it is still wanted.
SLOW_BEGIN = """
import sys, time
from pathlib import Path

if sys.orig_argv[-3].endswith("supervisor.py"):
    import ansible_runner

    def run(real=ansible_runner.run, **given):
        private = Path(sys.argv[1], "private")
        (private / "begins").touch()
        while not (private / "go").exists():
            time.sleep(0.01)
        return real(**given)

    ansible_runner.run = run
"""


async def test_a_run_that_is_canceled_while_ansible_begins_is_not_waited_for(
    sshd: Any, runs: Path, run_as: str | None, machine: Path, scratch: Path
) -> None:
    runner = Runner(runs, run_as=run_as, python=venv(scratch / "begins", first=SLOW_BEGIN))
    playbook = play("ansible.builtin.command: {argv: [sleep, '3']}", folder_task(machine / "never"))
    await runner.start(spec_of(sshd, playbook), key=sshd.key)
    private = runs / "RUN-1" / "private"
    while not (private / "begins").exists():
        await asyncio.sleep(0.05)
    await runner.cancel("RUN-1")
    (private / "go").touch()
    done = await runner.wait("RUN-1")
    assert (done.state, done.reason) == (RunState.CANCELED, "canceled; done: nothing")
    assert not (machine / "never").exists()


# Of the supervisor: the key is not taken for a while.
SLOW_KEY = """
import subprocess, sys
from pathlib import Path

def run(argv, real=subprocess.run, **given):
    Path(sys.argv[1], "private", "key").touch()
    return real(["sleep", "60"], **given)

if sys.orig_argv[-3].endswith("supervisor.py"):
    subprocess.run = run
"""


async def test_a_run_that_is_canceled_before_its_key_is_there_is_canceled(
    sshd: Any, runs: Path, run_as: str | None, scratch: Path
) -> None:
    runner = Runner(runs, run_as=run_as, python=venv(scratch / "key", first=SLOW_KEY))
    await runner.start(spec_of(sshd, play(HOLD)), key=sshd.key)
    while not (runs / "RUN-1" / "private" / "key").exists():
        await asyncio.sleep(0.05)
    await asyncio.sleep(MOMENT_S)  # the program is begun
    await runner.cancel("RUN-1")
    assert (await runner.wait("RUN-1")).state is RunState.CANCELED


# Of the supervisor: the fork that is to supervise waits until its parent is gone.
FORSAKEN_FORK = """
import os, sys, time
from pathlib import Path

def fork(real=os.fork):
    parent = os.getpid()
    pid = real()
    if pid == 0:
        Path(sys.argv[1], "private", "parent").write_text(str(parent))
        while os.getppid() == parent:
            time.sleep(0.01)
    return pid

if sys.orig_argv[-3].endswith("supervisor.py"):
    os.fork = fork
"""


async def test_a_supervisor_whose_parent_cannot_say_that_it_started_ends(
    sshd: Any, runs: Path, run_as: str | None, machine: Path, scratch: Path
) -> None:
    """Or a start that is told as failed would go on by itself."""
    runner = Runner(runs, run_as=run_as, python=venv(scratch / "forsaken", first=FORSAKEN_FORK))
    spec = spec_of(sshd, play(folder_task(machine / "never")))
    start = asyncio.create_task(runner.start(spec, key=sshd.key))
    told = runs / "RUN-1" / "private" / "parent"
    while not told.exists() or not told.read_text():
        await asyncio.sleep(0.05)
    os.kill(int(told.read_text()), signal.SIGKILL)
    with pytest.raises(RunnerFailed):
        await start
    assert (await runner.wait("RUN-1")).state is RunState.LOST
    assert not (machine / "never").exists()
    assert "BrokenPipeError" in (runs / "RUN-1" / "supervisor.log").read_text()


async def test_a_run_whose_start_was_cut_short_is_lost(runner: Runner, sshd: Any, runs: Path) -> None:
    prepare(runs / "RUN-1", spec_of(sshd, play(HOLD)), python=sys.executable, owner=None)
    (runs / "RUN-1" / "lock").touch()
    assert [event async for event in runner.follow("RUN-1")] == []
    assert (await runner.status("RUN-1")).state is RunState.LOST
    runner.forget("RUN-1")
