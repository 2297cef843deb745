"""The system calls that are left to the worker: to read what is open, to use memory, to answer, to end.

All others fail with EPERM: a reader that a hostile disk took over opens nothing, connects to nothing, signals
nobody and starts nothing. Sources: seccomp(2), linux/filter.h, linux/audit.h.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _KILL, _DENY = 0x7FFF_0000, 0x8000_0000, 0x0005_0000 | errno.EPERM
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF: ld [k], jeq, jset, ret
_NUMBER_AT, _ARCHITECTURE_AT, _THIRD_ARGUMENT_AT = 0, 4, 32  # in struct seccomp_data

_MACHINES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}  # column below, audit's number
_CALLS = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "newfstatat": (262, 79),
    "lseek": (8, 62), "pread64": (17, 67), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "sched_yield": (24, 124), "futex": (202, 98), "getpid": (39, 172),
    "gettid": (186, 178), "clock_gettime": (228, 113), "getrandom": (318, 278),
    "restart_syscall": (219, 128), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
_NO_CODE = {"mmap": (9, 222), "mprotect": (10, 226)}  # allowed without PROT_EXEC, their third argument


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def program(machine: str) -> bytes:
    """The filter for an architecture as :func:`os.uname` names it; empty for one that is not known."""
    if machine not in _MACHINES:
        return b""
    column, audit = _MACHINES[machine]
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]  # fmt: skip
    for numbers in _CALLS.values():
        steps += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ALLOW)]
    for numbers in _NO_CODE.values():
        steps += [
            (_EQUAL, 0, 4, numbers[column]), (_LOAD, 0, 0, _THIRD_ARGUMENT_AT),
            (_ANY_BIT, 0, 1, mmap.PROT_EXEC), (_RETURN, 0, 0, _DENY), (_RETURN, 0, 0, _ALLOW),
        ]  # fmt: skip
    steps.append((_RETURN, 0, 0, _DENY))
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def restrict() -> None:
    """Never to be undone; needs ``no_new_privs`` or root. Nothing happens on an unknown architecture."""
    code = program(os.uname().machine)
    if not code:
        return
    wanted = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(wanted), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl: no filter of system calls")
