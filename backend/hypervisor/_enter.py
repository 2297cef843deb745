"""Run a program in a mount namespace of its own: ``_enter.py SOURCE=TARGET … -- PROGRAM ARG …``.

A SOURCE that begins with ``ro:`` is bound read-only: even root's access(2) for writing then fails.

A program, not a module to import: unshare(2) of the backend itself would move the backend.
"""

from __future__ import annotations

import ctypes
import os
import sys

# sched.h, sys/mount.h
CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_SLAVE = 1, 32, 4096, 16384, 1 << 19


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise SystemExit(f"{what}: {os.strerror(number)}")


def main(arguments: list[str]) -> None:
    """Bind each SOURCE over its TARGET in a new namespace, then become the program."""
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
    program = arguments[split + 1 :]
    os.execvp(program[0], program)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
