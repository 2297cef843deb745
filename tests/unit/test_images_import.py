"""What an import takes and refuses before and around the work: names, seeds, a guest's words, limits."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from backend.errors import ImageRefused, InvalidValue, NoSpace, TooLarge
from backend.images import fat, seed
from backend.images.convert import ConvertLimits, Layer, convert, output_limit
from backend.images.fetch import Staging, check_source
from backend.images.folder import workspace
from backend.images.imports import name_of
from backend.images.prepare import STEPS, TAIL_LINES, _Said
from backend.images.programs import Programs
from backend.images.qcow2 import Format

SUM = "0" * 64


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/srv/debian-12-genericcloud-amd64.qcow2", "debian-12-genericcloud-amd64"),
        ("https://cloud.test/24.04/Noble_Server.IMG?x=1#y", "noble-server"),
        ("/srv/--ä--.raw", "--ä--.raw"),
        ("/srv/" + "a" * 80 + ".img", "a" * 63),
        ("https://cloud.test/", "cloud-test"),
    ],
)
def test_a_name_is_made_of_the_file_s_where_one_can_be(source: str, name: str) -> None:
    assert name_of(source) == name


@pytest.mark.parametrize(
    ("source", "sha256", "words"),
    [
        ("relative.qcow2", "", "is not an absolute path"),
        ("https://cloud.test/x.img", "", "needs its checksum"),
        ("https://cloud.test/x.img", "abc", "is not a SHA-256"),
        ("file:///etc/shadow", SUM, "file: is not fetched"),
        ("ftp://cloud.test/x.img", SUM, "ftp: is not fetched"),
        ("https://user:secret@cloud.test/x.img", SUM, "holds a password"),
        ("http:///x.img", SUM, "http: is not fetched"),
    ],
)
def test_a_source_that_is_not_taken_is_refused_before_anything_begins(
    source: str, sha256: str, words: str
) -> None:
    with pytest.raises(InvalidValue, match=words) as caught:
        check_source(source, sha256)
    assert "secret" not in caught.value.message


def test_what_comes_is_counted_hashed_and_kept_with_its_holes(tmp_path: Path) -> None:
    path = tmp_path / "staged"
    with path.open("wb") as file:
        into = Staging(file, 64 << 20, 0)
        for chunk in (b"a" * 4096, bytes(32 << 20), b"b", bytes(4096)):
            into.write(chunk)
        found = into.end("")
    assert path.read_bytes() == b"a" * 4096 + bytes(32 << 20) + b"b" + bytes(4096)
    assert path.stat().st_blocks * 512 < 1 << 20
    assert found == subprocess.run(["sha256sum", path], capture_output=True, check=True).stdout[:64].decode()


def test_too_much_another_sum_and_a_full_disk_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "staged").open("wb") as file:
        with pytest.raises(TooLarge, match="more than 1 MB"):
            Staging(file, 1 << 20, 0).write(bytes((1 << 20) + 1))
        with pytest.raises(ImageRefused, match=f"not {SUM}"):
            Staging(file, 1 << 20, 0).end(SUM)
        with pytest.raises(NoSpace, match="its reserve of"):
            Staging(file, 1 << 20, 1 << 60).write(b"x")


def names_of(image: bytes) -> dict[str, bytes]:
    """What a FAT16 image holds, read by the specification and not by our writer's constants."""
    sector, per_cluster, reserved, fats, entries = struct.unpack_from("<HBHBH", image, 11)
    fat_sectors = struct.unpack_from("<H", image, 22)[0]
    root = (reserved + fats * fat_sectors) * sector
    data = root + entries * 32
    found, name = {}, b""
    for at in range(root, data, 32):
        entry = image[at : at + 32]
        if entry[11] == 0x0F:
            name = entry[1:11] + entry[14:26] + entry[28:32] + name
        elif entry[0] and not entry[11] & 0x08:
            cluster, size = struct.unpack_from("<HI", entry, 26)
            content = b""
            while 2 <= cluster < 0xFFF8 and size:
                start = data + (cluster - 2) * per_cluster * sector
                content += image[start : start + per_cluster * sector]
                cluster = struct.unpack_from("<H", image, reserved * sector + cluster * 2)[0]
            found[name.decode("utf-16-le").split("\0")[0]], name = content[:size], b""
    return found


def test_the_seed_s_disk_holds_its_files_under_their_long_names(tmp_path: Path) -> None:
    files = {"user-data": b"u" * 70_000, "meta-data": b"m", "network-config": b"n" * 512, "empty": b""}
    image = fat.image("cidata", files)
    assert names_of(image) == files
    path = tmp_path / "seed"
    path.write_bytes(image)
    told = subprocess.run(["blkid", "-p", "-o", "export", path], capture_output=True, text=True, check=True)
    assert {"TYPE=vfat", "LABEL=cidata"} <= set(told.stdout.split())


def test_a_seed_that_is_too_large_is_refused() -> None:
    with pytest.raises(TooLarge):
        fat.image("cidata", {"user-data": bytes(5 << 20)})


def test_the_seed_installs_the_daemon_and_leaves_its_proof() -> None:
    told = names_of(seed.seed_image("f00d"))
    assert told["network-config"] == b'{"config": "disabled"}'
    head, _, body = told["user-data"].partition(b"\n")
    assert head == b"#cloud-config"
    config = json.loads(body)
    assert config["runcmd"] == [["sh", "/run/fluid/prepare", "f00d"]]
    modes = {file["path"]: file["permissions"] for file in config["write_files"]}
    assert modes[seed.DAEMON] == "0755"
    assert modes["/etc/sudoers.d/sandbox"] == "0440"
    assert "/etc/ssh/fluid_ca.pub" in modes
    assert "/etc/systemd/system/fluid-guestd.service" in modes


