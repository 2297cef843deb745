"""What a worker that a hostile disk took over could still do: read what is open, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backend.disks.seccomp import program

ROOT = Path(__file__).parents[3]
MEMORY_BYTES = 512 << 20
TRIES = """
import ctypes, json, mmap, os, signal, socket, sys
sys.path.insert(0, sys.argv[1])
from backend.disks.confine import confine
uid, fd, parent = int(sys.argv[2]), int(sys.argv[3]), os.getppid()
if uid:
    os.setresuid(uid, uid, uid)  # a backend that is not root itself
confine(uid=65534, memory_bytes={memory}, cpu_s=20, files=fd + 1)
libc = ctypes.CDLL(None, use_errno=True)
tries = dict(
    open=lambda: os.open("/etc/hostname", os.O_RDONLY),
    create=lambda: os.open("/tmp/x", os.O_CREAT | os.O_WRONLY),
    socket=lambda: socket.socket(socket.AF_UNIX), fork=os.fork, kill=lambda: os.kill(parent, 0),
    execute=lambda: os.execv("/bin/true", ["true"]),
    code=lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    listing=lambda: os.listdir("/"), remove=lambda: os.unlink("/tmp/x"), mode=lambda: os.fchmod(fd, 0o777),
    root=lambda: os.setuid(0),
)
done = {{}}
for name, attempt in tries.items():
    try:
        attempt()
        done[name] = "succeeded"
    except OSError as error:
        done[name] = type(error).__name__
try:
    bytearray({memory})
    done["memory"] = "succeeded"
except MemoryError:
    done["memory"] = "MemoryError"
done["read"] = os.pread(fd, 5, 0).decode()
print(json.dumps(done), flush=True)
os._exit(0)
"""


SPIN = """
import sys
sys.path.insert(0, sys.argv[1])
from backend.disks.confine import confine
confine(uid=65534, memory_bytes=1 << 29, cpu_s=1, files=3)
while True:
    pass
"""


@pytest.mark.parametrize("uid", [0, 12345], ids=["a backend of root", "a backend of a user"])
def test_only_what_is_open_can_be_read(tmp_path, uid):
    (tmp_path / "open").write_bytes(b"bytes of a guest")
    fd = os.open(tmp_path / "open", os.O_RDONLY)
    words = [sys.executable, "-I", "-c", TRIES.format(memory=MEMORY_BYTES), str(ROOT), str(uid), str(fd)]
    try:
        done = subprocess.run(words, pass_fds=[fd], capture_output=True, timeout=60, check=False)
    finally:
        os.close(fd)
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert (told.pop("read"), told.pop("memory")) == ("bytes", "MemoryError")
    assert set(told.values()) == {"PermissionError"}, told


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_each_jump_of_the_filter_stays_inside_it(machine):
    code = program(machine)
    steps = [code[at : at + 8] for at in range(0, len(code), 8)]
    for at, step in enumerate(steps):
        assert at + 1 + max(step[2], step[3]) < len(steps) or step[0] == 0x06
    assert steps[-1][0] == 0x06


def test_a_reader_that_never_ends_is_ended_by_its_processor_time():
    words = [sys.executable, "-I", "-c", SPIN, str(ROOT)]
    done = subprocess.run(words, capture_output=True, timeout=120, check=False)
    assert done.returncode in (-signal.SIGXCPU, -signal.SIGKILL), done.stderr.decode()


FACTS = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from backend.disks.facts import facts
from backend.disks.confine import confine
data = open(sys.argv[2], "rb").read()
confine(uid=65534, memory_bytes=1 << 30, cpu_s=20, files=3)
print(json.dumps(facts(data)), flush=True)
os._exit(0)
"""


def test_a_name_in_wide_characters_needs_nothing_that_is_closed_by_then(tmp_path):
    """A BMPString. The first certificate of every bundle of Mozilla's has such a name."""
    config, cert = tmp_path / "c.cnf", tmp_path / "c.pem"
    config.write_text(
        "[req]\ndistinguished_name=dn\nprompt=no\nstring_mask=MASK:0x0800\nutf8=yes\n[dn]\nCN=Prüfstelle\n"
    )
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run(
        [*words, "-config", config, "-keyout", tmp_path / "k", "-out", cert, "-days", "9"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-I", "-c", FACTS, str(ROOT), str(cert)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["subject"] == "CN=Prüfstelle"
