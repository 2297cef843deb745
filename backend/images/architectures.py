"""The architecture of the host and of an image. Where they differ, the image's programs, which a build starts
in its tree (maintainer scripts, ``useradd``), run by QEMU's user-mode emulation."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

from backend.images.programs import SEARCH_PATH, require

# The kernel's word for an architecture, as uname(2) and QEMU have it, and Debian's.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
ENTER = Path(__file__).with_name("_foreign.py")
# elf(5): 64 bits, little endian, an executable or a shared object of that machine.
MACHINES = {"amd64": 0x3E, "arm64": 0xB7}
MAGIC = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + b"\x02\x00"
MASK = b"\xff" * 7 + b"\0" + b"\xff" * 8 + b"\xfe\xff\xff\xff"


def architecture() -> str:
    """The host's Debian architecture name; guests have the host's unless an image says otherwise."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def split_name(name: str) -> tuple[str, str]:
    """An image's name as the release's and the architecture: ``debian-12-arm64``."""
    release, _, last = name.rpartition("-")
    return (release, last) if last in MACHINES else (name, architecture())


def before(arch: str) -> tuple[str, ...]:
    """The words that come before a program which starts others of that architecture; none for the host's.

    Raises MissingProgram.
    """
    if arch == architecture():
        return ()
    emulator = f"qemu-{next(word for word, debian in ARCHITECTURES.items() if debian == arch)}-static"
    require((emulator,), f"building an image for {arch}")
    found = shutil.which(emulator, path=SEARCH_PATH) or emulator
    return (sys.executable, "-IS", str(ENTER), registration(arch, found))


def registration(arch: str, emulator: str) -> str:
    """binfmt_misc's line; F: the emulator is opened now, and found from within any tree."""
    magic = MAGIC + MACHINES[arch].to_bytes(2, "little")
    escaped = ["".join(f"\\x{byte:02x}" for byte in part) for part in (magic, MASK)]
    return f":fluid-{arch}:M::{escaped[0]}:{escaped[1]}:{emulator}:F"
