"""The disk layers in a domain's folder: which of them anything still stands on, and what goes.

Each snapshot leaves a symbolic link there, ``NAME.layer``, to the layer it froze. A layer is needed while the
domain's disk or one of these links leads to it; the links of another folder to the same file count by
themselves, in the file system.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from backend.errors import HypervisorFailed
from backend.hypervisor.overlays import backing_chain, backing_file
from backend.hypervisor.storage import LAYER_SUFFIX, TEMPLATE_DISK

BLOCK_BYTES = 512  # of st_blocks (stat(2))

FileId: TypeAlias = tuple[int, int]  # device and inode


def beyond_source(layers: Sequence[Path], image: str) -> list[Path]:
    """Of a disk's layers (top first) those that are neither its own, the top one, nor frozen for everybody: a
    template's disk, and that of the image with this SHA-256. Names tell, in a folder as in a pool."""
    frozen = re.compile(rf"(.+-template-[^.]+\.)?{re.escape(TEMPLATE_DISK)}|.+-{image[:16]}\.qcow2")
    return [layer for layer in layers[1:] if not frozen.fullmatch(layer.name)]


def mark_of(folder: Path, snapshot: str) -> Path:
    """The link by which a snapshot keeps its layer."""
    return folder / f"{snapshot}{LAYER_SUFFIX}"


def link_layers(layers: Sequence[Path], folder: Path) -> None:
    """Give ``folder`` the frozen layers (top first) that lie together with the top one, under their names."""
    for layer in layers:
        if layer.parent != layers[0].parent:
            return  # a template's or an image's: everybody stands on those
        try:
            os.link(layer, folder / layer.name)
        except OSError:  # another file system, or protected hard links (proc_sys_fs(5)) and not our file
            shutil.copyfile(layer, folder / layer.name)


async def sweep(folder: Path, tops: Sequence[Path]) -> int:
    """Remove the layers that neither a disk of ``tops`` nor a snapshot stands on; the bytes that this freed.

    A chain that cannot be read raises HypervisorFailed before anything is removed.
    """
    needed: set[FileId] = set()
    for top in [*tops, *await asyncio.to_thread(_kept, folder)]:
        if _file(top) not in needed:
            needed.update(_file(layer) for layer in await backing_chain(top))
    return await asyncio.to_thread(_remove_others, folder, needed)


def loose(folder: Path, layers: Sequence[Path]) -> dict[Path, int]:
    """See :meth:`backend.hypervisor.storage.HostFiles.loose_layers`. Blocking."""
    kept = {_file(layer) for layer in _kept(folder)}
    above: dict[FileId, set[FileId]] = {}
    for disk in folder.glob("disk-*.qcow2"):
        if (below := backing_file(disk)) is not None:
            above.setdefault(_file(below), set()).add(_file(disk))
    found = {}
    for upper, layer in pairwise(layers):
        facts, this = layer.stat(), _file(layer)
        is_ours = layer.parent == folder and facts.st_nlink == 1
        if is_ours and this not in kept and above.get(this) == {_file(upper)}:
            found[layer] = facts.st_blocks * BLOCK_BYTES
    return found


def _kept(folder: Path) -> list[Path]:
    """The layers that snapshots keep."""
    return [mark.resolve() for mark in folder.glob(f"*{LAYER_SUFFIX}")]


def _remove_others(folder: Path, needed: set[FileId]) -> int:
    return sum(remove(layer) for layer in folder.glob("disk-*.qcow2") if _file(layer) not in needed)


def remove(path: Path) -> int:
    """Unlink a file; the bytes that the disk has again, none while it has another name."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    path.unlink(missing_ok=True)
    return found.st_blocks * BLOCK_BYTES if found.st_nlink == 1 else 0


def _file(path: Path) -> FileId:
    """What a path means, however it is spelled."""
    try:
        found = path.stat()
    except OSError as error:
        raise HypervisorFailed(
            f"layer {path} cannot be read: {error.strerror}", remedy="destroy the sandbox"
        ) from error
    return found.st_dev, found.st_ino
