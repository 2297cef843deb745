"""Makes an image of ours from one that somebody else made: qemu-img, confined, both formats named.

Its limits are address space, processor time, length of what it writes, and time by the clock; it has no
network, and where the backend is root, it is nobody. It opens two files, by their names in its own folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import ImageRefused, TimedOut, Unavailable
from backend.images.programs import Programs
from backend.images.qcow2 import Format

THREAD_STACK_BYTES = 1 << 20
NEEDED = ("qemu-img", "prlimit", "setpriv", "unshare")
NOBODY_UID = 65534
OUTPUT_SLACK_BYTES = 64 << 20  # for the tables of the result
TOO_LONG = "File too large"  # strerror(EFBIG): RLIMIT_FSIZE was met
KILLED_BY_CPU = (-signal.SIGKILL, -signal.SIGXCPU)


@dataclass(frozen=True)
class ConvertLimits:
    """What one run of qemu-img may take. It makes more threads on a slow disk: each has a small stack,
    and none an arena of its own, or 64 of them are beyond any limit."""

    memory_bytes: int = 512 << 20  # of address space
    cpu_s: int = 900
    wall_s: int = 1800


@dataclass(frozen=True)
class Layer:
    """A file by its name in the folder of the work, and how a disk lies in it."""

    name: str
    format: Format


def output_limit(folder: Path, disk_bytes: int, reserve_bytes: int) -> int:
    """How long the result may be: the whole disk, as far as the reserve of the host's disk allows it."""
    room = shutil.disk_usage(folder).free - reserve_bytes
    return max(0, min(disk_bytes + OUTPUT_SLACK_BYTES, room))


async def convert(
    programs: Programs,
    work: Path,
    source: Sequence[Layer],
    target: str,
    *,
    output_bytes: int,
    limits: ConvertLimits,
) -> Path:
    """The new qcow2 file ``target`` in ``work``, made of the layers there that are one disk, the top first.

    Raises:
        ImageRefused: qemu-img refused it, or met a limit; the message says which.
    """
    made, root = work / target, os.geteuid() == 0
    os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    files = (*(work / layer.name for layer in source), made)
    if root:
        _give(files, NOBODY_UID)
    command = ("qemu-img", "convert", "-O", "qcow2", f"json:{json.dumps(_blockdev(source))}", target)
    confined = [*await _alone(programs, root), *_limits(output_bytes, limits), *_rights(root), *command]
    try:
        await programs.run(*confined, limit_s=limits.wall_s, cwd=work)
    except TimedOut as error:
        raise ImageRefused(
            f"converting the image took longer than {limits.wall_s} s", remedy="take a smaller one"
        ) from error
    except Unavailable as error:
        raise ImageRefused(_why(programs.tail(), error, output_bytes, limits), remedy=_REMEDY) from error
    finally:
        if root:
            _give(files, 0)
    return made


def _blockdev(layers: Sequence[Layer]) -> dict[str, Any]:
    """The disk as QEMU's block layer takes it (BlockdevOptions): every format is named, nothing is looked for
    in a header."""
    top, *below = layers
    file = {"driver": "file", "filename": top.name}
    if top.format == "raw":
        return {"driver": "raw", "file": file}
    return {"driver": "qcow2", "file": file, "backing": _blockdev(below) if below else None}


def _give(files: tuple[Path, ...], uid: int) -> None:
    """Another owner, and a mode that lets nobody else in."""
    for file in files:
        os.chown(file, uid, -1, follow_symlinks=False)
        file.chmod(0o600)


_REMEDY = "convert it where it came from (qemu-img convert -O qcow2), and import the result"


def _why(said: str, error: Unavailable, output_bytes: int, limits: ConvertLimits) -> str:
    if TOO_LONG in said:
        return f"the image grows beyond the {output_bytes >> 20} MB that it may take"
    if error.details.get("status") in KILLED_BY_CPU:
        return f"converting the image needs more than {limits.cpu_s} s of processor time"
    return f"the image cannot be converted: {said}"


async def _alone(programs: Programs, root: bool) -> tuple[str, ...]:
    """A network without anything; refused in some containers, where the other limits must do."""
    if not root:
        return ()
    try:
        await programs.run("unshare", "--net", "true", limit_s=10)
    except Unavailable:
        programs.note("no network namespace can be made here: qemu-img runs without one")
        return ()
    return ("unshare", "--net", "--")


def _limits(output_bytes: int, limits: ConvertLimits) -> tuple[str, ...]:
    return (
        *("prlimit", f"--as={limits.memory_bytes}", f"--cpu={limits.cpu_s}", f"--fsize={output_bytes}"),
        *("--core=0", "--nofile=64", f"--stack={THREAD_STACK_BYTES}", "--", "env", "MALLOC_ARENA_MAX=1"),
    )


def _rights(root: bool) -> tuple[str, ...]:
    drop = (f"--reuid={NOBODY_UID}", f"--regid={NOBODY_UID}", "--clear-groups", "--bounding-set=-all")
    return ("setpriv", *(drop if root else ()), "--no-new-privs", "--pdeathsig", "KILL", "--")
