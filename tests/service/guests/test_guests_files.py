"""Files in a guest: any name, whole writes, exact edits, and a policy that sees where links lead."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.errors import (
    Conflict,
    FileNotFoundInGuest,
    InvalidValue,
    PolicyDenied,
    TimedOut,
    TooLarge,
    WrongState,
)
from backend.guests import Guest, GuestCommands, GuestConnections, GuestFiles
from backend.guests import files as files_module
from backend.models import FileKind

STRANGE = [
    b"plain",
    b"with space",
    "grüße 日本".encode(),
    b"{{ template }}",
    b"quote'\"$(id)`id`\\",
    b"new\nline",
    b"-rf",
    b"\xff\xfe not utf-8",
    b"%41 percent",
    b"*?[a]",
    b"n" * 255,
]


def at(path: bytes) -> Path:
    """The guest's file on this machine: the guest of these tests shares it."""
    return Path(os.fsdecode(path))


def names(folder: bytes) -> list[bytes]:
    return sorted(os.fsencode(entry.name) for entry in at(folder).iterdir())


@pytest.fixture
def files(connections: GuestConnections, commands: GuestCommands) -> GuestFiles:
    return GuestFiles(connections, commands, limit_bytes=1_000_000)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[bytes]:
    yield os.fsencode(tmp_path)


@pytest.mark.parametrize("name", STRANGE, ids=[repr(name)[:24] for name in STRANGE])
async def test_any_name_makes_the_round_trip(
    guest: Guest, files: GuestFiles, folder: bytes, name: bytes
) -> None:
    path, copy = folder + b"/" + name, folder + b"/the copy"
    data = b"\0\xff binary \n" + name
    state = await files.write(guest, path, data)
    assert (state.kind, state.mode, state.size, state.uid) == (FileKind.FILE, 0o644, len(data), 0)
    assert await files.read(guest, path) == data
    assert await files.copy(guest, path, copy) == await files.stat(guest, copy)
    assert list(await files.list(guest, folder)) == sorted([path, copy])
    await files.delete(guest, path)
    await files.delete(guest, copy)
    assert names(folder) == []


async def test_a_part_of_a_file_is_read(guest: Guest, files: GuestFiles, folder: bytes) -> None:
    path = folder + b"/f"
    await files.write(guest, path, b"0123456789")
    assert await files.read(guest, path, offset=3, length=4) == b"3456"
    assert await files.read(guest, path, offset=8, length=100) == b"89"
    assert await files.read(guest, path, offset=100) == b""


async def test_a_large_file_is_whole_and_too_large_a_one_is_refused(
    guest: Guest, files: GuestFiles, folder: bytes
) -> None:
    path = folder + b"/f"
    data = os.urandom(1_000_000)
    await files.write(guest, path, data)
    assert await files.read(guest, path) == data
    with pytest.raises(TooLarge, match="1000001"):
        await files.write(guest, path, data + b"x")
    at(path).write_bytes(data + b"xy")
    with pytest.raises(TooLarge, match="1000002"):
        await files.read(guest, path)
    assert await files.read(guest, path, offset=999_999, length=2) == data[-1:] + b"x"


async def test_files_of_proc_are_read_though_they_say_they_are_empty(guest: Guest, files: GuestFiles) -> None:
    assert (await files.read(guest, b"/proc/self/status")).startswith(b"Name:")


async def test_a_part_of_a_file_of_proc_is_read(guest: Guest, files: GuestFiles) -> None:
    whole = at(b"/proc/version").read_bytes()
    assert await files.read(guest, b"/proc/version", offset=6, length=7) == whole[6:13]


async def test_an_empty_file_is_empty(guest: Guest, files: GuestFiles, folder: bytes) -> None:
    path = folder + b"/{} 'empty'\n"
    at(path).touch()
    assert await files.read(guest, path) == b""


def _no_wait(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


async def test_what_waits_for_its_writer_is_refused_at_once(
    guest: Guest, files: GuestFiles, folder: bytes
) -> None:
    os.mkfifo(folder + b"/fifo")
    at(folder + b"/link").symlink_to("fifo")
    with contextlib.suppress(BlockingIOError), open("/proc/kmsg", "rb", buffering=0, opener=_no_wait) as log:  # noqa: ASYNC230
        while log.read(65_536):  # what the kernel said already would be an answer
            pass
    for path, words in ((b"/proc/kmsg", "waits"), (folder + b"/link", "fifo"), (b"/dev/zero", "character")):
        async with asyncio.timeout(10):
            with pytest.raises(InvalidValue, match=words):
                await files.read(guest, path)


async def test_a_file_server_that_hangs_is_left_and_the_next_answers(
    guest: Guest,
    connections: GuestConnections,
    files: GuestFiles,
    folder: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files_module, "FILE_TIMEOUT_S", 1.0)
    hung = await connections.sftp(guest)
    os.mkfifo(folder + b"/fifo")

    async def wait_for_a_writer() -> None:
        async with hung.open(folder + b"/fifo", "rb"):
            pass

    opening = asyncio.create_task(wait_for_a_writer())
    await asyncio.sleep(0)
    with pytest.raises(TimedOut):
        await files.stat(guest, folder)
    assert (await files.stat(guest, folder)).kind is FileKind.DIRECTORY
    opening.cancel()
    os.close(os.open(folder + b"/fifo", os.O_WRONLY))  # the hung one goes on, finds nobody and ends


async def test_a_write_keeps_mode_and_owner_unless_told(
    guest: Guest, files: GuestFiles, folder: bytes
) -> None:
    path = folder + b"/f"
    at(path).write_bytes(b"old")
    os.chown(path, 5, 6)
    at(path).chmod(0o640)
    kept = await files.write(guest, path, b"new")
    assert (kept.mode, kept.uid, kept.gid) == (0o640, 5, 6)
    told = await files.write(guest, path, b"new", mode=0o4755, owner="games:daemon")
    assert (told.mode, told.uid, told.gid) == (0o4755, 5, 1)
    assert names(folder) == [b"f"]


async def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    guest: Guest, files: GuestFiles, folder: bytes
) -> None:
    path = folder + b"/f"
    await files.write(guest, path, b"old")
    with pytest.raises(WrongState, match="no-such-user"):
        await files.write(guest, path, b"new", owner="no-such-user")
    with pytest.raises(InvalidValue, match="root; id"):
        await files.write(guest, path, b"new", owner="root; id")
    assert at(path).read_bytes() == b"old"
    assert names(folder) == [b"f"]


