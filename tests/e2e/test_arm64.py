"""An arm64 guest, emulated, on a host of another architecture: built, booted, forked, reached as all others.

It takes minutes, and packages that nothing else needs: only ``./fluid test --arm64`` runs it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from backend.fleet.host import guest_image
from backend.hypervisor import (
    GuestImage,
)
from backend.hypervisor.host_probe import boot as boot_probe
from backend.images import Images
from backend.images.fat import image as fat_image
from backend.images.sources import read_release
from backend.paths import Paths
from tests.fix_guests import GuestHost, here, opened, own_network

pytestmark = pytest.mark.arm64

PREFIX = "fluid-arm64"
NETWORK = own_network(PREFIX, "flarm")
SIZE = {"cpu": 2, "memory_mb": 1024}
SSH_LIMIT_S = 120
PROBE_LIMIT_S = 30.0
FIRMWARE_LIMIT_S = 180
# The shell of the firmware, which starts when no disk has a boot loader, runs a file of this name.
SHELL_SCRIPT = b"echo the firmware reads its disk\r\nreset -s\r\n"


@dataclass(frozen=True)
class Lab(GuestHost):
    """With an image."""

    image: GuestImage


@pytest.fixture(scope="module")
async def image() -> GuestImage:
    """In a folder apart: no backend of this machine finds it among its sources."""
    began = time.monotonic()
    name = f"{read_release().image_name}-arm64"
    built = await Images(Paths.default().cache / "arm64").build(name, progress=print)
    assert not list(Path("/proc/sys/fs/binfmt_misc").glob("fluid-*")), "the machine's own list is as it was"
    assert built.arch == "arm64" and built.kernel and "console=ttyAMA0" in built.cmdline
    print(f"{built.name}, {built.packages} packages: {time.monotonic() - began:.1f} s")
    return guest_image(built)


@pytest.fixture(scope="module")
async def lab(image: GuestImage, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    folder = tmp_path_factory.mktemp("arm")
    daemon, host = await here(folder, PREFIX)
    async with opened(host, daemon, NETWORK, PREFIX, folder, SSH_LIMIT_S) as there:
        yield Lab(**vars(there), image=image)


async def test_the_probe_of_a_host_executes(lab: Lab) -> None:
    """On an arm64 host it decides whether guests have KVM: here it shows that it ends by itself."""
    took_s, probe = await boot_probe(lab.host._domains, "aarch64", "qemu", PROBE_LIMIT_S)
    assert probe.works, probe.reason
    print(f"probe: {took_s:.2f} s")


LOOK = """
uname -m; dpkg --print-architecture; tr '\\0' '\\n' </sys/firmware/devicetree/base/compatible
cut -d' ' -f1 /proc/consoles; grep -om1 'GIC[^ ]*' /proc/interrupts; nproc
id -u; hostname; systemctl is-system-running --wait || systemctl --failed
"""


async def test_a_guest_boots_and_root_logs_in(lab: Lab) -> None:
    identity = await lab.identity("cold", 11)
    began = time.monotonic()
    await lab.host.cold_boot(lab.image, identity, NETWORK.name, **SIZE, metadata={"role": "sandbox"})
    try:
        said = (await lab.ssh(identity, "uname -m")).strip()
        print(f"cold boot to root's first command, emulated: {time.monotonic() - began:.1f} s")
        assert said == "aarch64"
        words = (await lab.ssh(identity, LOOK)).split()
        print(words)
        architecture, machine, console, controller, cpus, uid, hostname, state = words[1:]
        assert (architecture, machine, console) == ("arm64", "linux,dummy-virt", "ttyAMA0")
        assert controller.startswith("GIC") and (cpus, uid) == ("2", "0")
        assert (hostname, state) == (identity.hostname, "running")
    finally:
        await lab.host.destroy(identity.name)


async def test_a_fork_is_somebody_of_its_own_and_goes_off_and_on(lab: Lab) -> None:
    """By the fastest way that the host goes: which one is told."""
    template = await lab.host.ensure_template(lab.image, **SIZE)
    print(f"template: {template.build_s} s")
    identity = await lab.identity("fork", 12)
    began = time.monotonic()
    login = partial(lab.ssh, identity, "true")
    await lab.host.fork(template, identity, NETWORK.name, metadata={"role": "sandbox"}, login=login)
    try:
        way = lab.host.fork_way
        print(f"fork to root's first command, emulated: {time.monotonic() - began:.1f} s")
        print(f"by {way.name}: {way.reason}")
        said = await lab.ssh(identity, "uname -m; hostname; cat /etc/machine-id; hostname -I")
        assert said.split() == ["aarch64", identity.hostname, identity.machine_id, identity.address]
        taken = await lab.host.snapshot(identity.name, "point")
        await lab.ssh(identity, "touch /root/later; sync")
        await lab.host.restore(identity.name, taken)
        assert (await lab.ssh(identity, "ls /root; uname -m", again=True)).split() == ["aarch64"]
        assert await lab.host.stop(identity.name)
        await lab.host.start(identity.name)
        assert (await lab.ssh(identity, "hostname", again=True)).strip() == identity.hostname
    finally:
        await lab.host.destroy(identity.name)


async def test_a_disk_with_a_boot_loader_of_its_own_is_started_by_the_firmware(
    lab: Lab, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.qcow2"
    raw = tmp_path / "disk.raw"
    raw.write_bytes(fat_image("ESP", {"startup.nsh": SHELL_SCRIPT}))
    convert = ("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(disk))
    process = await asyncio.create_subprocess_exec(*convert)
    assert await process.wait() == 0
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    image = GuestImage("firmware", "", disk, None, None, "", "arm64")
    heard = bytearray()
    began = time.monotonic()
    await lab.host.boot_once(
        image, fat_image("SEED", {}), **SIZE, limit_s=FIRMWARE_LIMIT_S, on_console=heard.extend
    )
    print(f"firmware, its shell and off again, emulated: {time.monotonic() - began:.1f} s")
    assert b"the firmware reads its disk" in heard
