"""What another host's libvirt sends of a file is what was asked for, or nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from backend.disks import PAGE_BYTES
from backend.errors import DiskUnreadable, HypervisorFailed
from backend.fleet.far_disk import FarDisk
from backend.hypervisor.volumes import part

SIZE = 2 * PAGE_BYTES + 1000
PLACE = Path("/srv/web.img")


class Host:
    """Another host, whose file holds the number of each page; it sends what it was asked for."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self.asked: list[tuple[int, int]] = []

    async def source_file_bytes(self, path: Path) -> int:
        assert path == PLACE
        return self._size

    async def read_source_file(self, path: Path, offset: int, length: int) -> bytes:
        assert path == PLACE
        self.asked.append((offset, length))
        return bytes([1 + offset // PAGE_BYTES]) * length


async def test_each_page_is_brought_once_and_none_beyond_the_end(tmp_path: Path) -> None:
    host, here = Host(), tmp_path / "layer-0.raw"
    disk = FarDisk(cast("Any", host), SIZE)
    await disk.stand_for(PLACE, here)
    assert (here.stat().st_size, here.stat().st_mode & 0o777) == (SIZE, 0o600)
    assert [await disk.bring(here, page) for page in (2, 0, 2)] == [True, True, True]
    assert host.asked == [(0, PAGE_BYTES), (2 * PAGE_BYTES, 1000)]
    data = here.read_bytes()
    assert (data[:1], data[PAGE_BYTES : PAGE_BYTES + 1], data[-1000:]) == (b"\1", b"\0", b"\3" * 1000)
    for page in (3, 1 << 40):
        with pytest.raises(DiskUnreadable, match=r"is beyond the end of /srv/web\.img"):
            await disk.bring(here, page)
    assert len(host.asked) == 2


async def test_no_byte_beyond_the_limit_is_brought(tmp_path: Path) -> None:
    host, here = Host(), tmp_path / "layer-0.raw"
    disk = FarDisk(cast("Any", host), PAGE_BYTES + 999)
    await disk.stand_for(PLACE, here)
    assert [await disk.bring(here, page) for page in (1, 2, 0)] == [False, False, True]
    assert host.asked == [(0, PAGE_BYTES)]


@pytest.mark.parametrize("size", [1 << 62, 1 << 63, (1 << 64) - 1])
async def test_a_file_that_claims_to_be_longer_than_any_is_not_looked_into(tmp_path: Path, size: int) -> None:
    host = Host(size)
    with pytest.raises(DiskUnreadable, match=f"a file of {size >> 30} GB cannot be looked into from here"):
        await FarDisk(cast("Any", host), PAGE_BYTES).stand_for(PLACE, tmp_path / "layer-0.raw")
    assert host.asked == []


class Sender:
    """A volume and its stream, of which so many pieces come."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.ended = ""

    def connect(self) -> Sender:
        return self

    def newStream(self, _: int) -> Sender:  # noqa: N802 - libvirt's name
        return self

    def download(self, *_: object) -> None:
        """Nothing is asked of it."""

    def recvAll(self, take: Callable[[Sender, bytes, None], int], _: None) -> None:  # noqa: N802
        for piece in self._pieces:
            take(self, piece, None)

    def finish(self) -> None:
        self.ended = "finished"

    def abort(self) -> None:
        self.ended = "aborted"


def test_a_host_that_sends_more_than_was_asked_for_is_not_listened_to() -> None:
    for pieces, told in (([b"ab", b"cd"], b"abcd"), ([b"ab"], b"ab"), ([], b"")):
        sender = Sender(pieces)
        assert (part(cast("Any", sender), 0, 4, threading.Event()), sender.ended) == (told, "finished")
    sender = Sender([b"abc", b"de"])
    with pytest.raises(HypervisorFailed, match="sent more than 4 bytes"):
        part(cast("Any", sender), 0, 4, threading.Event())
    assert sender.ended == "aborted"
