"""Whether KVM works here. Only a guest that executed proves it: /dev/kvm opens where guests hang, too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path

from backend.hypervisor.nouns import KvmProbe

DEVICE = Path("/dev/kvm")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
EXIT_PORT = 0xF4
EXIT_VALUE = 0x2A
# isa-debug-exit ends QEMU with (value << 1) | 1
EXIT_STATUS = EXIT_VALUE << 1 | 1
QUESTION = 2  # what the probe asks: an answer to an older question is not kept
VERSION_TIMEOUT_S = 20
PLAUSIBLE_S = 1.5  # firmware and one sector take a tenth of it on KVM that is worth its name
# The processor is the one that our domains ask for: where it cannot be had, they cannot run.
KVM = ("-machine", "pc,accel=kvm", "-cpu", "host")
EMULATION = ("-machine", "pc,accel=tcg")
# mov al, VALUE; out PORT, al; hlt; jmp to hlt
BOOT_SECTOR = bytes([0xB0, EXIT_VALUE, 0xE6, EXIT_PORT, 0xF4, 0xEB, 0xFD]).ljust(510, b"\0") + b"\x55\xaa"


async def kvm_works(
    qemu: str = "qemu-system-x86_64", timeout_s: float = 8, *, cache: Path | None = None
) -> KvmProbe:
    """Boot a one-sector guest with KVM. ``cache``: a file that keeps the answer for this boot and QEMU."""
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


async def _boot(qemu: str, accelerator: tuple[str, ...], timeout_s: float) -> KvmProbe:
    with tempfile.NamedTemporaryFile(prefix="fluid-probe-", suffix=".img") as sector:
        await asyncio.to_thread(sector.write, BOOT_SECTOR)
        await asyncio.to_thread(sector.flush)
        arguments = (
            *accelerator,
            *("-smp", "2", "-m", "16", "-display", "none", "-nodefaults", "-no-reboot"),
            *("-drive", f"file={sector.name},format=raw,if=ide,snapshot=on"),
            *("-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=0x1"),
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
    if process.returncode == EXIT_STATUS:
        return KvmProbe(True, "a guest executed")
    words = errors.decode(errors="replace").strip().splitlines()
    return KvmProbe(False, words[0][:200] if words else f"QEMU ended with status {process.returncode}")
