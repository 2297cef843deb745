"""The real image builder: real packages, a real disk. Quick when this machine's cache holds the image."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.images import BuiltImage, Images
from backend.paths import Paths

CHECKOUT = Path(__file__).resolve().parents[2]
KILL_LIMIT_S = 120
BUILDER = """
import asyncio, sys
from pathlib import Path
from backend.images import Images
asyncio.run(Images(Path(sys.argv[1])).build(progress=lambda words: print(words, flush=True)))
"""


@pytest.fixture(scope="module")
async def image() -> BuiltImage:
    """The image of this machine's release, from the cache or new."""
    return await Images(Paths.default().images).build(progress=print)


@pytest.fixture
def second_folder(image: BuiltImage, tmp_path: Path) -> Iterator[Path]:
    """A folder without images that shares the cache's installed system: building there takes seconds."""
    folder = image.disk.parent / f"test-{os.getpid()}-{tmp_path.name}"
    folder.mkdir()
    (foundation,) = image.disk.parent.glob("foundation-*")
    subprocess.run(["cp", "-al", foundation, folder], check=True)
    yield folder
    subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)


@pytest.fixture
def raw_disk(image: BuiltImage, tmp_path: Path) -> Path:
    raw = tmp_path / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", image.disk, raw], check=True)
    return raw


def read(raw: Path, request: str) -> str:
    """What debugfs(8), a reader that is not ours, answers."""
    return subprocess.run(["debugfs", "-R", request, raw], capture_output=True, text=True, check=True).stdout


async def test_a_second_build_is_the_same_image_at_once(image: BuiltImage) -> None:
    images = Images(image.disk.parent)
    said: list[str] = []
    assert await images.build(progress=said.append) == image
    assert said == []
    await images.verify(image.name)


def test_the_disk_is_clean_and_carries_no_identity(raw_disk: Path) -> None:
    checked = subprocess.run(["e2fsck", "-fn", raw_disk], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert "Size: 0" in read(raw_disk, "stat /etc/machine-id")
    assert "ssh_host_" not in read(raw_disk, "ls /etc/ssh")


def test_the_guest_is_ready_for_an_administrator(raw_disk: Path) -> None:
    shadow = [line.split(":") for line in read(raw_disk, "cat /etc/shadow").splitlines()]
    assert {line[0]: line[1] for line in shadow if line[0] in ("root", "sandbox")} == {
        "root": "*",
        "sandbox": "*",
    }
    assert read(raw_disk, "cat /etc/sudoers.d/sandbox") == "sandbox ALL=(ALL) NOPASSWD:ALL\n"
    assert "TrustedUserCAKeys /etc/ssh/fluid_ca.pub" in read(
        raw_disk, "cat /etc/ssh/sshd_config.d/10-fluid.conf"
    )
    assert "_Packages" in read(raw_disk, "ls /var/lib/apt/lists"), "an install needs no apt-get update first"
    assert "Type: regular" in read(raw_disk, "stat /usr/local/sbin/fluid-guestd")
    wants = read(raw_disk, "ls /etc/systemd/system/multi-user.target.wants")
    assert "ssh.service" in wants
    assert "cron.service" in wants


@pytest.mark.full
async def test_a_build_killed_half_way_leaves_nothing_that_counts(second_folder: Path) -> None:
    builder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BUILDER, second_folder),
        stdout=asyncio.subprocess.PIPE,
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert builder.stdout is not None
    async with asyncio.timeout(KILL_LIMIT_S):
        while b"making the disk" not in await builder.stdout.readline():
            assert not builder.stdout.at_eof(), "the build ended early"
    builder.send_signal(signal.SIGKILL)
    await builder.wait()

    images = Images(second_folder)
    assert images.list() == []
    assert not list(second_folder.glob("*.qcow2"))
    assert list(second_folder.glob(".build-*")), "it was in the middle of its work"
    built = await images.build(progress=print)
    await images.verify(built.name)
    assert not list(second_folder.glob(".build-*"))


async def test_two_builds_at_once_make_one_image(second_folder: Path) -> None:
    said: list[str] = []
    images = Images(second_folder)
    first, second = await asyncio.gather(*(images.build(progress=said.append) for _ in range(2)))
    assert first == second
    assert said.count("making the disk") == 1
    assert "waiting for another build to end" in said
