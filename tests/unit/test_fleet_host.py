"""How an installation marks what is its own on a libvirtd that others use too."""

from __future__ import annotations

from pathlib import Path

from backend.config import Config, HostConfig
from backend.fleet import Host, object_prefix
from backend.paths import Paths


def test_a_domains_name_leads_back_to_its_sandbox(tmp_path: Path) -> None:
    host = Host(Config(), HostConfig(), Paths.under(tmp_path))
    name = host.domain_name("SBX-1f0c9a2b")
    assert name.startswith(object_prefix(Paths.under(tmp_path))) and name == name.lower()
    assert host.sandbox_id(name) == "SBX-1f0c9a2b"


def test_two_installations_never_share_a_prefix(tmp_path: Path) -> None:
    assert object_prefix(Paths.under(tmp_path / "a")) != object_prefix(Paths.under(tmp_path / "b"))
