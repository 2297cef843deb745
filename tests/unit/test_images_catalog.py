"""What counts as an image, what does not, and when one is built anew."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import (
    ImageBroken,
    ImageNotFound,
    InvalidName,
    InvalidValue,
    MissingProgram,
    NoSpace,
    TimedOut,
)
from backend.images import BuiltImage, Images
from backend.images import build as building
from backend.images.build import Inputs, check_space
from backend.images.catalog import sha256_of
from backend.images.customize import payload_place, put
from backend.images.programs import Programs, require
from backend.images.rootfs import GUEST_OPTIONS, HOST_OPTIONS, kept_options
from backend.images.settings import Text
from backend.images.sources import Entry, Release, Selection
from backend.models import now

RELEASE = Release("debian", "12", "bookworm")
DUMP = """\
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://user:secret@proxy.test:3142";
Acquire::Check-Valid-Until "false";
APT::Architecture "amd64";
Dir::Cache "var/cache/apt";
"""


def inputs(**changes: object) -> Inputs:
    selection = Selection((Entry("http://archive.test", "bookworm", ("main",)),), ())
    return replace(Inputs(RELEASE, selection, DUMP, "amd64"), **changes)  # type: ignore[arg-type]


@pytest.fixture
def image(tmp_path: Path) -> BuiltImage:
    """A recorded image with small files of its own."""
    contents = {"disk.qcow2": b"QFI\xfb" + b"d" * 60, "kernel": b"k" * 10, "initrd": b"i" * 5}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    sums = [hashlib.sha256(data).hexdigest() for data in contents.values()]
    made = BuiltImage(
        name="debian-12",
        sha256=sums[0],
        disk=tmp_path / "disk.qcow2",
        kernel=tmp_path / "kernel",
        initrd=tmp_path / "initrd",
        cmdline="quiet",
        arch="amd64",
        built_at=now(),
        build_s=1.5,
        packages=3,
        size_bytes=64,
        recipe="recipe",
        sizes=(64, 10, 5),
        kernel_sha256=sums[1],
        initrd_sha256=sums[2],
    )
    Images(tmp_path).put(made)
    return made


async def test_a_recorded_image_is_listed_and_verifies(tmp_path: Path, image: BuiltImage) -> None:
    images = Images(tmp_path)
    assert images.list() == [image]
    await images.verify("debian-12")
    assert images.get("debian-12").view().path == str(image.disk)


def test_an_unknown_image_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound, match="nope") as caught:
        Images(tmp_path).get("nope")
    assert caught.value.remedy == "fluid images build"
    with pytest.raises(InvalidName):
        Images(tmp_path).get("../etc/passwd")


@pytest.mark.parametrize("damage", ["cut", "gone", "other", "record", "escape"])
def test_a_damaged_image_is_found_at_once_and_not_listed(
    tmp_path: Path, image: BuiltImage, damage: str
) -> None:
    record = tmp_path / "debian-12.json"
    match damage:
        case "cut":
            image.disk.write_bytes(b"QFI\xfb")
        case "gone":
            image.initrd.unlink()
        case "other":
            image.disk.write_bytes(b"x" * 64)
        case "record":
            record.write_text("{")
        case "escape":
            record.write_text(json.dumps({**image.record(), "disk": "../../etc/shadow"}))
    with pytest.raises(ImageBroken) as caught:
        Images(tmp_path).get("debian-12")
    assert caught.value.remedy == "fluid images build --force"
    assert Images(tmp_path).list() == []


async def test_a_change_of_one_byte_is_found_by_verify(tmp_path: Path, image: BuiltImage) -> None:
    image.kernel.write_bytes(b"k" * 9 + b"K")
    with pytest.raises(ImageBroken, match="kernel"):
        await Images(tmp_path).verify("debian-12")


async def test_an_image_of_another_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="plan9"):
        await Images(tmp_path).build("plan9", progress=print)
    assert not list(tmp_path.iterdir())


def test_too_little_space_is_said_with_both_figures(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match=r"needs 999999999 MB .* MB are free"):
        check_space(tmp_path, 999_999_999, 0)


def test_a_build_does_not_go_into_the_reserve(tmp_path: Path) -> None:
    free_mb = shutil.disk_usage(tmp_path).free >> 20
    check_space(tmp_path, 1, free_mb // 2)
    with pytest.raises(NoSpace, match=r"needs 1 MB .* beside the reserve of \d+ MB") as caught:
        check_space(tmp_path, 1, free_mb + 100)
    assert "free 1" in str(caught.value.remedy)


def test_missing_programs_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backend.images.programs.SEARCH_PATH", "/nonexistent")
    with pytest.raises(MissingProgram, match="mmdebstrap, qemu-img") as caught:
        require(("mmdebstrap", "qemu-img"))
    assert caught.value.remedy == "apt-get install --no-install-recommends mmdebstrap qemu-utils"


def test_each_input_changes_the_key_that_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fluid-guestd").write_text("one")
    base = inputs()
    before = base.foundation_key(), base.recipe(tmp_path)
    assert (inputs().foundation_key(), inputs().recipe(tmp_path)) == before

    other_source = inputs(selection=Selection((Entry("http://b.test", "bookworm", ("main",)),), ()))
    assert other_source.foundation_key() != before[0]
    assert inputs(release=Release("debian", "13", "trixie")).foundation_key() != before[0]
    assert inputs(arch="arm64").foundation_key() != before[0]

    (tmp_path / "fluid-guestd").write_text("two")
    assert base.foundation_key() == before[0]
    assert base.recipe(tmp_path) != before[1]
    (tmp_path / "fluid-guestd").write_text("one")
    assert base.recipe(tmp_path) == before[1]

    monkeypatch.setattr(building, "CMDLINE", "other")
    assert base.foundation_key() == before[0]
    assert base.recipe(tmp_path) != before[1]


def test_a_proxy_serves_the_build_and_never_reaches_the_guest() -> None:
    assert "proxy.test" in kept_options(DUMP, HOST_OPTIONS)
    assert kept_options(DUMP, GUEST_OPTIONS) == 'Acquire::Check-Valid-Until "false";\n'


def test_a_file_of_the_guest_never_follows_a_link_out_of_it(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.write_text("host")
    (root / "etc").mkdir(parents=True)
    (root / "etc/resolv.conf").symlink_to(outside)
    put(root, Text("etc/resolv.conf", "guest", 0o640))
    assert outside.read_text() == "host"
    assert (root / "etc/resolv.conf").read_text() == "guest"


def test_payload_files_go_to_their_places() -> None:
    assert payload_place("fluid-guestd") == ("usr/local/sbin/fluid-guestd", 0o755)
    assert payload_place("fluid-guestd.service") == ("etc/systemd/system/fluid-guestd.service", 0o644)
    with pytest.raises(InvalidValue, match=r"notes\.txt"):
        payload_place("notes.txt")


async def test_a_program_over_its_time_ends_with_all_its_children(tmp_path: Path) -> None:
    programs = Programs(tmp_path / "log")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    # The grandchild holds the pipe open: its end is seen as end of file.
    script = f"sh -c 'exec sleep 60' > {pipe} & exec sleep 60"
    with pytest.raises(TimedOut, match="sh did not finish within 0 s"):
        await programs.run("sh", "-c", script, limit_s=0.3)
    os.set_blocking(end, True)
    assert await asyncio.wait_for(asyncio.to_thread(os.read, end, 1), 5) == b""
    os.close(end)


async def test_a_failing_program_is_told_with_its_words_and_the_log(tmp_path: Path) -> None:
    programs = Programs(tmp_path / "build.log")
    with pytest.raises(Exception, match="status 3: no such mirror") as caught:
        await programs.run("sh", "-c", "echo no such mirror >&2; exit 3", limit_s=5)
    assert str(tmp_path / "build.log") in getattr(caught.value, "remedy", "")


def test_the_hash_is_the_files(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()
