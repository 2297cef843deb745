"""What a way to a host refuses: guests there would not be held."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.config import HostConfig
from backend.errors import HypervisorFailed
from backend.fleet.ways import RemoteWay, way_to
from backend.paths import Paths


@pytest.mark.parametrize(
    ("said", "held"), [(b"0\n0\n", False), (b"0\n", False), (b"0\n1\n", True), (b"1\n0\n", True), (b"", True)]
)
async def test_a_host_whose_iptables_does_not_see_the_bridge_is_refused(
    tmp_path: Path, said: bytes, held: bool
) -> None:
    way = way_to(
        HostConfig(name="far", address="198.51.100.7", user="fluid"), Paths.under(tmp_path), "fluid-a"
    )
    assert isinstance(way, RemoteWay)
    asked: list[list[str]] = []

    async def run(argv: list[str]) -> bytes:
        asked.append(argv)
        return said

    way._link = SimpleNamespace(run=run)  # type: ignore[assignment]
    if held:
        await way.must_hold("fl-0")
    else:
        with pytest.raises(HypervisorFailed, match="fl-0, so guests are not held"):
            await way.must_hold("fl-0")
    assert "/sys/class/net/fl-0/bridge/nf_call_iptables" in asked[0]
