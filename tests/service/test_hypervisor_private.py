"""The process that starts a libvirtd of our own, and stays for what that one leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from backend.hypervisor.private import ENTER


async def test_what_a_daemon_leaves_behind_is_reaped_at_once(tmp_path: Path) -> None:
    """As a QEMU is left by libvirtd: libvirt waits until it is gone from the list of processes."""
    leaves = f"sleep 60 & echo $! >{tmp_path / 'pid'}; exit 3"
    began = await asyncio.create_subprocess_exec(sys.executable, "-IS", ENTER, "--", "sh", "-c", leaves)
    assert await began.wait() == 3
    left = int((tmp_path / "pid").read_text())
    keeper = parent_of(left)
    assert ENTER.name in Path(f"/proc/{keeper}/cmdline").read_text()
    os.kill(left, signal.SIGTERM)
    async with asyncio.timeout(1):
        while Path(f"/proc/{left}").exists():
            await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        while Path(f"/proc/{keeper}/exe").exists():
            await asyncio.sleep(0.01)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
