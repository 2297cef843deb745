"""Marks on the way of an operation: where its time goes, and where a test ends the process.

``FLUID_KILL_AT=create.overlay`` kills the process there as a power cut would (tests/faults): what is written
ahead must be enough to finish or undo it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

KILL_AT = os.environ.get("FLUID_KILL_AT", "")


@dataclass
class Trail:
    """Each step of one operation with the seconds at which it was reached, in their order."""

    operation: str
    began: float = field(default_factory=time.monotonic)
    steps: dict[str, float] = field(default_factory=dict)


_trail: ContextVar[Trail | None] = ContextVar("trail", default=None)


@contextmanager
def operation(name: str) -> Iterator[Trail]:
    """What is reached in the block, by this task and those it begins, belongs to the operation ``name``."""
    trail = Trail(name)
    token = _trail.set(trail)
    try:
        yield trail
    finally:
        _trail.reset(token)


def reached(step: str) -> None:
    """This step of the operation under way is done; outside of one nothing happens."""
    trail = _trail.get()
    if trail is None:
        return
    trail.steps[step] = round(time.monotonic() - trail.began, 3)
    if f"{trail.operation}.{step}" == KILL_AT:
        os.kill(os.getpid(), signal.SIGKILL)
