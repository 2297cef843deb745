"""The real program where something is missing: one line, the right exit code, nothing left behind.

The home is a small file system of its own, and what is to be missing is hidden in a mount namespace, so no
fault is played by a stand-in. No virtual machine runs here.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from backend.client import Fluid
from backend.errors import FluidError
from backend.fleet import object_prefix
from backend.hypervisor import Hypervisor, PrivateLibvirt
from backend.images import BuiltImage, Images
from backend.models import now
from backend.paths import Paths
from backend.store import EmbeddedPostgres
from backend.tmux import TmuxServer
from tests.fix_database import RUN_AS
from tests.processes import naming

CHECKOUT = Path(__file__).parents[2]
SHARED_CACHE = Path("/var/cache/fluid")
START_S = 60
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
# Arguments: the programs to hide, "--", the command. A libvirt that the machine itself runs is hidden too.
HIDE = """
[ ! -d /run/libvirt ] || mount -t tmpfs none /run/libvirt
while [ "$1" != -- ]; do mount --bind /dev/null "$1"; shift; done
shift; exec "$@"
"""
CONFIG = {"embedded": {"run_as": RUN_AS}}


@dataclass(frozen=True)
class Home:
    """One installation's folder. ``hidden`` programs are not there for the backend."""

    paths: Paths
    env: dict[str, str]

    def serve(self, *hidden: str) -> subprocess.Popen[str]:
        found = [path for name in hidden if (path := shutil.which(name, path=SEARCH))]
        program = [sys.executable, "-m", "backend.cli", "serve"]
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-euc", HIDE, "sh", *found, "--", *program],
            cwd=CHECKOUT,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def fluid(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``fluid WORDS`` on this home."""
        argv = [sys.executable, "-m", "backend.cli", *words]
        return subprocess.run(
            argv, cwd=CHECKOUT, env=self.env, text=True, capture_output=True, timeout=START_S, check=False
        )

    def configure(self, **sections: object) -> None:
        self.paths.config_file.write_text(yaml.safe_dump({**CONFIG, **sections}))

    def processes(self) -> set[int]:
        """Who names this home on its command line, but for backends that the test itself started."""
        return naming(str(self.paths.state.parent))

    def resize(self, size: str) -> None:
        _run("mount", "-o", f"remount,size={size}", str(self.paths.state.parent))


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """A file system of 32 MB, which is a full disk to us. What ran in it has ended afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fluid-start-"))
    _run("mount", "-t", "tmpfs", "-o", "size=32m,mode=711", "none", str(folder))
    env = {**os.environ, "FLUID_HOME": str(folder), "PYTHONPATH": str(CHECKOUT)}
    for name in ("FLUID_CACHE", "FLUID_SOCKET", "LIBVIRT_URI", "DATABASE_URL"):
        env.pop(name, None)
    made = Home(Paths.under(folder), env)
    made.paths.config.mkdir()
    made.paths.cache.mkdir()
    if (known := SHARED_CACHE / "kvm-probe.json").exists():  # another eight seconds where KVM hangs
        shutil.copy(known, made.paths.cache)
    made.configure()
    try:
        yield made
    finally:
        asyncio.run(_end(made.paths))
        left = made.processes()
        _run("umount", str(folder))
        folder.rmdir()
    assert not left


async def _end(paths: Paths) -> None:
    libvirt = PrivateLibvirt(paths.state / "libvirt", hide_kvm=False)
    if "libvirtd" in libvirt.pids():
        host = Hypervisor(libvirt.uri, folder=paths.domains, virt_type="qemu", prefix=object_prefix(paths))
        await host.open()
        for network in await host.our_networks():
            await host.remove_network(network)
        await host.close()
    await libvirt.stop()
    if paths.tmux_socket.exists():
        await TmuxServer(paths.tmux_socket).kill_server()
    await EmbeddedPostgres(paths.database, RUN_AS).stop()


@contextmanager
def full_disk(home: Home) -> Iterator[None]:
    yield
    home.resize("1g")


@contextmanager
def wrong_key(home: Home) -> Iterator[None]:
    home.configure(guests={"cpus": 2})
    yield
    home.configure()


@contextmanager
def lost_database(home: Home) -> Iterator[None]:
    home.configure(database={"host": "127.0.0.1", "port": 1, "password": "hunter2"})
    home.paths.config_file.chmod(0o600)
    yield
    home.configure()


@contextmanager
def served_door(home: Home) -> Iterator[None]:
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(home.paths.operator_socket))
        other.listen()
        yield
    home.paths.operator_socket.unlink()


@contextmanager
def busy_port(home: Home) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        home.configure(server={"listen": f"127.0.0.1:{other.getsockname()[1]}"})
        yield
    home.configure()


@contextmanager
def no_tmux(home: Home) -> Iterator[None]:
    yield


Fault = Callable[[Home], AbstractContextManager[None]]
FAULTS: list[tuple[Fault, int, str, str]] = [
    (full_disk, 6, r"3\d MB are free in \S+/state, 128 are needed", "free space there"),
    (wrong_key, 2, r"\S+config\.yaml:4: guests\.cpus: unknown key", "fluid config schema"),
    (no_tmux, 6, "tmux is not installed", "apt-get install tmux"),
    (lost_database, 6, r"the database fluid at 127\.0\.0\.1:1 does not answer: .+", "start PostgreSQL"),
    (busy_port, 4, r"server\.listen: 127\.0\.0\.1:\d+ is taken.*", "write another port"),
    (served_door, 4, r"a backend already serves \S+/operator\.sock", "stop it first"),
]


