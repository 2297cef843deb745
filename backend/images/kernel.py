"""The guest's kernel: downloaded and unpacked, never installed; booted directly, with a hand-made RAM disk.

The RAM disk only loads the virtio drivers and mounts the disk: everything else is the guest's own business.
"""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backend.errors import Unavailable
from backend.images import cpio
from backend.images.programs import Programs, require
from backend.images.sources import Release

DOWNLOAD_LIMIT_S = 300
UNPACK_LIMIT_S = 120
WANTED_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "virtio_rng", "ext4")
UNWANTED_MODULE_FOLDERS = ("sound", "drivers/infiniband", "drivers/gpu", "drivers/media")
# Offsets of the x86 boot protocol, Documentation/arch/x86/boot.rst.
SETUP_SECTORS, PAYLOAD_OFFSET, PAYLOAD_LENGTH, SECTOR = 0x1F1, 0x248, 0x24C, 512
ELF, GZIP, XZ = b"\x7fELF", b"\x1f\x8b", b"\xfd7zXZ\x00"
LZ4_LEGACY, ZSTD = b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd"
INIT = """#!/bin/sh
mount -t devtmpfs dev /dev
{load}until [ -b /dev/vda ]; do sleep 0.05; done
mount -t ext4 -o rw,noatime /dev/vda /root
mount --move /dev /root/dev
exec switch_root /root /lib/systemd/systemd
"""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel: its version, the tree that holds boot/ and lib/modules/, and busybox."""

    version: str
    tree: Path
    busybox: Path

    @property
    def modules(self) -> Path:
        return self.tree / "lib/modules" / self.version

    @property
    def image(self) -> Path:
        return self.tree / "boot" / f"vmlinuz-{self.version}"


def meta_package(release: Release, arch: str) -> str:
    """The package that always depends on the newest kernel for virtual machines."""
    return "linux-image-virtual" if release.id == "ubuntu" else f"linux-image-cloud-{arch}"


async def fetch(
    programs: Programs, folder: Path, release: Release, arch: str, progress: Callable[[str], None]
) -> Kernel:
    """Download kernel, modules and a static busybox with the build's apt; unpack under ``folder``."""
    image = await _dependency(programs, meta_package(release, arch), "linux-image-")
    wanted = [image, "busybox-static"]
    if release.id == "ubuntu":
        wanted.append(await _dependency(programs, image, "linux-modules-"))
    progress(f"downloading kernel {image.removeprefix('linux-image-')}")
    tree = folder / "tree"
    await programs.run("mkdir", folder, limit_s=UNPACK_LIMIT_S)
    # apt-get download writes to its working folder, hence env --chdir.
    await programs.run("env", "-C", folder, "apt-get", "-q", "download", *wanted, limit_s=DOWNLOAD_LIMIT_S)
    for package in _packages(folder):
        await programs.run("dpkg-deb", "-x", package, tree, limit_s=UNPACK_LIMIT_S)
    _merge(tree)
    version = image.removeprefix("linux-image-").removeprefix("unsigned-")
    kernel = Kernel(version, tree, _first(tree, ("bin/busybox", "usr/bin/busybox")))
    for name in UNWANTED_MODULE_FOLDERS:
        await programs.run("rm", "-rf", kernel.modules / "kernel" / name, limit_s=UNPACK_LIMIT_S)
    return kernel


def _packages(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.deb"))


def _merge(tree: Path) -> None:
    """Newer packages carry usr/lib/modules only; lib/modules is where depmod and we look."""
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")


async def _dependency(programs: Programs, package: str, prefix: str) -> str:
    """The first versioned package of that prefix that ``package`` depends on."""
    output = await programs.run("apt-cache", "depends", package, limit_s=60)
    found = re.search(rf"Depends: ({re.escape(prefix)}(?:unsigned-)?\d\S*)", output.decode())
    if found is None:
        raise Unavailable(
            f"package {package} names no {prefix}… to install",
            remedy="apt-get update, then fluid images build --force",
        )
    return found[1]


def _first(tree: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (tree / name).is_file():
            return tree / name
    raise Unavailable(f"busybox-static holds none of {', '.join(names)}", remedy="fluid images build --force")


def load_order(dependencies: str, wanted: tuple[str, ...] = WANTED_MODULES) -> list[str]:
    """Paths of the modules to insert, each after what it needs. ``dependencies`` is modules.dep(5).

    A wanted module that is not listed is built into the kernel.
    """
    needs: dict[str, list[str]] = {}
    path_of: dict[str, str] = {}
    for line in dependencies.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        path_of[_module_name(path)] = path
    order: list[str] = []

    def add(path: str) -> None:
        for needed in needs.get(path, []):
            add(needed)
        if path not in order:
            order.append(path)

    for name in wanted:
        if name in path_of:
            add(path_of[name])
    return order


def _module_name(path: str) -> str:
    return Path(path).name.split(".ko", 1)[0].replace("-", "_")


async def initrd(programs: Programs, kernel: Kernel, modules: Path) -> bytes:
    """The RAM disk: busybox, what ``load_order`` takes of the folder ``modules``, and a short init."""
    order = load_order((modules / "modules.dep").read_text())
    members = [cpio.folder(name) for name in ("bin", "dev", "proc", "sys", "root", "m")]
    members.append(cpio.program("bin/busybox", kernel.busybox.read_bytes()))
    members += [
        cpio.link(f"bin/{name}", "busybox") for name in ("sh", "insmod", "mount", "sleep", "switch_root")
    ]
    load = ""
    for path in order:
        data = await decompress(programs, (modules / path).read_bytes())
        name = f"m/{_module_name(path)}.ko"
        members.append(cpio.program(name, data))
        load += f"insmod /{name}\n"
    members.append(cpio.program("init", INIT.format(load=load).encode()))
    return cpio.archive(members)


async def bootable(programs: Programs, kernel: Kernel, arch: str) -> bytes:
    """The kernel as it boots fastest: on x86 the ELF inside, when it has a PVH entry (4 s less, emulated)."""
    image = kernel.image.read_bytes()
    config = kernel.tree / "boot" / f"config-{kernel.version}"
    if arch != "amd64" or not config.is_file() or "CONFIG_PVH=y" not in config.read_text():
        return image
    elf = await decompress(programs, payload(image))
    return elf if elf.startswith(ELF) else image


def payload(image: bytes) -> bytes:
    """The compressed kernel inside a bzImage; what follows it there, a length word, gzip has as its own."""
    start = (image[SETUP_SECTORS] + 1) * SECTOR + int.from_bytes(
        image[PAYLOAD_OFFSET : PAYLOAD_OFFSET + 4], "little"
    )
    length = int.from_bytes(image[PAYLOAD_LENGTH : PAYLOAD_LENGTH + 4], "little")
    packed = image[start : start + length]
    return packed if packed.startswith(GZIP) else packed[:-4]


async def decompress(programs: Programs, data: bytes) -> bytes:
    """``data`` unpacked by the format that its first bytes name; itself when they name none."""
    if data.startswith(XZ):
        return lzma.decompress(data)
    if data.startswith(GZIP):
        return gzip.decompress(data)
    if data.startswith(LZ4_LEGACY):
        return await programs.run("lz4", "-dc", stdin=data, limit_s=UNPACK_LIMIT_S)
    if data.startswith(ZSTD):
        require(("zstd",))
        return await programs.run("zstd", "-dc", stdin=data, limit_s=UNPACK_LIMIT_S)
    return data
