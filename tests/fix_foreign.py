"""Somebody else's domains on a libvirtd of ours: no system in them, but a boot sector that counts."""

from __future__ import annotations

import random
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

DISK_BYTES = 8 << 20
COUNTER_SECTOR = 2048
SECTOR = 512
FLOPPY_BYTES = 1440 << 10
MARK = (
    '<metadata><fluid:domain xmlns:fluid="urn:fluid:domain:1">'
    '<fluid:item key="role">{role}</fluid:item></fluid:domain></metadata>'
)


def boot_sector() -> bytes:
    """Counts a double word at 0x8000 up and writes it to COUNTER_SECTOR by int 0x13, for ever."""
    code = bytes.fromhex("31c0 8ed8 8ec0 8ed0 bc007c 66ff060080 b80043 b280 be1c7c cd13 ebef")
    packet = bytes.fromhex("10000100 00800000") + COUNTER_SECTOR.to_bytes(8, "little")
    return (code + packet).ljust(510, b"\0") + b"\x55\xaa"


def pattern() -> bytes:
    """A whole disk: the boot sector, noise with a hole in it, and a counter at 0."""
    data = bytearray(random.Random(7).randbytes(DISK_BYTES))
    data[:SECTOR] = boot_sector()
    data[2 << 20 : 4 << 20] = bytes(2 << 20)
    at = COUNTER_SECTOR * SECTOR
    data[at : at + SECTOR] = bytes(SECTOR)
    return bytes(data)


def without_counter(data: bytes) -> bytes:
    at = COUNTER_SECTOR * SECTOR
    return data[:at] + data[at + SECTOR :]


def counter(data: bytes) -> int:
    return int.from_bytes(data[COUNTER_SECTOR * SECTOR :][:4], "little")


def idle_floppy(path: Path) -> Path:
    """Its boot sector halts: the machine runs, and whoever writes to its disk is not its guest."""
    path.write_bytes(
        bytes.fromhex("fa f4 ebfd").ljust(510, b"\0") + b"\x55\xaa" + bytes(FLOPPY_BYTES - SECTOR)
    )
    return path


def raw_disk(path: Path) -> Path:
    path.write_bytes(pattern())
    return path


def qcow2_disk(path: Path) -> Path:
    """An overlay on a raw base; the last mebibyte of the pattern is the overlay's own."""
    base = path.with_suffix(".base")
    base.write_bytes(pattern()[: 7 << 20] + bytes(1 << 20))
    command = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base.name, path.name)
    subprocess.run(command, check=True, cwd=path.parent)
    (path.parent / "own").write_bytes(pattern()[7 << 20 :])
    write = f"write -q -s {path.parent / 'own'} 7M 1M"
    subprocess.run(("qemu-io", "-f", "qcow2", "-c", write, str(path)), check=True)
    return path


def flat(path: Path, format: str) -> bytes:
    """What a guest would read of it."""
    out = path.with_suffix(".flat")
    subprocess.run(("qemu-img", "convert", "-U", "-f", format, "-O", "raw", str(path), str(out)), check=True)
    data = out.read_bytes()
    out.unlink()
    return data


def endless_backup(file: Path, folder: Path) -> str:
    """A backup that lasts until it is aborted: QEMU hands the disk out, and keeps old blocks in ``file``."""
    socket = folder / "nbd" / "socket"
    socket.parent.mkdir(exist_ok=True)
    socket.parent.chmod(0o777)  # QEMU's user makes it
    root = ET.Element("domainbackup", mode="pull")
    ET.SubElement(root, "server", transport="unix", socket=str(socket))
    disk = ET.SubElement(ET.SubElement(root, "disks"), "disk", name="vda", backup="yes", type="file")
    ET.SubElement(disk, "scratch", file=str(file))
    return ET.tostring(root, encoding="unicode")


def foreign_xml(
    name: str,
    disks: list[tuple[Path, str]],
    role: str = "",
    agent: Path | None = None,
    floppy: Path | None = None,
    memory_mb: int = 64,
) -> str:
    """An emulated machine that nobody of ours made. It boots from ``floppy`` if there is one."""
    root = ET.Element("domain", type="qemu")
    ET.SubElement(root, "name").text = name
    if role:
        root.append(ET.fromstring(MARK.format(role=role)))
    ET.SubElement(root, "memory", unit="MiB").text = str(memory_mb)
    ET.SubElement(root, "vcpu").text = "1"
    system = ET.SubElement(root, "os")
    ET.SubElement(system, "type", arch="x86_64", machine="pc").text = "hvm"
    ET.SubElement(system, "boot", dev="fd" if floppy else "hd")
    devices = ET.SubElement(root, "devices")
    for number, (path, format) in enumerate(disks):
        disk = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(disk, "driver", name="qemu", type=format)
        ET.SubElement(disk, "source", file=str(path))
        ET.SubElement(disk, "target", dev=f"vd{chr(97 + number)}", bus="virtio")
    if floppy:
        disk = ET.SubElement(devices, "disk", type="file", device="floppy")
        ET.SubElement(disk, "driver", name="qemu", type="raw")
        ET.SubElement(disk, "source", file=str(floppy))
        ET.SubElement(disk, "target", dev="fda", bus="fdc")
        ET.SubElement(disk, "readonly")
    ET.SubElement(devices, "controller", type="usb", model="none")
    if agent:
        channel = ET.SubElement(devices, "channel", type="unix")
        ET.SubElement(channel, "source", mode="bind", path=str(agent))
        ET.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    ET.SubElement(devices, "memballoon", model="none")
    return ET.tostring(root, encoding="unicode")
