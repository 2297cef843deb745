"""A libvirtd that hangs holds up nothing else; and the process that starts one of our own, and stays for what
that one leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.errors import HypervisorDown
from backend.hypervisor import private, system_libvirt
from backend.hypervisor.private import ENTER


async def test_a_libvirtd_that_hangs_is_no_absent_one_and_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "libvirt-sock"
    monkeypatch.setattr(private, "DEFAULT_SOCKET", path)
    monkeypatch.setattr(private, "SYSTEM_URI", f"qemu:///system?socket={path}")
    monkeypatch.setattr(private, "PROBE_TIMEOUT_S", 0.2)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        async with asyncio.timeout(5):
            for _ in range(3):
                with pytest.raises(HypervisorDown, match=r"does not answer within 0\.2 s"):
                    await system_libvirt()
            await asyncio.to_thread(int)
        silent.accept()[0].close()
        silent.settimeout(0)
        with pytest.raises(BlockingIOError):  # it was asked once
            silent.accept()
    assert await system_libvirt() is None


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
