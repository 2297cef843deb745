"""Whether KVM works here. Only a guest that executed proves it: /dev/kvm opens where guests hang, too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import platform
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from backend.hypervisor.nouns import KvmProbe

DEVICE = Path("/dev/kvm")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
EXIT_PORT = 0xF4
EXIT_VALUE = 0x2A
QUESTION = 3  # what the probe asks: an answer to an older question is not kept
VERSION_TIMEOUT_S = 20
PLAUSIBLE_S = 1.5  # firmware and one sector take a tenth of it on KVM that is worth its name
# The processor is the one that our domains ask for: where it cannot be had, they cannot run.
KVM = ("-accel", "kvm", "-cpu", "host")
EMULATION = ("-accel", "tcg", "-cpu", "max")
# A kernel's own ways: long mode on a page table, and an exchange of 16 bytes. A KVM that lies under another
# one may emulate a small real-mode program and yet run no kernel.
LONG_MODE = bytes.fromhex(
    "fa 31c0 8ed8 8ec0 8ed0"  # cli; ds, es and ss are 0
    "66bf00100000 0f22df"  # mov edi, 0x1000; mov cr3, edi
    "66b9000c0000 6631c0 fc 66f3ab"  # mov ecx, 0xc00; xor eax, eax; cld; rep stosd: three empty tables
    "c70600100320 c70600200330 c70600308300"  # [0x1000] = 0x2003, [0x2000] = 0x3003, [0x3000]: 2 MiB at 0
    "66b820000000 0f22e0"  # mov eax, 0x20; mov cr4, eax: physical address extension
    "66b9800000c0 0f32 80cc01 0f30"  # mov ecx, 0xc0000080; rdmsr; or ah, 1; wrmsr: long mode enabled
    "0f0116b07c 0f20c0 660d01000080 0f22c0"  # lgdt [0x7cb0]; cr0 |= 0x80000001: protected and paged
    "ea5d7c0800"  # jmp 8:0x7c5d, what follows, which is of 64 bits
    "b9a0860100"  # mov ecx, 100000
    "31c0 99 bb01000000 51 31c9"  # xor eax, eax; cdq; mov ebx, 1; push rcx; xor ecx, ecx
    "4889042500400000 4889042508400000"  # mov [0x4000], rax; mov [0x4008], rax
    "f0480fc70c2500400000"  # lock cmpxchg16b [0x4000]
    "59 e2d8"  # pop rcx; loop
)
HALT = bytes.fromhex("f4 ebfd")  # hlt; jmp to hlt
SEGMENTS_AT = 0xA0
SEGMENTS = struct.pack("<QQ", 0, 0x00209A0000000000)  # none, and code of 64 bits
SEGMENTS_REGISTER = struct.pack("<HI", len(SEGMENTS) - 1, 0x7C00 + SEGMENTS_AT)


def boot_sector(ending: bytes) -> bytes:
    """Does what a kernel does, then ``ending``, 64-bit code of at most 19 bytes."""
    code = (LONG_MODE + ending + HALT).ljust(SEGMENTS_AT, b"\0")
    return (code + SEGMENTS + SEGMENTS_REGISTER).ljust(510, b"\0") + b"\x55\xaa"


BOOT_SECTOR = boot_sector(bytes([0xB0, EXIT_VALUE, 0xE6, EXIT_PORT]))  # mov al, VALUE; out PORT, al
# mov w0, #0x84000008; hvc #0; b .: SYSTEM_OFF of the Power State Coordination Interface (Arm DEN 0022).
KERNEL = struct.pack("<4I", 0x52800100, 0x72B08000, 0xD4000002, 0x14000000)


@dataclass(frozen=True)
class Bench:
    """What one architecture is probed with. ``words`` take the file that holds ``program``; QEMU ends with
    ``status`` when it ran."""

    qemu: str
    program: bytes
    words: tuple[str, ...]
    status: int


BENCHES = {
    "x86_64": Bench(
        "qemu-system-x86_64",
        BOOT_SECTOR,
        (
            *("-machine", "pc", "-drive", "file={file},format=raw,if=ide,snapshot=on"),
            *("-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=0x1"),
        ),
        EXIT_VALUE << 1 | 1,  # as isa-debug-exit makes it
    ),
    "aarch64": Bench(
        "qemu-system-aarch64", KERNEL, ("-machine", "virt,gic-version=max", "-kernel", "{file}"), 0
    ),
}
HERE = BENCHES.get(platform.machine(), BENCHES["x86_64"])


async def kvm_works(qemu: str = HERE.qemu, timeout_s: float = 8, *, cache: Path | None = None) -> KvmProbe:
    """Boot the smallest guest with KVM. ``cache``: a file that keeps the answer for this boot and QEMU."""
    if not await asyncio.to_thread(DEVICE.exists):
        return KvmProbe(False, f"{DEVICE} does not exist")
    key = f"{QUESTION} {await asyncio.to_thread(BOOT_ID.read_text)}{await _version(qemu)}"
    if cache and (known := await asyncio.to_thread(_cached, cache, key)):
        return known
    probe = await _compare(qemu, timeout_s)
    if cache:
        await asyncio.to_thread(
            cache.write_text, json.dumps({"key": key, "works": probe.works, "reason": probe.reason})
        )
    return probe


def _cached(cache: Path, key: str) -> KvmProbe | None:
    try:
        kept = json.loads(cache.read_text())
        return KvmProbe(bool(kept["works"]), str(kept["reason"])) if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def _version(qemu: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            qemu, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        return f"{qemu}: {error.strerror}"
    try:
        async with asyncio.timeout(VERSION_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return "silent"
    return output.decode(errors="replace")


async def _compare(qemu: str, timeout_s: float) -> KvmProbe:
    """KVM nested in an emulator executes, too, some ten times slower than plain emulation."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    probe = await _boot(qemu, KVM, timeout_s)
    took_s = loop.time() - started
    if not probe.works or took_s < PLAUSIBLE_S:
        return probe
    started = loop.time()
    emulated = await _boot(qemu, EMULATION, timeout_s)
    emulated_s = loop.time() - started
    if emulated.works and emulated_s < took_s:
        return KvmProbe(False, f"a guest took {took_s:.1f} s, and {emulated_s:.1f} s emulated")
    return probe


async def _boot(qemu: str, accelerator: tuple[str, ...], timeout_s: float, bench: Bench = HERE) -> KvmProbe:
    with tempfile.NamedTemporaryFile(prefix="fluid-probe-", suffix=".img") as program:
        await asyncio.to_thread(program.write, bench.program)
        await asyncio.to_thread(program.flush)
        arguments = (
            *accelerator,
            *("-smp", "2", "-m", "64", "-display", "none", "-nodefaults", "-no-reboot"),
            *(word.replace("{file}", program.name) for word in bench.words),
        )
        try:
            process = await asyncio.create_subprocess_exec(
                qemu, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
            )
        except OSError as error:
            return KvmProbe(False, f"{qemu} does not start: {error.strerror}")
        try:
            async with asyncio.timeout(timeout_s):
                _, errors = await process.communicate()
        except TimeoutError:
            return KvmProbe(False, f"a guest did not execute within {timeout_s:g} s")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode == bench.status:
        return KvmProbe(True, "a guest executed")
    words = errors.decode(errors="replace").strip().splitlines()
    return KvmProbe(False, words[0][:200] if words else f"QEMU ended with status {process.returncode}")
