"""Run a program where the kernel hands another architecture's programs to an emulator:
``_foreign.py REGISTRATION PROGRAM ARG …``.

The registration (binfmt_misc of the kernel's manual) is one of a user namespace, and ends with its last
process: the machine's own stay as they are. Kernels before 6.7 have the machine's only; one of those must do.

A program, not a module to import: unshare(2) of the backend itself would move the backend.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

# sched.h, sys/mount.h, sys/prctl.h
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
PR_SET_PDEATHSIG = 1
FORMATS = Path("/proc/sys/fs/binfmt_misc")
IDS = "0 0 65536"
"""Everybody in the namespace is who they are outside: what they make belongs to them there."""


def check(result: int, what: str) -> None:
    if result != 0:
        raise SystemExit(f"{what}: {os.strerror(ctypes.get_errno())}")


def enter(libc: ctypes.CDLL) -> None:
    """A new user namespace and a mount namespace in it. Only somebody outside may say who is who there."""
    inside, moved = os.pipe()
    me = os.getpid()
    if (helper := os.fork()) == 0:
        if os.read(inside, 1):
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{me}/{name}").write_text(IDS)
        os._exit(0)
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWUSER), "unshare")
    os.write(moved, b"x")
    if os.waitpid(helper, 0)[1]:
        raise SystemExit("the ids of a user namespace cannot be set")
    check(libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "make / private")
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def register(libc: ctypes.CDLL, registration: str) -> None:
    """Let the kernel start the emulator. Where it has one list for the whole machine, ours must be on it."""
    if libc.mount(b"binfmt", bytes(FORMATS), b"binfmt_misc", ctypes.c_ulong(0), None) == 0:
        (FORMATS / "register").write_text(registration)
        return
    emulator = registration.split(":")[-2].rpartition("/")[2].removesuffix("-static")
    if not (FORMATS / emulator).exists():
        raise SystemExit(
            f"this kernel starts no {emulator}: Linux 6.7 does it for us alone, an older one needs the "
            "machine's consent: systemctl restart systemd-binfmt"
        )


def main(arguments: list[str]) -> None:
    """Register in a new namespace, then become the program."""
    libc = ctypes.CDLL(None, use_errno=True)
    enter(libc)
    register(libc, arguments[0])
    os.execvp(arguments[1], arguments[1:])  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
