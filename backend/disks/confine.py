"""What the worker gives up before it reads a byte that a guest wrote.

Limits on memory, processor time, files and processes; no new privileges; no network; not root; no system call
but those that reading and answering take.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal

from backend.disks.seccomp import restrict

SPARE_FILES = 8
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CLONE_NEWNET = 0x4000_0000


def confine(*, uid: int, memory_bytes: int, cpu_s: int, files: int) -> None:
    """Never to be undone. A process that starts as root becomes ``uid``; ``files`` are already open."""
    libc = ctypes.CDLL(None, use_errno=True)
    root = os.geteuid() == 0
    if root:
        libc.unshare(_CLONE_NEWNET)  # refused in some containers, where nothing listens either
        os.setgroups([])
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, files + SPARE_FILES),
    ):
        hard = resource.getrlimit(what)[1]
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (least, least))
    if root:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    for option, value in (
        (_PR_SET_NO_NEW_PRIVS, 1),
        (_PR_SET_DUMPABLE, 0),
        (_PR_SET_PDEATHSIG, signal.SIGKILL),  # last: changing the uid clears it
    ):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl {option}")
    with contextlib.suppress(OSError):
        os.chdir("/")
    restrict()
