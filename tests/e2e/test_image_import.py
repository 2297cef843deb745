"""A cloud image that knows nothing of us becomes a source: imported, forked, used, removed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backend.client import Fluid
from backend.client.blocking import FluidSandbox
from backend.errors import ImageInUse, InvalidValue, PreparationFailed
from backend.hypervisor import HELD_SUFFIX
from backend.images.sources import read_release
from tests.bench.stage import CHECKOUT, Stage
from tests.fix_cloud_image import cloud_image
from tests.leftovers import left_of

pytestmark = pytest.mark.full
IMPORT_LIMIT_S = 1500
GROWN_KB = 7 << 20  # of the 8 GiB that a sandbox has; the image came with 3


@pytest.fixture(scope="module")
async def stage() -> AsyncIterator[Stage]:
    """A backend without any image."""
    async with Stage() as stage:
        await stage.start()
        yield stage


@pytest.fixture(scope="module")
def fluid(stage: Stage) -> Fluid:
    return Fluid(stage.paths.operator_socket)


def left(stage: Stage) -> list[str]:
    """What is in the images' folder besides images, what holds them, locks and logs."""
    names = [path.name for path in stage.paths.images.iterdir()]
    return [name for name in names if not name.endswith((".lock", ".log", ".json", ".qcow2", HELD_SUFFIX))]


async def test_a_disk_that_does_not_prepare_itself_is_told_with_its_console_and_nothing_of_it_is_left(
    stage: Stage, fluid: Fluid, tmp_path: Path
) -> None:
    # One boot sector: it writes to the serial line, and switches the machine off through QEMU's ACPI port.
    code = (
        b"".join(b"\xba\xf8\x03\xb0" + bytes([byte]) + b"\xee" for byte in b"\r\nno system here\r\n")
        + b"\xba\x04\x06\xb8\x00\x20\xef\xf4"
    )
    disk = tmp_path / "nothing.raw"
    disk.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    with pytest.raises(PreparationFailed, match="nothing") as caught:
        await asyncio.to_thread(fluid.import_image, str(disk), "raw")
    assert "could not be prepared: booting it with the seed" in caught.value.message
    assert "neither an ext4 file system nor a Linux partition" in caught.value.message
    assert "no system here" in caught.value.details["console"]
    assert fluid.images() == []
    assert left(stage) == []
    assert not list(stage.paths.images.glob("*.qcow2"))
    assert left_of(await asyncio.to_thread(fluid.leftovers)) == []


async def test_a_cloud_image_becomes_a_source_like_any_other(stage: Stage, fluid: Fluid) -> None:
    source = await asyncio.to_thread(cloud_image)
    done = await asyncio.to_thread(
        subprocess.run,
        [
            sys.executable,
            "-m",
            "backend.cli",
            "images",
            "import",
            source,
            "--format",
            "qcow2",
            "--name",
            "cloud",
        ],
        cwd=CHECKOUT,
        env=stage.environment,
        capture_output=True,
        text=True,
        timeout=IMPORT_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    (image,) = await asyncio.to_thread(fluid.images)
    assert (image.name, image.kind, image.origin) == ("cloud", "imported", str(source))
    assert image.packages > 100
    assert left(stage) == []
    await asyncio.to_thread(use, fluid)
    (image,) = await asyncio.to_thread(fluid.images)
    assert image.sandboxes == []
    assert image.templates
    assert await asyncio.to_thread(fluid.remove_image, "cloud") > 100 << 20
    assert not list(stage.paths.images.glob("*.qcow2"))
    assert list((stage.paths.domains / "templates").glob("*/disk.qcow2")) == []
    assert left_of(await asyncio.to_thread(fluid.leftovers)) == []


def use(fluid: Fluid) -> None:
    """Two sandboxes of it: forks with identities of their own, whose diffs are read from the disk."""
    boxes = [fluid.create_sandbox("cloud", agent_id="e2e", name=name) for name in ("cloud-a", "cloud-b")]
    try:
        print(*(f"{box.noun.created_by} {box.noun.ready_s}" for box in boxes))
        assert [box.noun.created_by for box in boxes] == ["fork", "fork"]
        for box in boxes:
            who = box.run("hostname; cat /etc/machine-id; hostname -I").stdout.split()
            assert who == [box.noun.sandbox_name, box.noun.machine_id, box.noun.ip_address]
        first = boxes[0]
        assert first.run("test -f /etc/cloud/cloud-init.disabled && ss -ltn | grep -c 127.0.0.1:3128").stdout
        assert int(first.run("df -k --output=size / | tail -1").stdout) > GROWN_KB
        assert first.run("su sandbox -c 'sudo id -u'").stdout.strip() == "0"
        with pytest.raises(ImageInUse, match="cloud-a"):
            fluid.remove_image("cloud")
        first.snapshot("before")
        first.run("echo mark >/etc/fluid-mark; useradd ada; sync")
        changes = first.diff("before", "now")
        assert changes.read_from == "disk"
        assert "/etc/fluid-mark" in {change.path for change in changes.shown()}
        assert "ada" in {user.name for user in changes.users}
        again(fluid, first)
    finally:
        for box in boxes:
            box.destroy()


def again(fluid: Fluid, box: FluidSandbox) -> None:
    """Off and on: it boots by its own loader, and keeps who it is."""
    fluid.stop(box.id)
    fluid.start(box.id)
    assert box.run("hostname").stdout.strip() == box.noun.sandbox_name


async def test_another_release_of_the_host_s_distribution_is_built_from_its_sources(
    stage: Stage, fluid: Fluid
) -> None:
    host = read_release()
    other = next(name for name in ("debian-13", "debian-12", "ubuntu-24-04") if name != host.image_name)
    if not other.startswith(host.id):
        with pytest.raises(InvalidValue, match="cannot be built on this host"):
            await asyncio.to_thread(fluid.build_image, other)
        return
    image = await asyncio.to_thread(fluid.build_image, other)
    assert (image.name, image.kind) == (other, "built")
    box = await asyncio.to_thread(fluid.create_sandbox, other, agent_id="e2e", name="other-release")
    release = box.run(". /etc/os-release; echo $ID-$VERSION_ID; apt-get -qq check && echo fine").stdout
    assert release.split() == [other, "fine"]
    box.destroy()
    await asyncio.to_thread(fluid.remove_image, other)
