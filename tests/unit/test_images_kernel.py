"""The RAM disk's archive and the order in which drivers are loaded."""

from __future__ import annotations

import stat

from backend.images import cpio
from backend.images.kernel import load_order, payload

MODULES_DEP = """\
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio.ko
kernel/sound/virtio_snd.ko: kernel/drivers/virtio/virtio.ko
"""


def read_newc(data: bytes) -> dict[str, tuple[int, bytes]]:
    """A reader written from the format's description: name to mode and contents."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        header = data[at : at + 110]
        assert header[:6] == b"070701"
        fields = [int(header[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        assert fields[2] == fields[3] == 0, "everything belongs to root"
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        at += 110 + name_size
        at += -at % 4
        if name == "TRAILER!!!":
            assert at == len(data)
            return found
        found[name] = (mode, data[at : at + size])
        at += size
        at += -at % 4


def test_the_archive_reads_back_as_it_was_written() -> None:
    members = [
        cpio.folder("bin"),
        cpio.program("bin/sh", b"\x7fELF odd"),
        cpio.link("bin/mount", "sh"),
        cpio.program("empty", b""),
    ]
    found = read_newc(cpio.archive(members))
    assert list(found) == ["bin", "bin/sh", "bin/mount", "empty"]
    assert stat.S_ISDIR(found["bin"][0])
    assert found["bin/sh"] == (stat.S_IFREG | 0o755, b"\x7fELF odd")
    assert stat.S_ISLNK(found["bin/mount"][0])
    assert found["bin/mount"][1] == b"sh"


def test_every_driver_comes_after_what_it_needs_and_none_that_nobody_wants() -> None:
    order = load_order(MODULES_DEP, ("virtio_pci", "virtio_blk", "virtio_rng"))
    assert order == [
        "kernel/drivers/virtio/virtio_ring.ko",
        "kernel/drivers/virtio/virtio.ko",
        "kernel/drivers/virtio/virtio_pci.ko.xz",
        "kernel/drivers/block/virtio_blk.ko",
        "kernel/drivers/char/hw_random/virtio-rng.ko",
    ]


def test_a_driver_built_into_the_kernel_is_not_loaded() -> None:
    assert load_order("kernel/a.ko:\n", ("virtio_blk", "a")) == ["kernel/a.ko"]


def test_the_payload_of_a_boot_image_is_found_by_the_boot_protocol() -> None:
    packed = b"\x02\x21\x4c\x18compressed" + b"\x00\x00\x10\x00"
    image = bytearray(0x400 * 3)
    image[0x1F1] = 3
    image[0x248:0x24C] = (64).to_bytes(4, "little")
    image[0x24C:0x250] = len(packed).to_bytes(4, "little")
    start = 4 * 512 + 64
    image[start : start + len(packed)] = packed
    assert payload(bytes(image)) == packed[:-4]
