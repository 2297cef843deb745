"""Asking a guest for its files, where its disk cannot be read from outside. What it says is bytes, and root
in it may lie: whoever uses the answer says so.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from backend.errors import DiskUnreadable
from backend.guests.commands import GuestCommands
from backend.guests.connection import Guest

TREE_BYTES = 64 << 20  # some 500,000 names
HEAD_BYTES = 16 << 20  # sums of 100,000 files
TIMEOUT_S = 120.0  # an emulated guest tells 10,000 names in 3 s
ERROR_BYTES = 200

_PROGRAM = Path(__file__).with_name("_tell.py")


def program() -> list[str]:
    """The argument list that tells, on any machine with a python3; the job comes on standard input."""
    return ["python3", "-IS", "-c", _PROGRAM.read_text(encoding="utf-8")]


def contents_job(root: bytes, keep: Mapping[bytes, bool], limits: Mapping[str, int]) -> dict[str, Any]:
    """What asks for the contents of regular files: see :meth:`GuestTelling.contents`."""
    return {
        "root": root.decode("latin-1"),
        "paths": [path.decode("latin-1") for path in keep],
        "keep": list(keep.values()),
        "limits": dict(limits),
    }


def names_job(names: Iterable[bytes], trees: Iterable[bytes], most: int) -> dict[str, Any]:
    """What asks for some names, and for all below ``trees``, of which one may have ``most`` names."""
    return {
        "root": "/",
        "names": [path.decode("latin-1") for path in names],
        "trees": [path.decode("latin-1") for path in trees],
        "most": most,
    }


class GuestTelling:
    """Runs a small program in a guest, by its own python3, over the kept connection. Nothing is installed."""

    def __init__(self, commands: GuestCommands, *, timeout_s: float = TIMEOUT_S) -> None:
        self._commands = commands
        self._timeout_s = timeout_s

    async def tree(self, guest: Guest, *, root: bytes = b"/") -> bytes:
        """All names under ``root``, as joined records that nobody has checked.

        Raises:
            DiskUnreadable: it has no python3, says too much, takes too long, or its program failed.
            GuestDown, CommandLost: it does not answer.
        """
        return await self._ask(guest, {"root": root.decode("latin-1")}, TREE_BYTES)

    async def contents(
        self, guest: Guest, keep: Mapping[bytes, bool], limits: Mapping[str, int], *, root: bytes = b"/"
    ) -> bytes:
        """A framed answer for regular files, in the order of ``keep``: sums, and the bytes of those that are
        to be kept. ``limits``: ``hash_bytes`` and ``file_bytes`` of one file, ``total_bytes`` of all.

        Raises as :meth:`tree` does.
        """
        job = contents_job(root, keep, limits)
        return await self._ask(guest, job, limits["total_bytes"] + HEAD_BYTES)

    async def _ask(self, guest: Guest, job: Mapping[str, Any], limit_bytes: int) -> bytes:
        command = "exec " + shlex.join(program())
        done = await self._commands.run(
            guest,
            command,
            timeout_s=self._timeout_s,
            stdin=json.dumps(job).encode(),
            limit_bytes=limit_bytes,
        )
        if done.timed_out:
            raise _refused(guest, f"it took longer than {self._timeout_s:g} s")
        if done.exit_code:
            raise _refused(guest, _last_line(done.stderr) or f"its python3 ended with {done.exit_code}")
        if done.truncated:
            raise _refused(guest, f"it says more than {limit_bytes} bytes")
        return done.stdout


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:ERROR_BYTES] if lines else ""


def _refused(guest: Guest, why: str) -> DiskUnreadable:
    return DiskUnreadable(f"{guest.words} was asked for its files instead: {why}")
