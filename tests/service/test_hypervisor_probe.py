"""The KVM probe against QEMU itself and against programs that behave as bad machines do."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.fleet import ways
from backend.hypervisor import KvmProbe, probe
from backend.hypervisor.private import PrivateLibvirt
from backend.hypervisor.probe import EMULATION, HERE, kvm_works
from backend.paths import Paths


def program(folder: Path, body: str) -> str:
    path = folder / "qemu"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


async def test_the_guest_really_executes() -> None:
    """Under emulation it always does: a guest that did not would make every answer a no."""
    answer = await probe._boot(HERE.qemu, EMULATION, 30)
    assert answer.works, answer.reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("exec sleep 60", "did not execute within 0.5 s"),
        ("echo 'failed to set MSR' >&2; exit 134", "failed to set MSR"),
        ("exit 0", "status 0"),
        ('case "$*" in *kvm*) sleep 2;; esac; exit 85', "emulated"),
    ],
)
async def test_what_is_not_an_executed_guest_is_no(tmp_path: Path, body: str, reason: str) -> None:
    limit_s = 0.5 if "60" in body else 20
    answer = await probe._compare(program(tmp_path, body), limit_s)
    assert not answer.works and reason in answer.reason


async def test_a_missing_qemu_is_no(tmp_path: Path) -> None:
    answer = await probe._compare(str(tmp_path / "none"), 1)
    assert not answer.works and "does not start" in answer.reason


async def test_the_answer_is_kept_for_this_boot_and_this_qemu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "DEVICE", tmp_path)
    cache = tmp_path / "kvm.json"
    counted = tmp_path / "count"
    body = f'[ "$1" = --version ] && exec echo version-1\necho x >> {counted}; exit 85'
    for _ in range(2):
        assert (await kvm_works(program(tmp_path, body), 10, cache=cache)).works
    assert counted.read_text() == "x\n"
    await kvm_works(program(tmp_path, body.replace("version-1", "version-2")), 10, cache=cache)
    assert counted.read_text() == "x\nx\n"


async def test_kvm_that_libvirt_does_not_offer_is_not_used(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine asked of it all the same is refused by libvirt: no sandbox could ever be made."""

    async def yes(**_: object) -> KvmProbe:
        return KvmProbe(True, "a guest executed")

    async def none() -> None:
        return None

    monkeypatch.setattr(ways, "kvm_works", yes)
    monkeypatch.setattr(ways, "system_libvirt", none)
    monkeypatch.setattr(
        ways, "PrivateLibvirt", lambda folder, hide_kvm: PrivateLibvirt(folder, hide_kvm=True)
    )
    way = ways.LocalWay(None, Paths.under(open_folder), "fluid-test")
    host = await way.hypervisor()
    try:
        assert host.virt_type == "qemu"
        assert host.kvm and not host.kvm.works and "offers no KVM" in host.kvm.reason
    finally:
        await host.close()
        await way.leave(idle=True)
