"""Processes of this machine, as the kernel tells of them (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path

TICKS_S = os.sysconf("SC_CLK_TCK")


def argv_of(pid: int) -> bytes:
    """Its words, each with a NUL after it; none of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def naming(words: str) -> set[int]:
    """Who has them among its arguments, by pid."""
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return {pid for pid in pids if words.encode() in argv_of(pid)}


def qemu_of(domain: str) -> set[int]:
    """The pids of what runs a domain: one, if all is well, while it is on."""
    return naming(f"guest={domain},")


def memory_mb(pid: int) -> float:
    """What it holds in memory now (VmRSS)."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kib) / 1024


def cpu_s(pid: int) -> float:
    """The seconds of processor that it has taken, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S
