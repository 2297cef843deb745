"""Processes of the demo that outlive it: started in a session of their own, ended by their own pid.

A pid file holds the pid and the process's start time, so a number that the kernel gave to somebody else is
never killed (proc(5), field 22 of ``stat``).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

STOP_TIMEOUT_S = 20


def start(
    argv: Sequence[str],
    *,
    pid_file: Path,
    log: Path,
    env: dict[str, str],
    user: str | None = None,
    stdin: bytes = b"",
) -> int:
    """Start detached; output goes to ``log``. ``user``: run as that system user, with no other group."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=env,
            cwd="/",
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
    if process.stdin is not None:
        process.stdin.write(stdin)
        process.stdin.close()
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    pid_file.write_text(f"{process.pid} {started_at(process.pid)}\n")
    return process.pid


def running(pid_file: Path) -> int | None:
    """The pid of a process that we started and that still runs."""
    try:
        pid, start_time = pid_file.read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if started_at(int(pid)) == start_time else None


def stop(pid_file: Path, *, hard: bool = False) -> bool:
    """End it (SIGTERM, then SIGKILL after 20 s) and wait; False if it did not run."""
    pid = running(pid_file)
    if pid is None:
        pid_file.unlink(missing_ok=True)
        return False
    handle = os.pidfd_open(pid)
    try:
        for sign in [signal.SIGKILL] if hard else [signal.SIGTERM, signal.SIGKILL]:
            signal.pidfd_send_signal(handle, sign)
            if select.select([handle], [], [], STOP_TIMEOUT_S)[0]:
                break
    finally:
        os.close(handle)
    pid_file.unlink(missing_ok=True)
    return True


def started_at(pid: int) -> str:
    """The start time of a process in clock ticks, "" if there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
