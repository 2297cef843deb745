"""Asking a guest for its files, where its disk cannot be read from outside. What it says is bytes, and root
in it may lie: whoever uses the answer says so.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from backend.errors import DiskUnreadable, GuestDown
from backend.guests.commands import GuestCommands
from backend.guests.connection import Guest

TREE_BYTES = 64 << 20  # some 500,000 names
HEAD_BYTES = 16 << 20  # sums of 100,000 files
TIMEOUT_S = 120.0  # an emulated guest tells 10,000 names in 3 s
ERROR_BYTES = 200
RUNNING_BYTES = 64 << 10
RUNNING_TIMEOUT_S = 5.0  # an emulated guest needs half a second
RUNNING = r"""
export LC_ALL=C
if command -v ss >/dev/null; then
  echo =ss; timeout 3 ss -Hlntup; e=$?; echo; echo "=end $e"
else
  echo =proc
  for f in tcp tcp6 udp udp6; do
    [ -r /proc/net/$f ] || continue
    while read -r _ place _ state _; do
      case $f$state in tcp0A|tcp60A|udp07|udp607) echo "$f $place";; esac
    done </proc/net/$f
  done
  echo "=end 0"
fi
if [ -d /run/systemd/system ]; then
  echo =units
  timeout 3 systemctl list-units --plain --no-legend --no-pager --full \
    --type=service,socket,timer,mount --state=running,listening,waiting,failed
  e=$?; echo; echo "=end $e"
fi
exit 0
"""
"""What listens (ss(8); without it proc_net(5), 0A is LISTEN, 07 an unconnected UDP socket) and what runs."""

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

    async def running(self, guest: Guest) -> bytes:
        """The answer to :data:`RUNNING`, which nobody has checked.

        Raises:
            GuestDown, CommandLost: it does not answer, takes longer than 5 s, or says more than 64 KiB.
        """
        try:
            async with asyncio.timeout(RUNNING_TIMEOUT_S):
                done = await self._commands.run(
                    guest, RUNNING, timeout_s=self._timeout_s, limit_bytes=RUNNING_BYTES
                )
        except TimeoutError as error:
            raise _silent(guest, f"it took longer than {RUNNING_TIMEOUT_S:g} s") from error
        if done.truncated:
            raise _silent(guest, f"it says more than {RUNNING_BYTES >> 10} KiB")
        if done.exit_code:
            raise _silent(guest, f"its shell ended with {done.exit_code}")
        return done.stdout

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


def _silent(guest: Guest, why: str) -> GuestDown:
    return GuestDown(
        f"{guest.words} does not tell what listens and runs in it: {why}",
        remedy="ask it yourself: `ss -lntup`, `systemctl list-units`",
    )


def _refused(guest: Guest, why: str) -> DiskUnreadable:
    return DiskUnreadable(f"{guest.words} was asked for its files instead: {why}")
