"""A cloud image as distributions publish them, made of this machine's package sources: a partition table, one
ext4, a boot loader, cloud-init, DHCP. Minutes of work, so it is kept beside the images, named by its recipe.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from backend.images.sources import read_release, read_sources, select
from backend.paths import Paths

PACKAGES = (
    "systemd-sysv", "udev", "dbus", "linux-image-cloud-amd64", "cloud-init", "cloud-guest-utils",
    "openssh-server", "python3", "sudo", "iproute2", "netplan.io", "systemd-resolved",
    "extlinux", "syslinux-common", "e2fsprogs", "ca-certificates", "qemu-guest-agent",
)  # fmt: skip
DISK_BYTES, PARTITION_AT = 3 << 30, 1 << 20
SECTOR = 512
BUILD_LIMIT_S = 1500
EXTLINUX = """\
DEFAULT linux
LABEL linux
 LINUX /boot/vmlinuz
 INITRD /boot/initrd
 APPEND root=LABEL=cloudroot ro console=tty0 console=ttyS0
"""
# As a first boot of the publisher's own would leave it: cloud-init asks for DHCP, and nobody may log in.
FILES = {
    "etc/fstab": "LABEL=cloudroot / ext4 rw,discard,errors=remount-ro 0 1\n",
    "etc/hostname": "localhost\n",
    "etc/machine-id": "",
    "boot/extlinux/extlinux.conf": EXTLINUX,
}
# $1: the raw disk, $2: a folder. Mounts and the loop device end with the namespace.
INSTALL = f"""
mount -o loop,offset={PARTITION_AT},sizelimit={DISK_BYTES - PARTITION_AT} "$1" "$2"
mount --bind /dev "$2/dev"
mount -t proc proc "$2/proc"
chroot "$2" extlinux --install /boot/extlinux
umount "$2/proc" "$2/dev" "$2"
"""


def cloud_image() -> Path:
    """The qcow2 file."""
    release = read_release()
    sources = select(read_sources(), release).deb822()
    recipe = repr((PACKAGES, DISK_BYTES, FILES, INSTALL, sources)).encode()
    folder = Paths.default().cache / "tests"  # among the images it would be one that nobody has a record of
    folder.mkdir(exist_ok=True)
    kept = folder / f"test-cloud-{hashlib.sha256(recipe).hexdigest()[:16]}.qcow2"
    if not kept.exists():
        for old in folder.glob("test-cloud-*"):
            old.unlink()
        work = Path(tempfile.mkdtemp(prefix="fluid-cloud-", dir="/var/tmp"))
        try:
            _build(work, release.codename, sources).replace(kept)
        finally:
            _run("rm", "-rf", "--one-file-system", work)
    return kept


def _build(work: Path, codename: str, sources: str) -> Path:
    root, raw, made = work / "root", work / "disk.raw", work / "disk.qcow2"
    (work / "all.sources").write_text(sources)
    _run(
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("mmdebstrap", "-q", "--mode=root", "--format=directory", "--variant=minbase"),
        f"--include={','.join(PACKAGES)}",
        *('--aptopt=APT::Install-Recommends "false"', "--dpkgopt=force-unsafe-io"),
        *(codename, root, work / "all.sources"),
    )
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name, pattern in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        (kernel,) = (root / "boot").glob(pattern)
        os.link(kernel, root / "boot" / name)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    with raw.open("wb") as disk:
        disk.truncate(DISK_BYTES)
        disk.write((root / "usr/lib/syslinux/mbr/mbr.bin").read_bytes())
        disk.seek(446)
        sectors = (DISK_BYTES - PARTITION_AT) // SECTOR
        disk.write(struct.pack("<B3xB3xII", 0x80, 0x83, PARTITION_AT // SECTOR, sectors))
        disk.seek(510)
        disk.write(b"\x55\xaa")
    _run(
        *("mkfs.ext4", "-q", "-F", "-L", "cloudroot", "-d", root, "-E", f"offset={PARTITION_AT}"),
        *("-O", "^64bit,^orphan_file,^metadata_csum_seed", raw, f"{(DISK_BYTES - PARTITION_AT) >> 10}k"),
    )
    mounted = work / "mnt"
    mounted.mkdir()
    _run("unshare", "--mount", "sh", "-euc", INSTALL, "sh", raw, mounted)
    _run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, made)
    return made


def _run(*argv: str | Path) -> None:
    if shutil.which(str(argv[0])) is None:
        raise FileNotFoundError(argv[0])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BUILD_LIMIT_S, check=False)
    assert done.returncode == 0, f"{argv[0]} ended with {done.returncode}: {done.stderr[-2000:]}"
