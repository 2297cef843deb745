"""qcow2 overlays through qemu-img: formats are always named, never probed."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import struct
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from backend.errors import HypervisorFailed, MissingProgram, NoSpace, TimedOut
from backend.hypervisor.storage import FREE_MB_MIN

T = TypeVar("T")
QEMU_IMG_TIMEOUT_S = 30
# A qcow2 header, big-endian (docs/interop/qcow2.txt of QEMU)
MAGIC = b"QFI\xfb"
BACKING_FIELDS = struct.Struct(">QI")  # at 8: where the name is, and its length
BACKING_NAME_MAX = 1023
SIZE_FIELD = slice(24, 32)
HEAD_BYTES = 1 << 16  # the first cluster, which holds the name


async def create_overlay(overlay: Path, backing: Path) -> None:
    """An empty qcow2 file that stands on another one, which a guest may be writing to.

    A file of the same folder is named without it: such a chain means the same in any folder that holds it.
    """
    free_mb = shutil.disk_usage(overlay.parent).free >> 20
    if free_mb < FREE_MB_MIN:
        raise NoSpace(
            f"{overlay.parent} has {free_mb} MiB left, a guest needs {FREE_MB_MIN}",
            remedy="destroy sandboxes you do not need, or give it more space",
        )
    name = backing.name if backing.parent == overlay.parent else str(backing)
    # -u and a size: qemu-img does not open the backing file, which a running guest has locked.
    await _qemu_img(
        *("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2"),
        *(str(overlay), str(await asyncio.to_thread(virtual_size, backing))),
    )


async def empty_overlay(backing: Path, size: int) -> bytes:
    """The bytes of an empty qcow2 file of ``size`` that stands on a file of another host."""
    with tempfile.TemporaryDirectory(prefix="fluid-overlay-") as folder:
        overlay = Path(folder) / "overlay.qcow2"
        await _qemu_img(
            *("create", "-q", "-u", "-f", "qcow2", "-b", str(backing), "-F", "qcow2"),
            *(str(overlay), str(size)),
        )
        return await asyncio.to_thread(overlay.read_bytes)


def parse_head(data: bytes, name: str) -> tuple[int, str | None]:
    """The virtual size in bytes and the backing file's name, from a qcow2 file's first cluster."""
    if len(data) < SIZE_FIELD.stop or data[:4] != MAGIC:
        raise HypervisorFailed(f"layer {name} is not qcow2", remedy="destroy the sandbox")
    offset, length = BACKING_FIELDS.unpack_from(data, 8)
    if offset + length > len(data) or length > BACKING_NAME_MAX:
        raise HypervisorFailed(f"layer {name} has a strange backing name", remedy="destroy the sandbox")
    backing = data[offset : offset + length].decode() if offset else None
    return int.from_bytes(data[SIZE_FIELD], "big"), backing


async def backing_chain(top: Path) -> list[Path]:
    """All files that a disk is made of, the top first, also while a guest runs on it. HypervisorFailed where
    one is missing, is none, or stands on itself."""

    async def below(layer: Path) -> Path | None:
        try:
            return _named(layer, await asyncio.to_thread(_head, layer))
        except FileNotFoundError as error:
            raise HypervisorFailed(
                f"layer {layer} cannot be read: {error.strerror}", remedy="destroy the sandbox"
            ) from error

    return await follow(top, below)


async def follow(top: T, below: Callable[[T], Awaitable[T | None]]) -> list[T]:
    """From layer to layer, each on the one ``below`` it. HypervisorFailed where one stands on itself."""
    chain: list[T] = []
    layer: T | None = top
    while layer is not None:
        if layer in chain:
            raise HypervisorFailed(f"layer {layer} stands on itself", remedy="destroy the sandbox")
        chain.append(layer)
        layer = await below(layer)
    return chain


def backing_files(folder: Path) -> set[Path]:
    """What the disks in the folders of ``folder`` stand on, each on the file below it. Blocking: it reads the
    heads of all. HypervisorFailed for one that cannot be read."""
    found = set()
    for disk in folder.glob("*/disk-*.qcow2"):
        with contextlib.suppress(FileNotFoundError):  # a domain that is just removed
            if (below := backing_file(disk)) is not None:
                found.add(below)
    return found


def backing_file(disk: Path) -> Path | None:
    """The file that a qcow2 file stands on, whatever links lead there; none for one whose making was cut
    off."""
    head = _head(disk)
    below = _named(disk, head) if any(head) else None
    return None if below is None else below.resolve()


def _head(disk: Path) -> bytes:
    try:
        with disk.open("rb") as file:
            return file.read(HEAD_BYTES)
    except PermissionError as error:
        raise HypervisorFailed(
            f"layer {disk} cannot be read: {error.strerror}", remedy="run as the user who owns it"
        ) from error


def _named(disk: Path, head: bytes) -> Path | None:
    """The file that a qcow2 file says it stands on. HypervisorFailed for one that is none."""
    below = parse_head(head, str(disk))[1]
    return None if below is None else disk.parent / below


def virtual_size(path: Path) -> int:
    """The size in bytes of the disk that a qcow2 file holds."""
    try:
        with path.open("rb") as file:
            return int.from_bytes(file.read(SIZE_FIELD.stop)[SIZE_FIELD], "big")
    except OSError as error:
        raise HypervisorFailed(
            f"layer {path} cannot be read: {error.strerror}", remedy="restore another snapshot"
        ) from error


async def _qemu_img(*arguments: str) -> bytes:
    try:
        process = await asyncio.create_subprocess_exec(
            "qemu-img", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError:
        raise MissingProgram("qemu-img is not installed", remedy="install qemu-utils") from None
    try:
        async with asyncio.timeout(QEMU_IMG_TIMEOUT_S):
            output, errors = await process.communicate()
    except TimeoutError:
        raise TimedOut(
            f"qemu-img {arguments[0]} took longer than {QEMU_IMG_TIMEOUT_S} s", remedy="see the disk's load"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        words = errors.decode(errors="replace").strip()
        raise HypervisorFailed(
            f"qemu-img {arguments[0]}: {words}", remedy="see that the disk files are whole"
        )
    return output
