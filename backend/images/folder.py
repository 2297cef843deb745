"""The images' folder: one writer at a time, files that count when renamed, work swept when it died."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from backend.errors import NoSpace
from backend.images.programs import Programs

LOCK_LIMIT_S = 3600
SWEEP_LIMIT_S = 300

Progress = Callable[[str], None]


@contextlib.asynccontextmanager
async def locked(folder: Path, programs: Programs, progress: Progress) -> AsyncIterator[None]:
    """Hold the folder's lock; it ends with this process, however that ends. The waiting is flock(1)'s, which
    shares our open file and can be cancelled."""
    with (folder / ".lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build to end")
            fd = lock.fileno()
            await programs.run("flock", "--exclusive", str(fd), limit_s=LOCK_LIMIT_S, pass_fds=(fd,))
        yield


@contextlib.contextmanager
def is_free(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock if nobody has it; whether it is held. One that is not ours to write never is."""
    if not os.access(folder, os.W_OK):
        yield False
        return
    with (folder / ".lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextlib.asynccontextmanager
async def workspace(folder: Path, prefix: str) -> AsyncIterator[Path]:
    """A folder of this process's own, removed at the end. Those of processes that died are removed first: a
    living one holds a lock on its own."""
    work, held = await asyncio.to_thread(_enter, folder, prefix)
    try:
        yield work
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, work, ignore_errors=True))
        os.close(held)


def sweep(folder: Path, prefix: str) -> int:
    """Remove what dead processes left, in a folder that is ours to write; how many folders. Blocking."""
    if not os.access(folder, os.W_OK):
        return 0
    with _gate(folder):
        return _sweep(folder, prefix)


def _enter(folder: Path, prefix: str) -> tuple[Path, int]:
    """A new folder and the lock on it; nobody sweeps between the two."""
    with _gate(folder):
        _sweep(folder, prefix)
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
        work.chmod(0o711)  # who works in it as another user goes by names
        held = _open_folder(work)
        fcntl.flock(held, fcntl.LOCK_EX)
        return work, held


@contextlib.contextmanager
def _gate(folder: Path) -> Iterator[None]:
    with (folder / ".work.lock").open("w", encoding="utf-8") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        yield


def _sweep(folder: Path, prefix: str) -> int:
    count = 0
    for left in folder.glob(f"{prefix}*"):
        held = _open_folder(left)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
            count += 1
        os.close(held)
    return count


def _open_folder(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def check_space(folder: Path, needed_mb: int, reserve_mb: int) -> None:
    """:class:`NoSpace` with all figures, before a build begins."""
    free_mb = shutil.disk_usage(folder).free >> 20
    if (missing_mb := needed_mb + reserve_mb - free_mb) > 0:
        reserve = f" beside the reserve of {reserve_mb} MB" if reserve_mb else ""
        raise NoSpace(
            f"building an image needs {needed_mb} MB in {folder}{reserve}, {free_mb} MB are free",
            remedy=f"free {missing_mb} MB there, or set FLUID_CACHE to a folder with room",
        )


def put_file(source: Path, place: Path) -> None:
    """Give a finished file of the same file system its lasting name, durably. Blocking."""
    if place.exists() and place.samefile(source):
        return
    fresh = place.with_name(place.name + ".new")
    fresh.unlink(missing_ok=True)
    os.link(source, fresh)
    fresh.chmod(0o644)
    with fresh.open("rb") as done:
        os.fsync(done.fileno())
    fresh.replace(place)
