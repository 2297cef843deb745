"""A guest tells its files over the kept connection: all that lstat knows; a hostile one is cut short."""

from __future__ import annotations

import os
import re
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.changes import LIMITS, Asker, BlobStore
from backend.changes.told import checked
from backend.errors import DiskUnreadable
from backend.guests import Guest, GuestCommands, GuestConnections, GuestTelling, telling
from tests.fix_manifests import Rows, kept_in
from tests.service.guests.conftest import READY_TIMEOUT_S, SshServer

STRANGE = [b"a", b"a-b", b"a b", "grüße".encode(), b"\xff\xfe not utf-8", b"new\nline", b"-rf", b"n" * 255]
FLOOD_LIMIT_S = 1.0


@pytest.fixture
def tree() -> Iterator[bytes]:
    """One of each kind, under a short path: a socket's is at most 107 bytes long."""
    with tempfile.TemporaryDirectory(prefix="fluid-told-") as name:
        root = os.fsencode(name)
        for number, strange in enumerate(STRANGE):
            folder = Path(os.fsdecode(root + b"/" + strange))
            folder.mkdir()
            for inner in STRANGE[:number]:
                (folder / os.fsdecode(inner)).write_bytes(inner * number)
        os.link(root + b"/a-b/a", root + b"/hard link")
        Path(name, "link").symlink_to(os.fsdecode(b"to \xff\n"))
        os.mknod(root + b"/device", 0o600 | stat.S_IFCHR, os.makedev(5, 300))
        os.mkfifo(root + b"/fifo")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(root + b"/socket")
        os.chown(root + b"/a-b/a", 4_000_000_000, 12)
        Path(name, "a-b/a").chmod(0o4751)
        os.utime(root + b"/fifo", ns=(0, -1_500_000_001))
        os.setxattr(root + b"/a-b/a", b"user.note", b"\0\xff")
        os.setxattr(root + b"/link", b"trusted.note", b"of the link", follow_symlinks=False)
        yield root


def names(root: bytes) -> Iterator[bytes]:
    yield root
    for folder, folders, files in os.walk(root):
        yield from (folder + b"/" + name for name in (*folders, *files))


def seen(path: bytes) -> tuple[object, ...]:
    """What this machine's kernel says of a path."""
    found = os.lstat(path)
    is_link, is_device = stat.S_ISLNK(found.st_mode), stat.S_ISCHR(found.st_mode)
    xattrs = sorted(
        (os.fsencode(name), os.getxattr(path, name, follow_symlinks=False))
        for name in os.listxattr(path, follow_symlinks=False)
    )
    return (
        found.st_mode, found.st_uid, found.st_gid, found.st_nlink, found.st_ino, found.st_size,
        found.st_mtime_ns, found.st_ctime_ns,
        (os.major(found.st_rdev), os.minor(found.st_rdev)) if is_device else None,
        os.fsencode(Path(os.fsdecode(path)).readlink()) if is_link else None, tuple(xattrs),
    )  # fmt: skip


async def test_a_guest_tells_all_that_lstat_knows(guest: Guest, commands: GuestCommands, tree: bytes) -> None:
    found = checked(await GuestTelling(commands).tree(guest, root=tree))
    told = {tree + path.rstrip(b"/"): node[1:] for path, node in found.items()}
    assert told == {path: seen(path) for path in names(tree)}


async def test_contents_come_with_their_sums_and_within_their_limits(
    guest: Guest, commands: GuestCommands, tree: bytes, tmp_path: Path
) -> None:
    asker = Asker(GuestTelling(commands), kept_in(Rows()), BlobStore(tmp_path), b"k" * 32, LIMITS)
    told = await asker.ask(guest, root=tree)
    for path, node in told.nodes.items():
        if stat.S_ISREG(node.mode):
            assert told.contents[path].data == Path(os.fsdecode(tree + path)).read_bytes()
        else:
            assert path not in told.contents


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("exec yes", "longer than 1 s"),
        ("head -c 300000 /dev/zero", "more than 200000 bytes"),
        ("echo 'no such module' >&2; exit 3", "no such module"),
        ("exit 4", "ended with 4"),
        ("echo /etc/passwd 0644 root root", "cannot be used|cut off"),
        ("exit 0", "no names"),
    ],
)
async def test_a_guest_whose_python_was_changed_is_cut_short_or_refused(
    own_sshd: SshServer,
    connections: GuestConnections,
    commands: GuestCommands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    python: str,
    words: str,
) -> None:
    monkeypatch.setattr(telling, "TREE_BYTES", 200_000)
    program = own_sshd.folder / "bin/python3"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{python}\n")
    program.chmod(0o755)
    (own_sshd.folder / ".bashrc").write_text(f"PATH={program.parent}:$PATH\n")
    await connections.ready(own_sshd.guest, timeout_s=READY_TIMEOUT_S)
    telling_it = GuestTelling(commands, timeout_s=FLOOD_LIMIT_S)
    asker = Asker(telling_it, kept_in(Rows()), BlobStore(tmp_path), b"k", LIMITS)
    with pytest.raises(DiskUnreadable, match=words):
        await asker.ask(own_sshd.guest)


