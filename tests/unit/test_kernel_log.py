"""The kernel's log as it tells of a QEMU that was killed for want of memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backend.hypervisor.kernel_log import verdict
from backend.models import now

NAME = "fluid-40e341-sbx-00000001"
SCOPE = "/machine.slice/machine-qemu\\x2d7\\x2d{}.scope/libvirt/emulator"
OOM = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,task_memcg={},task={},pid=7,uid=1"
LONG_AGO = 0

Log = Callable[..., Path]


@pytest.fixture
def log() -> Iterator[Log]:
    """A device that gives one record a read, as /dev/kmsg does: a pipe in packet mode."""
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)

    def write(*texts: str, at_s: float | None = None) -> Path:
        moment = time.clock_gettime(time.CLOCK_MONOTONIC) if at_s is None else at_s
        for number, text in enumerate(texts):
            os.write(writer, f"6,{number},{int(moment * 1e6)},-;{text}\n".encode())
        return Path(f"/proc/self/fd/{reader}")

    yield write
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("text", "at_s", "known"),
    [
        (OOM.format(SCOPE.format(NAME.replace("-", "\\x2d")), "qemu-system-x86"), LONG_AGO, "memory"),
        (OOM.format(f"/machine/qemu-3-{NAME}.libvirt-qemu/emulator", "qemu-system-x86"), LONG_AGO, "memory"),
        (OOM.format(f"/machine/qemu-3-{NAME}9.libvirt-qemu", "qemu-system-x86"), None, "not memory"),
        (OOM.format("/init.scope", "qemu-system-x86"), None, "memory"),  # no name: by its moment
        (OOM.format("/init.scope", "qemu-system-x86"), LONG_AGO, "not memory"),
        (OOM.format("/init.scope", "postgres"), None, "not memory"),
        ("fl-1: port 2 entered blocking state", None, "not memory"),
    ],
)
def test_only_its_own_end_for_want_of_memory_is_one(
    log: Log, text: str, at_s: float | None, known: str
) -> None:
    ran_at = datetime.fromtimestamp(0, UTC)
    assert verdict(NAME, ran_at, log("usb 1-1: new device", text, "eth0: up", at_s=at_s)) == known


@pytest.mark.parametrize(("ran_ago_s", "known"), [(30, "not memory"), (90, "memory")])
def test_an_end_that_it_had_before_it_was_started_again_is_not_this_one(
    log: Log, ran_ago_s: float, known: str
) -> None:
    text = OOM.format(f"/machine/qemu-3-{NAME}.libvirt-qemu/emulator", "qemu-system-x86")
    killed = log(text, at_s=time.clock_gettime(time.CLOCK_MONOTONIC) - 60)
    assert verdict(NAME, now() - timedelta(seconds=ran_ago_s), killed) == known


def test_a_log_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert verdict(NAME, now(), tmp_path / "none") == "unknown"
