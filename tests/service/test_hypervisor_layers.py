"""Which disk layers go when nothing stands on them any more, with real qcow2 files."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest

from backend.errors import HypervisorFailed
from backend.hypervisor.layers import BLOCK_BYTES, link_layers, loose, mark_of, sweep
from backend.hypervisor.merging import runs
from backend.hypervisor.overlays import backing_chain, create_overlay


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A domain's folder with one layer, on an image elsewhere."""
    image, folder = tmp_path / "image.qcow2", tmp_path / "domain"
    folder.mkdir()
    process = await asyncio.create_subprocess_exec(
        "qemu-img", "create", "-q", "-f", "qcow2", str(image), "1G"
    )
    assert await process.wait() == 0
    await create_overlay(disk(folder, 0), image)
    return folder


def disk(folder: Path, number: int) -> Path:
    return folder / f"disk-{number}.qcow2"


def left(folder: Path) -> set[int]:
    return {int(path.stem.removeprefix("disk-")) for path in folder.glob("disk-*")}


async def test_a_layer_goes_with_the_last_that_stands_on_it(folder: Path) -> None:
    """0 carries s1; 1 and 2 stand on it, 1 carries s2, 2 is the running disk."""
    for number, below in ((1, 0), (2, 0)):
        await create_overlay(disk(folder, number), disk(folder, below))
    for name, number in (("s1", 0), ("s2", 1)):
        mark_of(folder, name).symlink_to(disk(folder, number).name)
    size = disk(folder, 1).stat().st_blocks * BLOCK_BYTES
    assert await sweep(folder, [disk(folder, 2)]) == 0
    mark_of(folder, "s1").unlink()
    assert await sweep(folder, [disk(folder, 2)]) == 0 and left(folder) == {0, 1, 2}
    mark_of(folder, "s2").unlink()
    assert await sweep(folder, [disk(folder, 2)]) == size > 0
    assert left(folder) == {0, 2}


@pytest.mark.parametrize("seed", range(3))
async def test_what_stays_of_any_tree_is_what_is_stood_on(folder: Path, seed: int) -> None:
    draw = random.Random(seed)
    parent = {0: 0}
    for number in range(1, 9):
        parent[number] = draw.randrange(number)
        await create_overlay(disk(folder, number), disk(folder, parent[number]))
    kept = draw.sample(range(9), 3)
    for number in kept[1:]:
        mark_of(folder, f"s{number}").symlink_to(disk(folder, number).name)
    expected = {0}
    for number in kept:
        while number:
            expected.add(number)
            number = parent[number]
    await sweep(folder, [disk(folder, kept[0])])
    assert left(folder) == expected
    for number in kept:
        assert (await backing_chain(disk(folder, number)))[0] == disk(folder, number)


async def test_layers_that_may_become_one_are_the_domains_own_and_nothing_else_stands_on_them(
    folder: Path, tmp_path: Path
) -> None:
    """0 to 9 on each other, 9 is the running disk. 2 is kept, 12 stands on 4 besides, 7 is another's too."""
    for number in range(1, 10):
        await create_overlay(disk(folder, number), disk(folder, number - 1))
    await create_overlay(disk(folder, 12), disk(folder, 4))
    mark_of(folder, "s").symlink_to(disk(folder, 2).name)
    mark_of(folder, "other").symlink_to(disk(folder, 12).name)
    (tmp_path / "other").mkdir()
    os.link(disk(folder, 7), tmp_path / "other" / disk(folder, 7).name)
    layers = await backing_chain(disk(folder, 9))
    found = loose(folder, layers)
    assert {layers.index(layer) for layer in found} == {9 - number for number in (0, 1, 3, 5, 6, 8)}
    assert found[disk(folder, 0)] == disk(folder, 0).stat().st_blocks * BLOCK_BYTES > 0
    one_each = [[6, 5], [1, 0]]
    assert [merged.layers for merged in runs(layers, found)] == [
        tuple(disk(folder, number) for number in numbers) for numbers in one_each
    ]


async def test_a_chain_that_leads_nowhere_or_to_itself_is_said_to(folder: Path) -> None:
    for number in (1, 2):
        await create_overlay(disk(folder, number), disk(folder, number - 1))
    disk(folder, 0).write_bytes(disk(folder, 1).read_bytes().replace(b"disk-0.qcow2", b"disk-2.qcow2"))
    with pytest.raises(HypervisorFailed, match="stands on itself"):
        await backing_chain(disk(folder, 2))
    disk(folder, 0).write_bytes(bytes(1 << 17))
    with pytest.raises(HypervisorFailed, match=r"disk-0\.qcow2 is not qcow2"):
        await backing_chain(disk(folder, 2))
    disk(folder, 0).unlink()
    with pytest.raises(HypervisorFailed, match=r"disk-0\.qcow2 cannot be read: No such file"):
        await backing_chain(disk(folder, 2))


@pytest.mark.parametrize("elsewhere", [None, "/dev/shm"])  # the second is another file system
async def test_a_branch_stands_without_the_folder_it_came_from(
    folder: Path, tmp_path: Path, elsewhere: str | None
) -> None:
    await create_overlay(disk(folder, 1), disk(folder, 0))
    layers = await backing_chain(disk(folder, 1))
    with tempfile.TemporaryDirectory(dir=elsewhere or tmp_path) as name:
        link_layers(layers, Path(name))
        await create_overlay(disk(Path(name), 2), disk(Path(name), 1))
        shutil.rmtree(folder)
        chain = await backing_chain(disk(Path(name), 2))
        assert chain == [*(disk(Path(name), number) for number in (2, 1, 0)), layers[-1]]


async def test_nothing_goes_while_a_chain_is_not_understood(folder: Path) -> None:
    await create_overlay(disk(folder, 1), disk(folder, 0))
    await create_overlay(disk(folder, 2), disk(folder, 0))
    disk(folder, 0).write_bytes(b"no qcow2")
    with pytest.raises(HypervisorFailed):
        await sweep(folder, [disk(folder, 1)])
    mark_of(folder, "s1").symlink_to("disk-9.qcow2")
    with pytest.raises(HypervisorFailed, match="disk-9"):
        await sweep(folder, [])
    assert left(folder) == {0, 1, 2}