async def test_a_guest_tells_what_listens_and_runs_in_it(
    guest: Guest, commands: GuestCommands, tmp_path: Path
) -> None:
    asker = Asker(GuestTelling(commands), kept_in(Rows()), BlobStore(tmp_path), b"k", LIMITS)
    told = await asker.running(guest)
    assert told.ports is not None and told.ports[f"tcp 127.0.0.1:{guest.port}"] == "sshd"
    assert (told.units is None) == any("units are not told" in note for note in told.notes)


async def test_a_guest_without_ss_tells_its_ports_all_the_same(
    own_sshd: SshServer, connections: GuestConnections, commands: GuestCommands, tmp_path: Path
) -> None:
    (own_sshd.folder / ".bashrc").write_text("command() { [ $2 != ss ]; }\n")
    await connections.ready(own_sshd.guest, timeout_s=READY_TIMEOUT_S)
    asker = Asker(GuestTelling(commands), kept_in(Rows()), BlobStore(tmp_path), b"k", LIMITS)
    told = await asker.running(own_sshd.guest)
    assert told.ports is not None and told.ports[f"tcp 127.0.0.1:{own_sshd.guest.port}"] == ""
    assert "which programs listen is not told: it has no ss" in told.notes


@pytest.mark.parametrize(
    ("timeout", "limit_s", "words"),
    [
        ("exec sleep 1000", 1.0, "does not tell what listens and runs in it: it took longer than 1 s"),
        ("head -c 10000000 /dev/zero", 1.0, "it says more than 64 KiB|it took longer than 1 s"),
        ("head -c 70000 /dev/zero", 20.0, "it says more than 64 KiB"),
        ("head -c 5000 /dev/urandom", 20.0, "cannot be read|not told"),
        ("kill -9 $PPID", 20.0, "its shell ended with 137|ports are not told"),
    ],
)
async def test_a_guest_that_hangs_floods_or_raves_costs_a_note_and_no_time(
    own_sshd: SshServer,
    connections: GuestConnections,
    commands: GuestCommands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    timeout: str,
    limit_s: float,
    words: str,
) -> None:
    monkeypatch.setattr(telling, "RUNNING_TIMEOUT_S", limit_s)
    program = own_sshd.folder / "bin/timeout"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{timeout}\n")
    program.chmod(0o755)
    (own_sshd.folder / ".bashrc").write_text(f"PATH={program.parent}:$PATH\n")
    await connections.ready(own_sshd.guest, timeout_s=READY_TIMEOUT_S)
    asker = Asker(GuestTelling(commands), kept_in(Rows()), BlobStore(tmp_path), b"k", LIMITS)
    began = time.monotonic()
    told = await asker.running(own_sshd.guest)
    assert time.monotonic() - began < limit_s + 1
    assert not told.ports and any(re.search(words, note) for note in told.notes), told


async def test_a_guest_that_is_gone_costs_a_note(
    own_sshd: SshServer, connections: GuestConnections, commands: GuestCommands, tmp_path: Path
) -> None:
    await connections.ready(own_sshd.guest, timeout_s=READY_TIMEOUT_S)
    own_sshd.stop()
    await connections.drop(own_sshd.guest.name)
    asker = Asker(GuestTelling(commands), kept_in(Rows()), BlobStore(tmp_path), b"k", LIMITS)
    told = await asker.running(own_sshd.guest)
    assert (told.ports, told.units) == (None, None)
    assert [note.partition(":")[0] for note in told.notes] == ["what listens and runs is not told"]
