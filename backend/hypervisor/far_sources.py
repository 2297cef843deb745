"""The disk of somebody else's domain on another machine, brought here or looked into. Nothing of it is
changed there.

A file is read through the pool of that host's that it lies in.
"""

from __future__ import annotations

import threading
from pathlib import Path

import libvirt

from backend.errors import ImageRefused, NoSpace, TooLarge, WrongState
from backend.hypervisor.connection import Connection, looked_up
from backend.hypervisor.domain_xml import tree
from backend.hypervisor.sources import BackupLimits
from backend.hypervisor.volumes import download, move_limit_s, part


async def fetch(connection: Connection, path: Path, into: Path, limits: BackupLimits) -> None:
    """Write a file of that host, which stands still meanwhile, to the new file ``into`` of this machine.

    Raises:
        ImageRefused: it is in no pool of that host's. TooLarge, NoSpace: before anything was moved.
        WrongState: it changed meanwhile.
    """
    before = await connection.call(lambda conn: _print(conn, path), what=f"look at {path}")
    allocated = before[0]
    if allocated > limits.bytes:
        raise TooLarge(
            f"{path} has {allocated >> 20} MB, at most {limits.bytes >> 20} MB are taken",
            remedy="raise limits.image_gb",
        )
    if allocated > limits.room_bytes:
        raise NoSpace(
            f"copying {path} needs {allocated >> 20} MB, {limits.room_bytes >> 20} are left",
            remedy="free space where the images lie, or lower limits.disk_reserve_mb",
        )

    def work(conn: libvirt.virConnect, given_up: threading.Event) -> None:
        download(_volume(conn, path), into, given_up)

    await connection.transfer(work, what=f"download {path}", limit_s=move_limit_s(allocated))
    if await connection.call(lambda conn: _print(conn, path), what=f"look at {path}") != before:
        raise WrongState(f"{path} changed while it was copied", remedy="try again")


async def size_bytes(connection: Connection, path: Path) -> int:
    """How long a file of that host is. Raises ImageRefused: it is in no pool of that host's."""

    def work(conn: libvirt.virConnect) -> int:
        return int(_volume(conn, path).infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])

    return await connection.call(work, what=f"look at {path}")


async def read(connection: Connection, path: Path, offset: int, length: int) -> bytes:
    """Bytes of a file of that host, fewer where it is shorter. Raises ImageRefused as :func:`size_bytes`."""
    return await connection.transfer(
        lambda conn, given_up: part(_volume(conn, path), offset, length, given_up),
        what=f"read {path}",
        limit_s=move_limit_s(length),
    )


def _volume(connection: libvirt.virConnect, path: Path) -> libvirt.virStorageVol:
    volume = looked_up(lambda: connection.storageVolLookupByPath(str(path)), libvirt.VIR_ERR_NO_STORAGE_VOL)
    if volume is None:
        raise ImageRefused(
            f"{path} is in no storage pool of that host, and is read through one",
            remedy=f"on that host: virsh pool-create-as for-fluid dir --target {path.parent}",
        )
    return volume


def _print(connection: libvirt.virConnect, path: Path) -> tuple[int, ...]:
    """How many bytes it takes, and what changes with its content."""
    volume = _volume(connection, path)
    times = tree(volume.XMLDesc(0)).findtext("target/timestamps/mtime", "0")
    return int(volume.info()[2]), *(int(part) for part in times.split("."))
