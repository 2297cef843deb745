"""A disk that lies elsewhere: what is read of it is brought, no more than may be, and it reads the same."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from pathlib import Path

import pytest

from backend.disks import DiskReader
from backend.disks.door import Door
from backend.disks.paged import ASK, PAGE_BYTES
from backend.errors import DiskUnreadable, HypervisorFailed

KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nZm9yYmlkZGVu\n-----END OPENSSH PRIVATE KEY-----\n"
SHADOW, OURS, NAME = b"/etc/shadow", b"/home/ada/id", b"/etc/hostname"
LIMIT_S = 10
LOOKED_FOR = [b"/usr/bin/python3", b"/usr/bin/nothing", b"/etc"]


class Elsewhere:
    """Files with holes in place of originals; ``brought`` are the pages that were asked for."""

    def __init__(self, folder: Path, originals: list[Path], most: int = 1 << 20) -> None:
        self.layers = [folder / f"here-{one.name}" for one in originals]
        self.originals = dict(zip(self.layers, originals, strict=True))
        self.most = most
        self.brought: list[tuple[Path, int]] = []
        for layer, original in self.originals.items():
            layer.touch()
            os.truncate(layer, original.stat().st_size)

    async def bring(self, layer: Path, page: int) -> bool:
        if len(self.brought) == self.most:
            return False
        self.brought.append((layer, page))
        with self.originals[layer].open("rb") as source, layer.open("r+b") as target:
            source.seek(page * PAGE_BYTES)
            target.seek(page * PAGE_BYTES)
            target.write(source.read(PAGE_BYTES))
        return True


@pytest.fixture
def chain(lab, tmp_path) -> list[Path]:
    """A raw base of 256 MiB, with secrets among 100 MiB of noise on it, and an overlay with one more."""
    tree, noise = tmp_path / "machine", random.Random(7).randbytes(10 << 20)
    for name, data in (
        ("etc/hostname", b"web-01\n"),
        ("etc/shadow", b"root:$y$j9T$forbidden$hash:19000:0:99999:7:::\n"),
        ("usr/bin/python3.11", b"x"),
        *((f"srv/{number}.noise", noise) for number in range(10)),
        *((f"srv/{number}.key", KEY) for number in range(10)),
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    (tree / "usr/bin/python3").symlink_to("python3.11")
    base = lab.format(tree, size="256M")
    shutil.rmtree(tree)
    (tmp_path / "key").write_bytes(KEY)
    after = lab.edit(base, "mkdir /home", "mkdir /home/ada", f"write {tmp_path / 'key'} /home/ada/id")
    return [base, lab.overlay(base, base, after)]


async def test_it_reads_as_it_would_here_of_a_few_of_its_pages(chain, reader, tmp_path):
    far = Elsewhere(tmp_path, chain)
    told = await reader.survey(far.layers, LOOKED_FOR, far)
    assert len(far.brought) == len(set(far.brought)), "each is asked for once"
    assert told == await reader.survey(chain, LOOKED_FOR)
    spread = {b"/srv/%d.key" % number for number in range(10)}
    assert {path for path, _ in told.secrets} == {SHADOW, OURS, *spread} and not told.cut
    assert set(told.names) == {b"/usr/bin/python3", b"/etc"}
    name = await reader.read(far.layers, [NAME], 100, far)
    assert name == await reader.read(chain, [NAME], 100) == {NAME: b"web-01\n"}
    assert 0 < len(set(far.brought)) * PAGE_BYTES < chain[0].stat().st_size // 8


async def test_what_no_more_may_be_brought_for_is_cut_off_and_not_made_up(chain, reader, tmp_path):
    far = Elsewhere(tmp_path, chain)
    whole = await reader.survey(far.layers, LOOKED_FOR, far)
    counts = []
    for most in range(len(far.brought)):
        (tmp_path / str(most)).mkdir()
        fewer = Elsewhere(tmp_path / str(most), chain, most)
        try:
            told = await reader.survey(fewer.layers, LOOKED_FOR, fewer)
        except DiskUnreadable as error:
            assert "more of the disk would have to be brought here than may be" in error.message
            continue
        assert told.names == whole.names and told.cut and set(told.secrets) < set(whole.secrets)
        counts.append(len(told.secrets))
    assert counts == sorted(counts) and len(set(counts)) > 3


async def test_what_ends_the_bringing_ends_the_reading(lab, reader, tmp_path):
    far = Elsewhere(tmp_path, [lab.format(None, size="8M")])

    async def fail(layer: Path, page: int) -> bool:
        raise HypervisorFailed("read /srv/web.img: no", remedy="see there")

    far.bring = fail
    with pytest.raises(HypervisorFailed, match=r"read /srv/web\.img: no"):
        await reader.survey(far.layers, LOOKED_FOR, far)


async def test_a_host_that_answers_never_is_not_waited_for(lab, tmp_path):
    far = Elsewhere(tmp_path, [lab.format(None, size="8M")])

    async def never(layer: Path, page: int) -> bool:
        await asyncio.Event().wait()
        return True

    far.bring = never
    with pytest.raises(DiskUnreadable, match="reading the disk took longer than 1 s"):
        await DiskReader(timeout_s=1).survey(far.layers, LOOKED_FOR, far)


@pytest.mark.parametrize("ask", [ASK.pack(1, 0), ASK.pack(1 << 31, 0), b"\0" * 5])
async def test_a_worker_that_asks_for_what_there_is_not_is_not_answered(lab, tmp_path, ask):
    far = Elsewhere(tmp_path, [lab.format(None, size="8M")])
    door = Door(far.layers, far)
    worker = os.dup(door.theirs.fileno())
    try:
        os.write(worker, ask)
        with pytest.raises(DiskUnreadable, match="asked for a layer that there is not"):
            await asyncio.wait_for(door.answer(), LIMIT_S)
    finally:
        os.close(worker)
        door.close()
    assert far.brought == []
