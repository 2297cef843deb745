"""How large a disk may be: no smaller than its source, no larger than the policy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.config import Config
from backend.errors import InvalidValue, PolicyDenied
from backend.fleet.core import FleetParts
from backend.fleet.sizes import Sizes
from backend.images import BuiltImage
from backend.models import CreateSandbox, Sandbox, now
from backend.policy import Policy

GIB = 1024**3


class Machine:
    def __init__(self) -> None:
        self.grown: list[tuple[str, int]] = []

    def require(self) -> Machine:
        return self

    def named(self, name: str) -> Machine:
        return self

    async def grow_disk(self, domain: str, size_gb: int) -> None:
        self.grown.append((domain, size_gb))


def image(folder: Path, size: int, kind: str = "built") -> BuiltImage:
    """A source whose qcow2 header says that size."""
    disk = folder / "disk"
    disk.write_bytes(b"QFI\xfb".ljust(24, b"\0") + size.to_bytes(8, "big"))
    return cast("BuiltImage", SimpleNamespace(name="debian-12", disk=disk, kind=kind))


def sizes(machine: Machine, **limits: int) -> Sizes:
    config = Config.model_validate({"limits": limits})
    known = dict.fromkeys(FleetParts.__dataclass_fields__)
    parts = SimpleNamespace(**{**known, "config": config, "policy": Policy(config.limits), "hosts": machine})
    return Sizes(cast("FleetParts", parts))


def request(disk_gb: int | None) -> CreateSandbox:
    return CreateSandbox(source_vm_name="debian-12", agent_id="a", disk_gb=disk_gb)


@pytest.mark.parametrize(
    ("source", "asked", "wanted"),
    [(8 * GIB, None, 8), (8 * GIB, 8, 8), (8 * GIB, 20, 20), (2 * GIB + 1, None, 3)],
)
async def test_what_is_asked_for_is_what_it_gets(
    tmp_path: Path, source: int, asked: int | None, wanted: int
) -> None:
    assert await sizes(Machine()).disk_gb(request(asked), image(tmp_path, source)) == wanted


async def test_too_small_and_too_large_are_refused_with_their_limit(tmp_path: Path) -> None:
    fleet, source = sizes(Machine(), disk_gb_max=10), image(tmp_path, 8 * GIB)
    with pytest.raises(InvalidValue, match=r"debian-12 has 8 GB, 4 are"):
        await fleet.disk_gb(request(4), source)
    with pytest.raises(PolicyDenied, match=r"11 GB is larger than the limit of 10 GB \(rule disk-max\)"):
        await fleet.disk_gb(request(11), source)
    with pytest.raises(PolicyDenied, match="disk-max"):  # the source itself
        await fleet.disk_gb(request(None), image(tmp_path, 11 * GIB))


@pytest.mark.parametrize(("wanted", "grown"), [(8, []), (None, []), (9, [("d", 9)])])
async def test_only_a_larger_disk_is_grown(tmp_path: Path, wanted: int | None, grown: list[Any]) -> None:
    machine = Machine()
    known: dict[str, Any] = {"base_image": "debian-12", "created_at": now(), "updated_at": now()}
    row = Sandbox(id="SBX-1", sandbox_name="a", domain="d", disk_gb=wanted, **known)
    await sizes(machine).grow(row, image(tmp_path, 8 * GIB))
    assert machine.grown == grown


@pytest.mark.parametrize("kind", ["imported", "domain"])
async def test_a_disk_with_partitions_is_not_made_larger_and_that_is_said_before_anything_is_made(
    tmp_path: Path, kind: str
) -> None:
    fleet, source = sizes(Machine()), image(tmp_path, 8 * GIB, kind)
    assert await fleet.disk_gb(request(8), source) == 8
    with pytest.raises(InvalidValue, match=r"has partitions and stays as it is: 8 GB") as refused:
        await fleet.disk_gb(request(9), source)
    assert "leave disk_gb out" in refused.value.remedy
