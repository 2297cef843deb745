"""Who PostgreSQL runs as in the tests, which root may not be and ``nobody`` is everywhere; how it is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.store import EmbeddedPostgres

RUN_AS = "nobody" if os.geteuid() == 0 else None


@contextmanager
def standing_still(server: EmbeddedPostgres) -> Iterator[None]:
    """The whole cluster neither answers nor hangs up, as on a disk that is stuck."""
    postmaster = server.postmaster()
    assert postmaster is not None
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    processes = [postmaster, *map(int, children)]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