@pytest.mark.parametrize(
    ("fault", "code", "said", "remedy"), FAULTS, ids=lambda row: getattr(row, "__name__", "")
)
def test_a_start_that_cannot_be_is_one_line_and_leaves_nothing(
    home: Home, fault: Fault, code: int, said: str, remedy: str
) -> None:
    before = home.processes()
    with fault(home):
        backend = home.serve("libvirtd", *(["tmux"] if fault is no_tmux else []))
        log, words = backend.communicate(timeout=START_S)
    assert backend.returncode == code, words
    assert re.fullmatch(rf"fluid: {said} — .*{re.escape(remedy)}.*\n", words), words
    assert "Traceback" not in log and "hunter2" not in log + words
    assert home.processes() == before
    assert not home.paths.agent_socket.exists() and not home.paths.database.exists()


@pytest.fixture(scope="module")
def backend(home: Home) -> Iterator[subprocess.Popen[str]]:
    """The same home, mended, on a machine without libvirt."""
    home.resize("1g")
    with home.serve("libvirtd") as process:
        try:
            _until(lambda: _answers(home) or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.terminate()
            log, words = process.communicate(timeout=START_S)
    assert process.returncode == 0 and words == "", words
    assert "Traceback" not in log


def test_once_mended_the_same_home_serves_all_but_sandboxes(
    home: Home, backend: subprocess.Popen[str], broken_image: BuiltImage
) -> None:
    status = home.fluid("status")
    assert status.returncode == 0
    assert "host local: lost" in status.stdout
    assert "libvirt: down libvirtd is not installed — apt-get install libvirt-daemon-system" in status.stdout
    for words in ("approvals list", "audit verify"):
        assert home.fluid(*words.split()).returncode == 0
    for source, said in (
        (broken_image.name, rf"\S+{broken_image.disk.name} has 8 bytes .* — fluid images build --force"),
        ("whole", "libvirtd is not installed — apt-get install libvirt-daemon-system"),
    ):
        refused = home.fluid("sandboxes", "create", source)
        assert refused.returncode == 6 and re.fullmatch(rf"fluid: {said}\n", refused.stderr), refused.stderr
    fluid = Fluid(home.paths.operator_socket)
    assert fluid.sandboxes() == [] and not list(home.paths.domains.iterdir())


def test_a_second_backend_names_the_first(home: Home, backend: subprocess.Popen[str]) -> None:
    second = home.serve("libvirtd")
    _, words = second.communicate(timeout=START_S)
    assert second.returncode == 4
    assert words == f"fluid: a backend runs already, pid {backend.pid} — use it, or stop it first\n"
    assert _answers(home)


def test_libvirt_joins_when_it_comes_and_when_it_comes_back(
    home: Home, backend: subprocess.Popen[str]
) -> None:
    fluid = Fluid(home.paths.operator_socket)
    libvirtd = shutil.which("libvirtd", path=SEARCH)
    assert libvirtd, "libvirtd must be installed to run the tests"
    _run("nsenter", "--target", str(backend.pid), "--mount", "umount", libvirtd)
    _until(lambda: fluid.hosts()[0].status == "up")
    pid = PrivateLibvirt(home.paths.state / "libvirt", hide_kvm=False).pids()["libvirtd"]
    os.kill(pid, signal.SIGKILL)
    _until(lambda: fluid.hosts()[0].status != "up")
    _until(lambda: fluid.hosts()[0].status == "up")


@pytest.fixture
def broken_image(home: Home) -> Iterator[BuiltImage]:
    """An image whose copy was cut short, beside a whole one that is called ``whole``."""
    folder = home.paths.images
    for name in ("disk", "kernel", "initrd"):
        (folder / name).write_bytes(b"QFI\xfb1234")
    image = BuiltImage(
        name="broken",
        sha256="0" * 64,
        disk=folder / "disk-cut",
        kernel=folder / "kernel",
        initrd=folder / "initrd",
        cmdline="",
        arch="amd64",
        built_at=now(),
        build_s=1,
        packages=1,
        size_bytes=8,
        recipe="",
        sizes=(9, 8, 8),
        kernel_sha256="0" * 64,
        initrd_sha256="0" * 64,
    )
    shutil.copy(folder / "disk", image.disk)
    from dataclasses import replace

    images = Images(folder)
    images.put(image)
    images.put(replace(image, name="whole", disk=folder / "disk", sizes=(8, 8, 8)))
    yield image
    shutil.rmtree(folder)
    folder.mkdir()


def _answers(home: Home) -> bool:
    try:
        Fluid(home.paths.operator_socket).health()
    except FluidError:
        return False
    return True


def _until(seen: Callable[[], bool]) -> None:
    """Nothing tells of a state from outside but asking for it."""
    deadline = time.monotonic() + START_S
    while not seen():
        assert time.monotonic() < deadline, "it did not come about in a minute"
        time.sleep(0.1)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=START_S)
