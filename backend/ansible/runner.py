"""Starts detached Ansible runs and reads what they leave on disk; nothing of a run lives in this process.

A run is alive while its supervisor holds the lock of its folder. A lock that is free without an end on disk
means the run is lost: it is never started again, because nobody knows how far it came. Who the supervisor is
the kernel tells: what the runner's user writes down is believed of no process.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pwd
import shlex
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from backend.ansible._folder import environment, prepare, remove, remove_private
from backend.ansible._watch import Watch
from backend.ansible.spec import RunHandle, RunOutcome, RunSpec, SshKey, check_run_id
from backend.errors import AlreadyRunning, ConfigError, MissingProgram, RunnerFailed, RunNotFound, WrongState
from backend.models import RunEvent, RunState, TargetResult
from backend.models.playbook import RUN_OVER
from backend.system_users import new_user

START_S = 30
LOOK_S = 0.02
MAX_END_BYTES = 4 * 1024**2
MAX_LINE_BYTES = 1024**2
BLOCK_BYTES = 2 * MAX_LINE_BYTES
KEPT_S = 30 * 86_400
_FLOCK = "hhqqi4x"  # fcntl(2), struct flock: type, whence, start, length, process
_PROGRAMS = ("setpriv", "ssh-agent", "ssh-add", "ssh")


DEFAULT_USER = "fluid-runner"


class Runner:
    """``folder`` holds one folder a run. ``run_as`` is the runner's own user, used when we are root; without
    it ``fluid-runner`` where that exists, and else nobody's but root's, which ``fluid doctor`` calls bad."""

    def __init__(self, folder: Path, *, run_as: str | None = None, python: str = sys.executable) -> None:
        self._folder = folder
        self._python = python
        self._owner: tuple[int, int] | None = None
        if os.geteuid() == 0 and (user := runner_user(run_as)) is not None:
            self._owner = (user.pw_uid, user.pw_gid)

    async def start(self, spec: RunSpec, *, key: SshKey) -> RunHandle:
        """Start ``spec``, detached: it survives this process. Once per id.

        Raises:
            AlreadyRunning: a run of that id was started before.
            RunnerFailed: the supervisor did not start; its words are in the message.
        """
        return await asyncio.to_thread(self._start, spec, key)

    def _start(self, spec: RunSpec, key: SshKey) -> RunHandle:
        for program in _PROGRAMS:
            if shutil.which(program) is None:
                raise MissingProgram(
                    f"{program} is not installed", remedy="apt install openssh-client util-linux"
                )
        folder = self._folder / spec.id
        try:
            prepare(folder, spec, python=self._python, owner=self._owner)
        except FileExistsError:
            raise AlreadyRunning(f"run {spec.id} was started before", remedy="follow it") from None
        message = {
            "key": key.private.decode(),
            "certificate": key.certificate.decode() if key.certificate else None,
            "secrets": spec.secrets,
        }
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._spawn(folder, lock, json.dumps(message).encode())
        finally:
            os.close(lock)
        return RunHandle(spec.id, _holder(folder))

    def _spawn(self, folder: Path, lock: int, message: bytes) -> None:
        """Run the supervisor up to the point where it has left our process tree."""
        argv = ["setpriv", "--no-new-privs"]
        if self._owner:
            uid, gid = self._owner
            argv += [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        argv += ["--", self._python, "-I", str(folder / "etc" / "supervisor.py"), str(folder), str(lock)]
        log = folder / "supervisor.log"
        code: int | str = f"no answer within {START_S} s"
        with log.open("wb") as output, suppress(subprocess.TimeoutExpired):
            code = subprocess.run(
                argv,
                input=message,
                stdout=output,
                stderr=output,
                env=environment(folder, self._python),
                cwd=folder,
                pass_fds=(lock,),
                start_new_session=True,
                timeout=START_S,
                check=False,
            ).returncode
        if code:
            words = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise RunnerFailed(
                f"the Ansible supervisor did not start: {words or code}",
                remedy=f"the user of ansible.run_as must be able to read {self._python} and enter {folder}",
            )

    async def status(self, run_id: str) -> RunOutcome:
        """How the run stands, from what is on disk.

        Raises:
            RunNotFound: no run of that id was started here.
        """
        folder = self._existing(run_id)
        alive = _is_locked(folder)
        end = _read_end(folder)  # after the lock: an end is written before the lock is let go
        if end is not None:
            return end
        if not alive:
            return RunOutcome(run_id, RunState.LOST, reason="its process is gone and no end was written")
        started = bool(_read(folder / "out" / "events.jsonl", limit=1))
        return RunOutcome(run_id, RunState.RUNNING if started else RunState.STARTING)

    async def follow(self, run_id: str, after: int = 0) -> AsyncIterator[RunEvent]:
        """The run's events from number ``after`` on, as they come, until the run is over or lost."""
        folder = self._existing(run_id)
        reader = _Events(folder / "out" / "events.jsonl", after)
        process = await _supervisor_there(folder)
        if process is None:
            for event in reader.new():
                yield event
            return
        async with Watch(folder / "out", process) as watch:
            while True:
                over = (await self.status(run_id)).state not in (RunState.STARTING, RunState.RUNNING)
                for event in reader.new():
                    yield event
                if over:
                    return
                await watch.changed()

    async def wait(self, run_id: str) -> RunOutcome:
        """The outcome, once the run is over or lost."""
        async for _ in self.follow(run_id):
            pass
        return await self.status(run_id)

    async def cancel(self, run_id: str) -> None:
        """Ask the run to end; Ansible stops its workers and the end says what was done.

        Raises:
            WrongState: the run is over.
            RunnerFailed: it has no supervisor yet.
        """
        folder = self._existing(run_id)
        over = WrongState(f"run {run_id} is not running", remedy="it has already finished")
        if not _is_running(folder):
            raise over
        process = _supervisor(folder)
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
        except ProcessLookupError:
            raise over from None
        finally:
            os.close(process)

    def forget(self, run_id: str) -> None:
        """Remove the folder of a run that is over; nothing if there is none."""
        folder = self._folder / check_run_id(run_id)
        if folder.exists():
            if _is_running(folder):
                raise WrongState(f"run {run_id} is still running", remedy="cancel it first")
            remove(folder)

    def tidy(self, run_id: str) -> None:
        """Take away what a run that is over left in memory, as one that was killed does."""
        folder = self._folder / check_run_id(run_id)
        if not _is_locked(folder):
            remove_private(folder)

    def tidy_all(self) -> None:
        """The same of every run but those that are just being started."""
        for folder in self._folder.glob("RUN-*"):
            with suppress(FileNotFoundError):
                if time.time() - (folder / "lock").stat().st_mtime > START_S:
                    self.tidy(folder.name)

    def old(self) -> list[str]:
        """The runs that began longer ago than their folders are kept."""
        oldest = time.time() - KEPT_S
        return [folder.name for folder in self._folder.glob("RUN-*") if folder.stat().st_mtime < oldest]

    def _existing(self, run_id: str) -> Path:
        folder = self._folder / check_run_id(run_id)
        if not (folder / "lock").exists():
            raise RunNotFound(f"there is no run {run_id}")
        return folder


