"""Start a daemon in a mount namespace of its own: ``_enter.py SOURCE=TARGET … -- PROGRAM ARG …``.

A SOURCE that begins with ``ro:`` is bound read-only: even root's access(2) for writing then fails.

What the program leaves behind is reaped by a process that stays as long as there is any of it. libvirt counts
a QEMU that nobody has reaped among the living: where the first process reaps late, or never (many a
container's), every destroy would last as long.

A program, not a module to import: unshare(2) of the backend itself would move the backend.
"""

from __future__ import annotations

import ctypes
import os
import sys

# sched.h, sys/mount.h
CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_SLAVE = 1, 32, 4096, 16384, 1 << 19
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise SystemExit(f"{what}: {os.strerror(number)}")


def main(arguments: list[str]) -> int:
    """Bind each SOURCE over its TARGET in a new namespace, then run the program: its exit status."""
    split = arguments.index("--")
    libc = ctypes.CDLL(None, use_errno=True)
    check(libc.unshare(CLONE_NEWNS), "unshare")
    check(libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None), "make / a slave")
    for binding in arguments[:split]:
        source, _, target = binding.partition("=")
        steps = [MS_BIND]
        if source.startswith("ro:"):
            source = source.removeprefix("ro:")
            steps.append(MS_REMOUNT | MS_BIND | MS_RDONLY)
        for flags in steps:
            check(
                libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None),
                f"bind {source} over {target}",
            )
    told, tell = os.pipe()
    if os.fork() == 0:
        os.close(told)
        check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "become who reaps")
        os.chdir("/")
        keep(arguments[split + 1 :], tell)
        return 0
    os.close(tell)
    return int(os.read(told, 3) or b"1")


def keep(program: list[str], tell: int) -> None:
    """Run the program, tell its exit status, reap what it leaves."""
    started = os.posix_spawnp(program[0], program, os.environ)
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return
        if pid == started:
            os.write(tell, b"%d" % (os.waitstatus_to_exitcode(status) & 0xFF))
            os.close(tell)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
