"""One libvirt storage pool of ours, of the kind ``dir``: plain files on a host where we have no login.

Everything is one flat folder. Volumes are raw to libvirt whatever is in them: it neither makes nor converts
a format for us. Only what libvirtd or QEMU made by themselves needs a refresh to be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import libvirt

from backend.errors import Conflict, HypervisorFailed
from backend.hypervisor.connection import Connection, looked_up
from backend.hypervisor.domain_xml import tree

T = TypeVar("T")

MOVE_TIMEOUT_S = 30.0  # for the smallest transfer
RATE_MIN_BYTES_S = 4 << 20  # a slower line is given up
BUSY_PAUSE_S = 0.05  # libvirt does not tell when a pool's jobs end


class GivenUp(Exception):
    """Nobody waits for this transfer any more."""


class Volumes:
    """The pool ``name`` at ``path`` on the host of ``connection``."""

    def __init__(self, connection: Connection, name: str, path: Path) -> None:
        self._connection = connection
        self.name = name
        self.path = path
        self._shares_blocks = True  # until the file system refuses

    async def ensure(self) -> None:
        """Define and start the pool where it is missing. Conflict for one of its name that lies elsewhere."""
        await self._connection.call(self._ensure, what=f"make the pool {self.name}")

    def _ensure(self, connection: libvirt.virConnect) -> None:
        pool = looked_up(
            lambda: connection.storagePoolLookupByName(self.name), libvirt.VIR_ERR_NO_STORAGE_POOL
        )
        if pool is None:
            pool = connection.storagePoolDefineXML(pool_xml(self.name, self.path))
        root = tree(pool.XMLDesc(0))
        if root.get("type") != "dir" or root.findtext("target/path") != str(self.path):
            raise Conflict(
                f"the host has a pool {self.name!r} that is not the folder {self.path}",
                remedy="remove that pool, or give this host another one in the config",
            )
        if not pool.isActive():
            pool.create(libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD)
        pool.setAutostart(1)

    async def vanish(self) -> list[str]:
        """Remove the pool, and its folder where that is named as it is, if nothing is in it; else what is."""
        await self.refresh()

        def work(pool: libvirt.virStoragePool) -> list[str]:
            if left := sorted(pool.listVolumes()):
                return left
            pool.destroy()
            if self.path.name == self.name:
                with contextlib.suppress(libvirt.libvirtError):  # a file that is no volume is in it
                    pool.delete(0)
            pool.undefine()
            return []

        return await self._call(work, "remove")

    async def free_mb(self) -> int:
        """Space left, in MiB, as of the last refresh or upload; what only root may fill counts too."""
        _, _, _, available = await self._call(lambda pool: pool.info(), "ask the size of")
        return int(available) >> 20

    # --- which there are -----------------------------------------------------------------------------

    async def names(self) -> set[str]:
        """Of all volumes that libvirt knows."""
        return set(await self._call(lambda pool: pool.listVolumes(), "list"))

    async def refresh(self, patience_s: float = 0.0) -> bool:
        """Let libvirt look at its folder. It refuses beside a job of the pool and is asked again for
        ``patience_s``, then False: what others made meanwhile is seen the next time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        while not await self._call(_refresh, "refresh"):
            if loop.time() >= until:
                return False
            await asyncio.sleep(BUSY_PAUSE_S)
        return True

    async def exists(self, name: str) -> bool:
        return await self._call(lambda pool: _find(pool, name) is not None, f"look for {name} in")

    async def allocated(self, name: str) -> int:
        """How many bytes of the disk it takes."""
        return int((await self._call(lambda pool: pool.storageVolLookupByName(name).info(), "look at"))[2])

    # --- making and removing -------------------------------------------------------------------------

    async def create(self, name: str) -> None:
        """An empty volume. Raises :class:`HypervisorFailed` with libvirt's words when there is one."""
        await self._call(lambda pool: pool.createXML(volume_xml(name, 0), 0).name(), f"make {name} in")

    async def replace(self, name: str) -> None:
        """An empty volume, whatever was there."""

        def work(pool: libvirt.virStoragePool) -> None:
            _delete(pool, name)
            pool.createXML(volume_xml(name, 0), 0)

        await self._call(work, f"make {name} in")

    async def delete(self, names: Iterable[str]) -> int:
        """Remove volumes, in order; one that is not there is no error. The bytes that the disk has again."""
        listed = list(names)
        if not listed:
            return 0
        return await self._call(lambda pool: sum(_delete(pool, name) for name in listed), "remove from")

    async def clone(self, source: str, target: str) -> None:
        """Copy a raw volume on the host, with shared blocks where its file system can, over ``target``."""
        size = await self.allocated(source)

        def work(pool: libvirt.virStoragePool, _: threading.Event) -> None:
            _delete(pool, target)
            pool.createXMLFrom(
                volume_xml(target, 0),
                pool.storageVolLookupByName(source),
                libvirt.VIR_STORAGE_VOL_CREATE_REFLINK if self._shares_blocks else 0,
            )

        try:
            await self._move(work, f"copy {source} in", size)
        except HypervisorFailed:
            if not self._shares_blocks:
                raise
            self._shares_blocks = False
            await self._move(work, f"copy {source} in", size)

    # --- moving bytes --------------------------------------------------------------------------------

    async def put(self, name: str, data: bytes) -> None:
        """A new volume that holds ``data``; whole, or not there."""
        await self._upload(name, len(data), io.BytesIO(data).read)

    async def send(self, name: str, file: Path) -> None:
        """A new volume that holds what a file of this machine holds; whole, or not there."""
        with file.open("rb") as source:
            await self._upload(name, os.fstat(source.fileno()).st_size, source.read)

    async def _upload(self, name: str, size: int, read: Callable[[int], bytes]) -> None:
        def work(pool: libvirt.virStoragePool, given_up: threading.Event) -> None:
            volume = pool.createXML(volume_xml(name, size), 0)
            try:
                _upload(pool, volume, size, read, given_up)
            except BaseException:
                _delete(pool, name)
                raise

        await self._move(work, f"upload {name} to", size)

    async def overwrite(self, name: str, data: bytes) -> None:
        """Other first bytes for a volume; the rest of it stays."""
        await self._move(
            lambda pool, given_up: _upload(
                pool, pool.storageVolLookupByName(name), len(data), io.BytesIO(data).read, given_up
            ),
            f"write to {name} in",
            len(data),
        )

    async def head(self, name: str, length: int) -> bytes:
        """The first bytes of a volume, fewer where it is shorter."""
        return await self.part(name, 0, length)

    async def part(self, name: str, offset: int, length: int) -> bytes:
        """Bytes of a volume, fewer where it is shorter."""
        return await self._move(
            lambda pool, given_up: part(pool.storageVolLookupByName(name), offset, length, given_up),
            f"read {name} in",
            length,
        )

    async def fetch(self, name: str, file: Path) -> None:
        """Write a whole volume to a file of this machine; its holes stay holes."""
        size = await self.allocated(name)

        await self._move(
            lambda pool, given_up: download(pool.storageVolLookupByName(name), file, given_up),
            f"download {name} from",
            size,
        )

    # --- calls ---------------------------------------------------------------------------------------

    async def _call(self, function: Callable[[libvirt.virStoragePool], T], verb: str) -> T:
        return await self._connection.call(
            lambda connection: function(connection.storagePoolLookupByName(self.name)),
            what=f"{verb} the pool {self.name}",
        )

    async def _move(
        self, function: Callable[[libvirt.virStoragePool, threading.Event], T], verb: str, size: int
    ) -> T:
        return await self._connection.transfer(
            lambda connection, given_up: function(connection.storagePoolLookupByName(self.name), given_up),
            what=f"{verb} the pool {self.name}",
            limit_s=move_limit_s(size),
        )


