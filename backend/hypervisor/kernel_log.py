"""Whether this machine's kernel killed a QEMU for want of memory. libvirt cannot tell: a process that is
killed ends the same way, whoever did it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from backend.models.base import now

KMSG = Path("/dev/kmsg")
RECORD_BYTES = 8192  # the kernel gives one record a read, and never a longer one
NEAR_S = 10.0  # a kill without a domain's name in it: how long before now it may have been; clocks differ
KILLED = re.compile(r"oom-kill:.*\btask=qemu")
CGROUP = re.compile(r"\btask_memcg=(\S*?),")

Verdict = Literal["memory", "not memory", "unknown"]


def verdict(domain: str, ran_at: datetime, log: Path = KMSG) -> Verdict:
    """Whether the domain died so since ``ran_at``, when it ran: it may have before, and was started again.
    Blocks for as long as reading the log takes."""
    try:
        records = list(_records(log))
    except OSError:
        return "unknown"
    now_s = time.clock_gettime(time.CLOCK_MONOTONIC)
    ran_s = now_s - (now() - ran_at).total_seconds()
    return "memory" if any(_is_it(record, domain, ran_s, now_s) for record in records) else "not memory"


def _records(log: Path) -> Iterator[str]:
    """kernel.org/doc/Documentation/ABI/testing/dev-kmsg: ``prefix,number,microseconds,flags;text``."""
    handle = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                record = os.read(handle, RECORD_BYTES)
            except BlockingIOError:
                return
            except BrokenPipeError:  # overwritten meanwhile: the next read is at the oldest that is left
                continue
            if not record:
                return
            yield record.decode(errors="replace")
    finally:
        os.close(handle)


def _is_it(record: str, domain: str, ran_s: float, now_s: float) -> bool:
    head, _, text = record.partition(";")
    at_us = head.split(",")[2:3]
    if not (KILLED.search(text) and at_us and at_us[0].isdigit()):
        return False
    at_s = int(at_us[0]) / 1e6
    group = CGROUP.search(text)
    # systemd writes a dash in a name as \x2d.
    named = group.group(1).replace("\\x2d", "-") if group else ""
    if "qemu-" in named:
        mine = re.search(rf"qemu-\d+-{re.escape(domain)}\b(?!-)", named) is not None
        return mine and at_s > ran_s - NEAR_S
    return now_s - at_s < NEAR_S
