"""What a process takes, as the kernel counts it (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path

TICKS_S = os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """What it holds in memory now (VmRSS)."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kib) / 1024


def cpu_s(pid: int) -> float:
    """The seconds of processor that it has taken, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S