async def test_a_write_goes_through_a_link_to_the_file(
    guest: Guest, files: GuestFiles, folder: bytes
) -> None:
    at(folder + b"/link").symlink_to("real")
    await files.write(guest, folder + b"/real", b"1")
    await files.write(guest, folder + b"/link", b"2")
    assert at(folder + b"/real").read_bytes() == b"2"
    state = await files.stat(guest, folder + b"/link")
    assert (state.kind, state.target) == (FileKind.LINK, "real")
    await files.delete(guest, folder + b"/link")
    assert names(folder) == [b"real"]


async def test_an_edit_needs_exactly_one_match_unless_all(
    guest: Guest, files: GuestFiles, folder: bytes
) -> None:
    path = folder + b"/f"
    await files.write(guest, path, b"a b a", mode=0o600)
    with pytest.raises(Conflict, match="2 times"):
        await files.edit(guest, path, old=b"a", new=b"c")
    with pytest.raises(Conflict, match="0 times"):
        await files.edit(guest, path, old=b"x", new=b"c")
    assert await files.read(guest, path) == b"a b a"
    await files.edit(guest, path, old=b"b", new=b"\xff")
    state = await files.edit(guest, path, old=b"a", new=b"cc", all=True)
    assert await files.read(guest, path) == b"cc \xff cc"
    assert state.mode == 0o600


async def test_the_policy_sees_where_a_path_really_leads(
    guest: Guest, files: GuestFiles, folder: bytes
) -> None:
    seen: list[bytes] = []

    def check(path: bytes) -> None:
        seen.append(path)
        if b"secret" in path:
            raise PolicyDenied("no")

    at(folder + b"/secret").mkdir()
    at(folder + b"/innocent").symlink_to("secret")
    at(folder + b"/secret/f").write_bytes(b"x")
    path = folder + b"/innocent/../innocent/f"
    with pytest.raises(PolicyDenied):
        await files.read(guest, path, check=check)
    with pytest.raises(PolicyDenied):
        await files.write(guest, path, b"y", check=check)
    with pytest.raises(PolicyDenied):
        await files.write(guest, folder + b"/innocent/new", b"y", check=check)
    with pytest.raises(PolicyDenied):
        await files.delete(guest, path, check=check)
    with pytest.raises(PolicyDenied):
        await files.copy(guest, path, folder + b"/out", check=check)
    assert set(seen) == {folder + b"/secret/f", folder + b"/secret/new"}
    assert names(folder + b"/secret") == [b"f"]


async def test_what_is_not_there_or_not_a_file_is_told(
    guest: Guest, files: GuestFiles, folder: bytes
) -> None:
    with pytest.raises(FileNotFoundInGuest, match="nothing"):
        await files.read(guest, folder + b"/nothing")
    with pytest.raises(FileNotFoundInGuest):
        await files.delete(guest, folder + b"/no/such")
    with pytest.raises(FileNotFoundInGuest):
        await files.copy(guest, folder + b"/nothing", folder + b"/x")
    with pytest.raises(InvalidValue, match="directory"):
        await files.read(guest, folder)
    with pytest.raises(InvalidValue):
        await files.write(guest, folder, b"x")
    os.mkfifo(folder + b"/fifo")
    with pytest.raises(InvalidValue, match="fifo"):
        await files.read(guest, folder + b"/fifo")
    for bad in (b"relative", b"", b"/a\0b", b"/" + b"x" * 5000):
        with pytest.raises(InvalidValue):
            await files.read(guest, bad)


async def test_a_full_folder_is_deleted_only_when_asked(
    guest: Guest, files: GuestFiles, folder: bytes
) -> None:
    tree = folder + b"/-tree \xff"
    at(tree + b"/a/b").mkdir(parents=True)
    with pytest.raises(WrongState):
        await files.delete(guest, tree)
    copied = await files.copy(guest, tree, folder + b"/copy")
    assert copied.kind is FileKind.DIRECTORY
    assert at(folder + b"/copy/a/b").is_dir()
    await files.delete(guest, tree, recursive=True)
    assert names(folder) == [b"copy"]
    with pytest.raises(InvalidValue):
        await files.delete(guest, b"/", recursive=True)
