"""Image chains: read as QEMU reads them, or refused with words; damaged ones never do harm."""

from __future__ import annotations

import asyncio
import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.disks import ContentLimits, DiskReader
from backend.errors import DiskUnreadable

DAMAGE_LIMIT_S = 20


@pytest.fixture
def small(lab, tmp_path) -> Path:
    tree = tmp_path / "small"
    (tree / "folder").mkdir(parents=True)
    for number in range(20):
        (tree / f"folder/{number}").write_text(f"content {number}\n" * 300)
    return lab.format(tree, size="16M")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-c",),
        ("-o", "cluster_size=4096"),
        ("-o", "cluster_size=512"),
        ("-o", "compat=0.10"),
        ("-o", "cluster_size=2M"),
    ],
)
async def test_every_form_of_qcow2_reads_as_the_raw_disk(lab, reader, small, options):
    image = lab.qcow2(small, *options)
    assert (await reader.manifest([image])).digest == (await reader.manifest([small])).digest
    path = b"/folder/7"
    assert (await reader.read([image], [path], 1 << 20))[path] == b"content 7\n" * 300


async def test_a_chain_of_overlays_over_a_raw_base(lab, reader, small):
    first = lab.edit(small, "rm /folder/1")
    second = lab.edit(first, "rm /folder/2")
    one = lab.overlay(small, small, first)
    two = lab.overlay(one, first, second)
    assert (await reader.manifest([small, one, two])).digest == (await reader.manifest([second])).digest


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (0, b"RAW!", "not qcow2"),
        (4, struct.pack(">I", 9), "version 9"),
        (32, struct.pack(">I", 2), "encrypted"),
        (72, struct.pack(">Q", 2), "corrupt"),
        (72, struct.pack(">Q", 4), "another file"),
        (72, struct.pack(">Q", 8), "compression"),
        (72, struct.pack(">Q", 16), "subclusters"),
        (72, struct.pack(">Q", 1 << 40), "unknown features"),
        (20, struct.pack(">I", 40), "clusters of"),
        (36, struct.pack(">I", 0), "first-level table"),
        (40, struct.pack(">Q", 1 << 50), "ends before"),
        (8, struct.pack(">Q", 500), "backing file"),
    ],
)
async def test_an_image_that_is_not_understood_is_refused(lab, reader, small, offset, value, words):
    image = lab.qcow2(small)
    data = bytearray(image.read_bytes())
    data[offset : offset + len(value)] = value
    image.write_bytes(data)
    with pytest.raises(DiskUnreadable, match=words):
        await reader.manifest([image])


async def test_a_backing_name_in_an_image_is_never_followed(lab, reader, small):
    other = lab.edit(small, "rm /folder/1")
    base, decoy = lab.qcow2(small), lab.qcow2(other)
    top = lab.overlay(decoy, other, other)  # names the decoy
    assert (await reader.manifest([base, top])).digest == (await reader.manifest([small])).digest


@pytest.mark.parametrize("table", ["mbr", "gpt"])
async def test_a_partition_is_found(lab, reader, small, table):
    start = 2048
    sectors = small.stat().st_size // 512
    head = bytearray(start * 512)
    head[510:512] = b"\x55\xaa"
    if table == "mbr":
        head[446:462] = struct.pack("<4xB3xII", 0x83, start, sectors)
    else:
        head[446:462] = struct.pack("<4xB3xII", 0xEE, 1, sectors + start - 1)
        head[512:520] = b"EFI PART"
        head[584:600] = struct.pack("<QII", 2, 4, 128)
        kind = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
        head[1024:1072] = kind + bytes(16) + struct.pack("<QQ", start, start + sectors - 1)
    image = lab.folder / "parts.raw"
    image.write_bytes(bytes(head) + small.read_bytes())
    assert (await reader.manifest([image])).digest == (await reader.manifest([small])).digest


@pytest.mark.parametrize("to", [6, 0, 0xFFFFFFFF], ids=["another that leads to itself", "end", "beyond"])
async def test_logical_partitions_are_found_and_a_chain_without_end_ends(lab, reader, small, to):
    sectors = small.stat().st_size // 512
    head = bytearray(2048 * 512)
    head[510:512] = b"\x55\xaa"
    head[446:478] = struct.pack("<4xB3xII4xB3xII", 0x83, 2048, sectors, 0x05, 4, 100)
    for at, kind, onwards in ((4, 0x83, to), (10, 0x8E, 6)):
        link = struct.pack("<4xB3xII4xB3xII", kind, 2, 8, 0x05 if onwards else 0, onwards, 1)
        head[at * 512 + 446 : at * 512 + 478], head[at * 512 + 510 : at * 512 + 512] = link, b"\x55\xaa"
    image = lab.folder / "parts.raw"
    image.write_bytes(bytes(head) + small.read_bytes())
    found = (await reader.survey([image], [])).elsewhere
    assert [(one.number, one.role, one.size) for one in found] == [
        (5, "data", 4096), *([(6, "data", 4096)] if to == 6 else []),
    ]  # fmt: skip


async def test_a_disk_that_can_be_read_two_ways_is_refused(lab, reader, small):
    entry = struct.pack("<4xB3xII", 0x83, 64, 1024)
    image = lab.patch(small, {446: entry, 510: b"\x55\xaa"})
    with pytest.raises(DiskUnreadable, match="partition table and a file system"):
        await reader.manifest([image])


async def test_a_truncated_image_is_refused(lab, reader, small):
    image = lab.qcow2(small)
    image.write_bytes(image.read_bytes()[: 300 << 10])
    with pytest.raises(DiskUnreadable):
        await reader.manifest([image])


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    flips=st.lists(
        st.tuples(st.integers(0, (256 << 10) - 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=12
    ),
    packed=st.booleans(),
)
def test_damage_gives_a_result_or_words_in_bounded_time(lab, small, flips, packed):
    """Metadata lies in the first 256 KiB of both forms."""
    image = lab.folder / ("damaged.qcow2" if packed else "damaged.raw")
    if not hasattr(lab, "pristine"):
        lab.pristine = {True: lab.qcow2(small).read_bytes(), False: small.read_bytes()}
    data = bytearray(lab.pristine[packed])
    for at, new in flips:
        data[at : at + len(new)] = new
    image.write_bytes(data)
    reader = DiskReader(timeout_s=DAMAGE_LIMIT_S)
    began = time.monotonic()
    try:
        manifest = asyncio.run(reader.manifest([image]))
        assert next(iter(manifest.entries)).path == b"/"
        asyncio.run(reader.compare([image], [image], contents=ContentLimits()))
    except DiskUnreadable as refused:
        assert refused.message
    assert time.monotonic() - began < 2 * DAMAGE_LIMIT_S
