"""What makes a disk image of somebody else's a refused one: each file is crafted byte by byte."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.errors import ImageRefused
from backend.images.qcow2 import MAX_L1_BYTES, check_image

GIB = 1 << 30
CLUSTER = 65_536
DISK_BYTES = 1 << 20
L1_AT, L2_AT, DATA_AT = 3 * CLUSTER, 4 * CLUSTER, 5 * CLUSTER
BACKING, SIZE, CRYPT, L1_COUNT, SNAPSHOTS = (8, 8), (24, 8), (32, 4), (36, 4), (60, 4)
INCOMPATIBLE, AUTOCLEAR, HEADER_LENGTH = (72, 8), (88, 8), (100, 4)
VERSION, CLUSTER_BITS = (4, 4), (20, 4)

Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """A sound image of one data cluster, with fields of its header set otherwise and bytes put elsewhere."""

    def write(*fields: tuple[tuple[int, int], int], at: dict[int, bytes] | None = None, cut: int = 0) -> Path:
        image = bytearray(6 * CLUSTER)
        struct.pack_into(
            ">4sIQIIQIIQQIIQ", image, 0,
            b"QFI\xfb", 3, 0, 0, 16, DISK_BYTES, 0, 1, L1_AT, CLUSTER, 1, 0, 0,
        )  # fmt: skip
        struct.pack_into(">QQQII", image, 72, 0, 0, 0, 4, 112)
        struct.pack_into(">Q", image, L1_AT, L2_AT | 1 << 63)
        struct.pack_into(">Q", image, L2_AT, DATA_AT | 1 << 63)
        for (offset, length), value in fields:
            image[offset : offset + length] = value.to_bytes(length, "big")
        for offset, data in (at or {}).items():
            image[offset : offset + len(data)] = data
        path = tmp_path / "image.qcow2"
        path.write_bytes(image[: cut or len(image)])
        return path

    return write


def look(path: Path, kind: str = "qcow2", max_bytes: int = GIB) -> int:
    with path.open("rb") as file:
        return check_image(file.fileno(), kind, max_bytes)  # type: ignore[arg-type]


def extension(kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">II", kind, len(data)) + data


def test_a_sound_image_is_taken_with_its_size(put: Put) -> None:
    assert look(put()) == DISK_BYTES


TRIES = 5  # for a key, qemu-img measures the processor first, and gives up on a busy machine
REFUSED = [
    ([(BACKING, 300)], {300: b"/etc/shadow"}, "stands on a backing file"),
    ([(CRYPT, 1)], {}, "is encrypted"),
    ([(CRYPT, 2)], {}, "is encrypted"),
    ([(SNAPSHOTS, 2)], {}, "holds 2 internal snapshots"),
    ([(INCOMPATIBLE, 1 << 0)], {}, "was not closed properly"),
    ([(INCOMPATIBLE, 1 << 1)], {}, "is marked corrupt"),
    ([(INCOMPATIBLE, 1 << 2)], {}, "keeps its data in another file"),
    ([(INCOMPATIBLE, 1 << 3)], {104: b"\x07"}, "uses an unknown compression"),
    ([(INCOMPATIBLE, 1 << 5)], {}, "has unknown features 0x20"),
    ([(INCOMPATIBLE, 1 << 63)], {}, "has unknown features"),
    ([(AUTOCLEAR, 1)], {}, "holds bitmaps"),
    ([], {112: extension(0x23852875, bytes(24))}, "holds bitmaps"),
    ([], {112: extension(0x44415441, b"/dev/sda")}, "keeps its data in another file"),
    ([], {112: extension(0x0537BE77, bytes(16))}, "is encrypted"),
    ([], {112: extension(0x6803F857, bytes(48)) + extension(0x44415441, b"x")}, "keeps its data in another"),
    ([], {112: extension(0x12345678) + struct.pack(">II", 1, 0xFFFF_FFF0)}, "beyond its first cluster"),
    ([(VERSION, 4)], {}, "is qcow2 version 4"),
    ([(CLUSTER_BITS, 9)], {}, r"clusters of 2\^9 bytes"),
    ([(CLUSTER_BITS, 40)], {}, r"clusters of 2\^40 bytes"),
    ([(HEADER_LENGTH, 96)], {}, "a header of 96 bytes"),
    ([(HEADER_LENGTH, CLUSTER * 2)], {}, "a header of 131072 bytes"),
    ([(L1_COUNT, MAX_L1_BYTES // 8 + 1)], {}, "first-level table of 4194305 entries"),
    ([(L1_COUNT, 0xFFFF_FFFF)], {}, "first-level table of 4294967295 entries"),
    ([(L1_COUNT, 0)], {}, "first-level table of 0 entries where 1"),
    ([(SIZE, 1 << 62)], {}, "at most 1024 MB are taken"),
    ([(SIZE, 0)], {}, "a disk of 0 bytes"),
    ([], {0: b"KDMV"}, "does not begin as qcow2 does"),
    ([], {L1_AT: struct.pack(">Q", 1 << 50)}, "is cut off"),
    ([], {L2_AT: struct.pack(">Q", 1 << 50)}, "is cut off"),
    ([], {L2_AT: struct.pack(">Q", 1 << 62 | 1 << 40)}, "is cut off"),
]


@pytest.mark.parametrize(("fields", "at", "words"), REFUSED, ids=[row[2] for row in REFUSED])
def test_what_leads_elsewhere_or_is_not_known_is_refused_with_words(
    put: Put, fields: list[tuple[tuple[int, int], int]], at: dict[int, bytes], words: str
) -> None:
    with pytest.raises(ImageRefused, match=words) as caught:
        look(put(*fields, at=at))
    assert caught.value.remedy


@pytest.mark.parametrize("length", [0, 3, 71, 100, L1_AT + 4, L2_AT + 100, DATA_AT])
def test_a_file_that_ends_early_is_refused_wherever_it_ends(put: Put, length: int) -> None:
    path = put(cut=length) if length else put()
    if not length:
        path.write_bytes(b"")
    with pytest.raises(ImageRefused, match="is cut off"):
        look(path)


def test_a_raw_disk_is_taken_by_its_length_and_never_read_as_another_format(put: Put, tmp_path: Path) -> None:
    raw = tmp_path / "disk"
    raw.write_bytes(bytes(4096))
    assert look(raw, "raw") == 4096
    with pytest.raises(ImageRefused, match="at most 0 MB"):
        look(raw, "raw", 2048)
    with pytest.raises(ImageRefused, match="bears the mark of qcow2"):
        look(put(), "raw")


@pytest.mark.parametrize(
    "options",
    [
        "compat=0.10",
        "compression_type=zstd",
        "extended_l2=on,cluster_size=128k",
        "cluster_size=4k",
        "lazy_refcounts=on",
    ],
)
def test_what_qemu_img_makes_is_taken(tmp_path: Path, options: str) -> None:
    raw, made = tmp_path / "disk.raw", tmp_path / "made.qcow2"
    raw.write_bytes(bytes(range(256)) * 4096 + bytes(1 << 20))
    compress = ["-c"] if "zstd" in options else []
    subprocess.run(
        ["qemu-img", "convert", *compress, "-f", "raw", "-O", "qcow2", "-o", options, raw, made], check=True
    )
    assert look(made) == raw.stat().st_size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-b", "base.qcow2", "-F", "qcow2"], "stands on a backing file"),
        (["-o", "data_file=data.raw"], "keeps its data in another file"),
        (
            ["--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s"],
            "is encrypted",
        ),
    ],
)
def test_what_qemu_img_makes_of_more_than_one_file_is_refused(
    tmp_path: Path, options: list[str], words: str
) -> None:
    create = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*create, "base.qcow2", "2M"], check=True, cwd=tmp_path)
    tries = (
        subprocess.run([*create, *options, "made.qcow2", "2M"], check=False, cwd=tmp_path).returncode
        for _ in range(TRIES)
    )
    assert 0 in tries
    with pytest.raises(ImageRefused, match=words):
        look(tmp_path / "made.qcow2")


def test_snapshots_and_bitmaps_of_qemu_img_are_refused(tmp_path: Path) -> None:
    create = ["qemu-img", "create", "-q", "-f", "qcow2"]
    for name, change in (("s", ["snapshot", "-c", "before"]), ("b", ["bitmap", "--add"])):
        path = tmp_path / f"{name}.qcow2"
        subprocess.run([*create, path, "2M"], check=True)
        subprocess.run(["qemu-img", *change, path, *(["map"] if name == "b" else [])], check=True)
        with pytest.raises(ImageRefused, match=r"snapshot|bitmaps"):
            look(path)