def move_limit_s(size: int) -> float:
    """How long so many bytes may take."""
    return MOVE_TIMEOUT_S + size / RATE_MIN_BYTES_S


def download(volume: libvirt.virStorageVol, file: Path, given_up: threading.Event) -> None:
    """Write a whole volume to a file of this machine; its holes stay holes. Blocking."""
    with _stream(volume) as stream, file.open("wb", buffering=0) as target:

        def leave_out(_stream: libvirt.virStream, length: int, _: object) -> None:
            target.truncate(target.seek(length, os.SEEK_CUR))

        volume.download(stream, 0, 0, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        stream.sparseRecvAll(_until(given_up, target.write), leave_out, None)


def part(volume: libvirt.virStorageVol, offset: int, length: int, given_up: threading.Event) -> bytes:
    """Bytes of a volume, fewer where it is shorter; of a host that sends more, none. Blocking."""
    received = bytearray()

    def take(piece: bytes) -> None:
        received.extend(piece)
        if len(received) > length:
            raise HypervisorFailed(
                f"the host sent more than {length} bytes where so many were asked for",
                remedy="see what runs there in place of libvirt",
            )

    with _stream(volume) as stream:
        volume.download(stream, offset, length, 0)
        stream.recvAll(_until(given_up, take), None)
    return bytes(received)


def pool_xml(name: str, path: Path) -> str:
    root = ET.Element("pool", type="dir")
    ET.SubElement(root, "name").text = name
    ET.SubElement(ET.SubElement(root, "target"), "path").text = str(path)
    return ET.tostring(root, encoding="unicode")


def volume_xml(name: str, size: int) -> str:
    """A raw volume of ``size`` bytes, none of them allocated; nobody but root and its guest reads it."""
    root = ET.Element("volume", type="file")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "capacity", unit="bytes").text = str(size)
    ET.SubElement(root, "allocation", unit="bytes").text = "0"
    target = ET.SubElement(root, "target")
    ET.SubElement(target, "format", type="raw")
    ET.SubElement(ET.SubElement(target, "permissions"), "mode").text = "0600"
    return ET.tostring(root, encoding="unicode")