def runner_user(run_as: str | None) -> pwd.struct_passwd | None:
    """Who Ansible runs as below root: ``run_as``, or ``fluid-runner``; None where neither is there.

    Raises:
        ConfigError: ``run_as`` names nobody.
    """
    try:
        return pwd.getpwnam(run_as or DEFAULT_USER)
    except KeyError:
        if run_as is None:
            return None
        raise ConfigError(
            f"ansible.run_as: there is no user {run_as!r}",
            remedy=shlex.join(new_user(run_as)),
        ) from None


class _Events:
    """Reads whole lines of a growing file; half a line waits for its other half. A line that is longer than a
    block is cut, and no event."""

    def __init__(self, path: Path, after: int) -> None:
        self._path = path
        self._skip = after
        self._offset = 0

    def new(self) -> Iterator[RunEvent]:
        """Up to where the file ends now."""
        end = _size(self._path)
        while self._offset < end and (content := _read(self._path, self._offset, limit=BLOCK_BYTES)):
            whole, newline, _ = content.rpartition(b"\n")
            if not newline:
                if len(content) < BLOCK_BYTES:
                    return
                self._offset += len(content)
                continue
            self._offset += len(whole) + 1
            lines = whole.split(b"\n")
            skipped = min(self._skip, len(lines))
            self._skip -= skipped
            yield from filter(None, map(_event, lines[skipped:]))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _event(line: bytes) -> RunEvent | None:
    """The runner's uid is not trusted either: what is no event is left out."""
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        return RunEvent.model_validate_json(line)
    except ValidationError:
        return None


def _read(path: Path, offset: int = 0, *, limit: int) -> bytes:
    """A regular file's content from ``offset`` on; nothing for a link, a device or no file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        file.seek(offset)
        return file.read(limit)


def _read_end(folder: Path) -> RunOutcome | None:
    """How the run ended by its own word; None for none, and for one that makes no sense."""
    try:
        end = json.loads(_read(folder / "out" / "end.json", limit=MAX_END_BYTES))
        outcome = RunOutcome(
            folder.name,
            RunState(end["state"]),
            {name: TargetResult.model_validate(counts) for name, counts in end["results"].items()},
            str(end["reason"]),
            str(end.get("strategy", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return outcome if outcome.state in RUN_OVER else None


def _is_running(folder: Path) -> bool:
    return _is_locked(folder) and _read_end(folder) is None


def _is_locked(folder: Path) -> bool:
    """True while some process holds the lock: the supervisor, or the backend that is starting it."""
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


async def _supervisor_there(folder: Path) -> int | None:
    """A pidfd of the supervisor, which is there a moment after the start: whoever started it may be dead by
    then. None once the run is over or lost, of which no event tells before there is a process to watch."""
    deadline = time.monotonic() + START_S
    while _is_running(folder):
        try:
            return _supervisor(folder)
        except RunnerFailed:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(LOOK_S)
    return None


def _supervisor(folder: Path) -> int:
    """A pidfd of the run's supervisor. Raises :class:`RunnerFailed` as long as there is none."""
    if (pid := _holder(folder)) is not None:
        with suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            if _holder(folder) == pid:  # else it ended, and its number may be somebody else's by now
                return process
            os.close(process)
    raise RunnerFailed(f"run {folder.name}: its supervisor is not there yet", remedy="try again in a moment")


def _holder(folder: Path) -> int | None:
    """The pid of the process that has the record lock of the run, as the kernel tells it (fcntl(2), F_GETLK):
    only who was given the lock's file, which is the backend's alone, can have that."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    return pid if kind != fcntl.F_UNLCK and pid > 1 else None
