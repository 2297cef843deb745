"""A guest stands still while its memory is saved; after that its clock is right: commands are told by it."""

from __future__ import annotations

import time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from backend import guests
from backend.hypervisor import snapshots
from backend.hypervisor.domains import Domains

NOW = 1_000.0


@pytest.fixture
def daemon() -> ModuleType:
    file = Path(guests.__file__).parent / "payload/fluid-guestd"
    spec = spec_from_loader("guestd", SourceFileLoader("guestd", str(file)))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("message", "put"),
    [({"epoch": NOW + 3}, [NOW + 3]), ({"epoch": NOW - 3}, []), ({}, [])],
    ids=["behind", "ahead", "not said"],
)
def test_a_clock_that_stood_still_goes_on_and_is_never_set_back(
    daemon: ModuleType, monkeypatch: pytest.MonkeyPatch, message: dict[str, float], put: list[float]
) -> None:
    found: list[float] = []
    monkeypatch.setattr(daemon.time, "time", lambda: NOW)
    monkeypatch.setattr(daemon.time, "clock_settime", lambda _clock, epoch: found.append(epoch))
    assert daemon.thaw(message) == {"thawed": 0}
    assert found == put


async def test_a_guest_that_is_thawed_after_a_snapshot_is_told_the_time() -> None:
    asked: list[tuple[str, float]] = []

    class Asked:
        async def ask(self, name: str, operation: str, **values: Any) -> dict[str, Any]:
            asked.append((operation, values.get("epoch", 0.0)))
            return {}

    async with snapshots._frozen(cast("Domains", Asked()), "one", 5):
        began = time.time()
    (_, thawed) = asked
    assert thawed[0] == "thaw" and began <= thawed[1] <= time.time()