def _find(pool: libvirt.virStoragePool, name: str) -> libvirt.virStorageVol | None:
    return looked_up(lambda: pool.storageVolLookupByName(name), libvirt.VIR_ERR_NO_STORAGE_VOL)


def _delete(pool: libvirt.virStoragePool, name: str) -> int:
    volume = _find(pool, name)
    if volume is None:
        return 0
    allocated = int(volume.info()[2])
    volume.delete(0)
    return allocated


def _refresh(pool: libvirt.virStoragePool) -> bool:
    """False while a job of the pool is under way."""
    try:
        pool.refresh(0)
    except libvirt.libvirtError as error:
        told = (error.get_error_domain(), error.get_error_code())
        if told == (libvirt.VIR_FROM_STORAGE, libvirt.VIR_ERR_INTERNAL_ERROR) and pool.isActive():
            return False
        raise
    return True


@contextlib.contextmanager
def _stream(thing: libvirt.virStoragePool | libvirt.virStorageVol) -> Iterator[libvirt.virStream]:
    """A stream that ends with the block: finished, or aborted when the block fails."""
    stream = thing.connect().newStream(0)
    try:
        yield stream
        stream.finish()
    except BaseException:
        with contextlib.suppress(libvirt.libvirtError):
            stream.abort()
        raise


def _upload(
    pool: libvirt.virStoragePool,
    volume: libvirt.virStorageVol,
    size: int,
    read: Callable[[int], bytes],
    given_up: threading.Event,
) -> None:
    """Write ``size`` bytes from the volume's beginning."""

    def piece(_stream: libvirt.virStream, length: int, _: object) -> bytes:
        if given_up.is_set():
            raise GivenUp
        return read(length)

    with _stream(pool) as stream:
        volume.upload(stream, 0, size, 0)
        stream.sendAll(piece, None)


def _until(
    given_up: threading.Event, take: Callable[[bytes], object]
) -> Callable[[libvirt.virStream, bytes, object], int]:
    """A handler of received pieces that stops when nobody waits."""

    def handler(_stream: libvirt.virStream, piece: bytes, _: object) -> int:
        if given_up.is_set():
            raise GivenUp
        take(piece)
        return 0

    return handler
