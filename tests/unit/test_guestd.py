"""The daemon in a guest: what it does first when a fork becomes somebody, or goes on after standing still."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

import pytest

from backend.images.seed import PAYLOAD

SEED = b"of this guest alone"
MESSAGE = {"seed": base64.b64encode(SEED).decode(), "epoch": 1_700_000_000, "mac": "", "prefix": 24}


@pytest.fixture
def guestd() -> ModuleType:
    loader = SourceFileLoader("fluid_guestd", str(PAYLOAD / "fluid-guestd"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Stop(Exception):
    """Far enough."""


@pytest.mark.parametrize("operation", ["identity", "wake"])
def test_a_guest_has_randomness_and_time_of_its_own_before_anything_starts_or_is_written(
    guestd: ModuleType, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    done: list[Any] = []

    def starts(*_: Any, **__: Any) -> None:
        done.append("a program or a file")
        raise Stop

    @contextlib.contextmanager
    def knocks() -> Iterator[None]:
        starts()
        yield

    monkeypatch.setattr(guestd, "reseed", lambda seed: done.append(seed))
    monkeypatch.setattr(guestd.time, "clock_settime", lambda _, epoch: done.append(epoch))
    monkeypatch.setattr(guestd, "warm_sshd", knocks)
    for name in ("write_file", "set_hostname", "trust", "reload_sshd"):
        monkeypatch.setattr(guestd, name, starts)
    with pytest.raises(Stop):
        guestd.OPERATIONS[operation](MESSAGE)
    assert done == [SEED, MESSAGE["epoch"], "a program or a file"]
