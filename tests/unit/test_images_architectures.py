"""The architecture of an image: its name, its kernel's words, and who runs its programs."""

from __future__ import annotations

import pytest

from backend.errors import MissingProgram
from backend.images import architectures
from backend.images.build import Inputs
from backend.images.sources import Release, Selection

BOOKWORM = Release("debian", "12", "bookworm")
OTHER = {"amd64": "arm64", "arm64": "amd64"}


@pytest.mark.parametrize("host", ["amd64", "arm64"])
def test_only_another_architecture_is_in_a_name_and_a_name_finds_its_way_back(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(architectures, "architecture", lambda: host)
    own, other = (Inputs(BOOKWORM, Selection((), ()), "", arch).image_name for arch in (host, OTHER[host]))
    assert (own, other) == ("debian-12", f"debian-12-{OTHER[host]}")
    assert architectures.split_name(own) == ("debian-12", host)
    assert architectures.split_name(other) == ("debian-12", OTHER[host])
    assert architectures.split_name("ubuntu-24-04") == ("ubuntu-24-04", host)


def test_the_serial_port_and_the_clock_are_the_architectures() -> None:
    words = {arch: Inputs(BOOKWORM, Selection((), ()), "", arch).cmdline.split() for arch in OTHER}
    assert "console=ttyS0" in words["amd64"] and "tsc=reliable" in words["amd64"]
    assert "console=ttyAMA0" in words["arm64"] and "tsc=reliable" not in words["arm64"]


def test_programs_of_the_host_run_by_themselves_and_others_by_an_emulator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(architectures, "architecture", lambda: "amd64")
    assert architectures.before("amd64") == ()
    monkeypatch.setattr("backend.images.programs.SEARCH_PATH", "/nonexistent")
    with pytest.raises(MissingProgram, match="image for arm64 needs qemu-aarch64-static") as caught:
        architectures.before("arm64")
    assert caught.value.remedy.endswith("qemu-user-static")


def test_the_kernel_knows_an_architectures_programs_by_their_header() -> None:
    name, kind, offset, magic, mask, emulator, flags = (
        architectures.registration("arm64", "/usr/bin/qemu-aarch64-static").strip(":").split(":")
    )
    assert (name, kind, offset, emulator) == ("fluid-arm64", "M", "", "/usr/bin/qemu-aarch64-static")
    assert flags == "F"  # found from within any tree
    wanted, looked_at = (bytes.fromhex(part.replace("\\x", "")) for part in (magic, mask))
    shared_object = b"\x7fELF\x02\x01\x01\x00".ljust(16, b"\0") + b"\x03\x00\xb7\x00"
    ours = b"\x7fELF\x02\x01\x01\x00".ljust(16, b"\0") + b"\x03\x00\x3e\x00"
    meet = [bytes(a & b for a, b in zip(header, looked_at, strict=True)) for header in (shared_object, ours)]
    assert meet[0] == bytes(a & b for a, b in zip(wanted, looked_at, strict=True)) != meet[1]