def test_the_script_in_the_guest_is_a_shell_s_and_says_only_known_steps() -> None:
    subprocess.run(["sh", "-n", seed.SCRIPT], check=True)
    lines = seed.SCRIPT.read_text().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("begin ")] == list(STEPS)


def test_a_guest_s_console_is_shown_as_its_words_and_moves_nothing_but_known_steps() -> None:
    told: list[str] = []
    said = _Said(told.append)
    said.hear(b"boot\x1b[2J\r\nfluid: step us")
    said.hear(b"ers\nfluid: step rm -rf\nfluid: step nowhere\n")
    said.hear(b"".join(b"line %d\n" % number for number in range(40)) + b"fluid: failed ssh\r\n")
    assert told[1:] == [STEPS["users"]]
    assert said.failed
    failure = said.failure("noble", "why")
    assert STEPS["ssh"] in failure.message
    assert "0 s after its start: why" in failure.message
    assert failure.details["console"] == [
        *(f"line {n}" for n in range(41 - TAIL_LINES, 40)),
        "fluid: failed ssh",
    ]
    assert "\x1b" not in str(failure.details)


async def made_by(
    tmp_path: Path,
    data: bytes,
    kind: Format = "raw",
    limits: ConvertLimits | None = None,
    room: int = 1 << 30,
) -> Path:
    async with workspace(tmp_path, ".test-") as work:
        (work / "source").write_bytes(data)
        made = await convert(
            Programs(work / "log"),
            work,
            [Layer("source", kind)],
            "made",
            output_bytes=room,
            limits=limits or ConvertLimits(),
        )
        return made.rename(tmp_path / "made")


async def test_a_raw_disk_becomes_a_qcow2_of_ours(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096
    made = await made_by(tmp_path, data)
    assert made.owner() == Path(tmp_path).owner()
    assert made.stat().st_mode & 0o777 == 0o600
    back = tmp_path / "back"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", made, back], check=True)
    assert back.read_bytes() == data


async def test_its_threads_fit_into_a_third_of_its_memory_however_many_a_disk_makes_of_them(
    tmp_path: Path,
) -> None:
    data = os.urandom(64 << 20)
    limits = ConvertLimits(memory_bytes=ConvertLimits().memory_bytes // 3)
    assert (await made_by(tmp_path, data, limits=limits)).stat().st_size > len(data)


CLUSTER = 65_536


def same_everywhere(entry: int, count: int, cluster: bytes, tables: int = 1) -> bytes:
    """A small qcow2 of ``tables`` times ``count`` clusters that are all the one at its end: ``entry`` leads
    there in each of the tables, which are one, too."""
    image = bytearray(5 * CLUSTER) + cluster
    size = tables * count * CLUSTER
    header = (b"QFI\xfb", 3, 0, 0, 16, size, 0, tables, 3 * CLUSTER, CLUSTER, 1, 0, 0)
    struct.pack_into(">4sIQIIQIIQQIIQ", image, 0, *header)
    struct.pack_into(">QQQII", image, 72, 0, 0, 0, 4, 104)
    struct.pack_into(f">{tables}Q", image, 3 * CLUSTER, *[4 * CLUSTER] * tables)
    struct.pack_into(f">{count}Q", image, 4 * CLUSTER, *[entry] * count)
    return bytes(image)


async def test_an_image_that_grows_beyond_its_limit_is_refused(tmp_path: Path) -> None:
    """A small file that says it holds 64 MB: every entry of its table names the same cluster."""
    with pytest.raises(ImageRefused, match="beyond the 16 MB"):
        await made_by(tmp_path, same_everywhere(5 * CLUSTER, 1024, b"x" * CLUSTER), "qcow2", room=16 << 20)
    assert not list(tmp_path.glob(".test-*"))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (ConvertLimits(memory_bytes=32 << 20), "cannot be converted"),
        (ConvertLimits(wall_s=0), "longer than 0 s"),
    ],
)
async def test_each_limit_of_the_conversion_ends_it(
    tmp_path: Path, limits: ConvertLimits, words: str
) -> None:
    with pytest.raises(ImageRefused, match=words):
        await made_by(tmp_path, bytes(8 << 20), limits=limits)


async def test_a_conversion_that_needs_more_processor_time_than_it_may_have_ends(tmp_path: Path) -> None:
    """4 GB of zeros, each cluster of them packed, of which nothing is written."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = pack.compress(bytes(CLUSTER)) + pack.flush()
    image = same_everywhere(1 << 62 | 5 * CLUSTER, 8192, packed.ljust(512, b"\0"), tables=8)
    with pytest.raises(ImageRefused, match=r"more than 1 s of processor time"):
        await made_by(tmp_path, image, "qcow2", ConvertLimits(cpu_s=1))
    assert not list(tmp_path.glob(".test-*"))


async def test_what_is_not_the_format_that_was_named_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageRefused, match="cannot be converted"):
        await made_by(tmp_path, bytes(1 << 20), "qcow2")


def test_the_output_may_be_as_long_as_the_disk_and_as_the_reserve_allows(tmp_path: Path) -> None:
    assert output_limit(tmp_path, 1 << 20, 0) == (1 << 20) + (64 << 20)
    assert output_limit(tmp_path, 1 << 20, 1 << 60) == 0


async def test_the_work_of_a_process_that_died_is_swept_and_that_of_a_living_one_stays(
    tmp_path: Path,
) -> None:
    (tmp_path / ".test-dead").mkdir()
    async with workspace(tmp_path, ".test-") as first, workspace(tmp_path, ".test-") as second:
        assert not (tmp_path / ".test-dead").exists()
        assert first.exists()
        assert second.exists()
    assert not list(tmp_path.glob(".test-*"))
