"""A machine that runs with QEMU's own agent in it: its copy is made between a freeze and a thaw."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest

from backend.hypervisor import BackupLimits, Copying, Hypervisor, PrivateLibvirt
from tests.fix_cloud_image import PARTITION_AT, cloud_image
from tests.fix_foreign import foreign_xml

pytestmark = pytest.mark.full
NAME, MEMORY_MB = "Web.Production", 768
BOOT_S, COPY_S, AGENT_S, LOOK_S = 420.0, 300.0, 10, 1.0
LIMITS = BackupLimits(bytes=8 << 30, room_bytes=8 << 30, total_s=COPY_S)
# ext4: the superblock is at 1024, s_feature_incompat at 0x60 in it; 4: the journal has to be replayed.
FEATURES_AT, NEEDS_RECOVERY = 1024 + 0x60, 4


@pytest.fixture(scope="module")
async def web() -> AsyncIterator[tuple[Hypervisor, libvirt.virDomain, Path]]:
    """A whole system that somebody else made, booted, and its agent has answered."""
    source = await asyncio.to_thread(cloud_image)
    with tempfile.TemporaryDirectory(prefix="fluid-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        daemon = PrivateLibvirt(folder / "lv", hide_kvm=True)
        uri = await daemon.start()
        hypervisor = Hypervisor(uri, folder=folder / "ours", virt_type="qemu", prefix="fluid-0a0a0b")
        await hypervisor.open()
        connection = libvirt.open(uri)
        disk = folder / "web.qcow2"
        await asyncio.to_thread(shutil.copyfile, source, disk)
        xml = foreign_xml(NAME, [(disk, "qcow2")], agent=folder / "agent", memory_mb=MEMORY_MB)
        domain = connection.createXML(xml, 0)
        try:
            async with asyncio.timeout(BOOT_S):
                while (await hypervisor.source(NAME)).agent != "connected":
                    await asyncio.sleep(LOOK_S)
            yield hypervisor, domain, folder
        finally:
            domain.destroy()
            connection.close()
            await hypervisor.close()
            await daemon.stop()


async def test_a_copy_of_a_machine_with_an_agent_needs_no_recovery_and_the_machine_goes_on(
    web: tuple[Hypervisor, libvirt.virDomain, Path],
) -> None:
    hypervisor, domain, folder = web
    source = await hypervisor.source(NAME)
    copying = Copying(folder / "copy")
    done = await hypervisor.back_up_source(source, "vda", copying, folder / "frozen.qcow2", LIMITS)
    assert not copying.frozen and not copying.writing
    print(f"quiesced: frozen for {done.frozen_s:.2f} s, copied in {done.took_s:.1f} s, emulated")
    assert done.unquiesced == "" and 0 < done.frozen_s < LOOK_S * 5
    assert domain.isActive() and asked(domain, "guest-fsfreeze-status") == "thawed"
    assert not needs_recovery(folder / "frozen.qcow2")

    unasked = replace(source, agent="disconnected")
    done = await hypervisor.back_up_source(unasked, "vda", copying, folder / "running.qcow2", LIMITS)
    assert done.unquiesced == "QEMU's agent does not answer in it"
    assert needs_recovery(folder / "running.qcow2"), "of a system that runs and was not asked"


def asked(domain: libvirt.virDomain, what: str) -> object:
    told = libvirt_qemu.qemuAgentCommand(domain, json.dumps({"execute": what}), AGENT_S, 0)
    return json.loads(told)["return"]


def needs_recovery(copy: Path) -> bool:
    """What its file system says of itself."""
    head, bs = copy.with_suffix(".head"), 1 << 20
    words = (f"bs={bs}", f"skip={PARTITION_AT // bs}", "count=2", f"if={copy}", f"of={head}")
    subprocess.run(("qemu-img", "dd", "-f", "qcow2", "-O", "raw", *words), check=True)
    (features,) = struct.unpack_from("<I", head.read_bytes(), FEATURES_AT)
    return bool(features & NEEDS_RECOVERY)
