"""What the composition root itself makes of the config and the disk."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from backend import daemon
from backend.audit import Audit, AuditReport
from backend.config import Config, EgressConfig
from backend.daemon import _Backend, _key
from backend.errors import ConfigError
from backend.paths import Paths


def test_a_key_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "fingerprint.key"
    made = _key(file)
    assert len(made) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert _key(file) == made


def test_a_key_that_did_not_reach_the_disk_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(fd: int) -> NoReturn:
        raise OSError("power cut")

    monkeypatch.setattr(os, "fsync", lost)
    with pytest.raises(OSError, match="power cut"):
        _key(tmp_path / "fingerprint.key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 31])
def test_a_key_that_was_cut_short_is_refused(tmp_path: Path, size: int) -> None:
    file = tmp_path / "kept.key"
    file.write_bytes(b"k" * size)
    with pytest.raises(ConfigError, match=f"kept.key holds {size} bytes") as refused:
        _key(file)
    assert "backup" in refused.value.remedy


async def test_the_proxy_of_the_host_is_the_one_of_its_sandboxes(tmp_path: Path) -> None:
    seen = asyncio.Event()

    async def outer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"GET http://mirror.example/ HTTP/1.1\r\n"
        seen.set()
        writer.close()

    server = await asyncio.start_server(outer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    egress = EgressConfig(allow=["mirror.example:80"], upstream=f"127.0.0.1:{port}")
    audit = SimpleNamespace(note=lambda *_, **__: asyncio.sleep(0))
    proxy = _Backend(Config(egress=egress), Paths.under(tmp_path))._egress_proxy(cast("Audit", audit))
    inner = await asyncio.start_server(lambda r, w: proxy.serve(r, w, client="SBX-1"), "127.0.0.1", 0)
    _, guest = await asyncio.open_connection("127.0.0.1", inner.sockets[0].getsockname()[1])
    guest.write(b"GET http://mirror.example/ HTTP/1.1\r\n\r\n")
    await asyncio.wait_for(seen.wait(), 10)
    for one in (guest, inner, server):
        one.close()


def test_an_upstream_that_is_no_address_ends_the_start_with_a_line(tmp_path: Path) -> None:
    config = Config(egress=EgressConfig(allow=[], upstream="http://proxy"))
    with pytest.raises(ConfigError, match=r"egress\.upstream"):
        _Backend(config, Paths.under(tmp_path))._egress_proxy(cast("Audit", None))


async def test_the_old_rows_of_the_audit_are_verified_too_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "AUDIT_VERIFY_S", 0)
    monkeypatch.setattr(daemon, "AUDIT_WHOLE_EVERY", 3)
    asked: list[bool] = []

    async def verify(*, whole: bool) -> AuditReport:
        asked.append(whole)
        if len(asked) == 5:
            raise asyncio.CancelledError
        return AuditReport(True, 0)

    with pytest.raises(asyncio.CancelledError):
        await _Backend(Config(), Paths.under(tmp_path))._verify(cast("Audit", SimpleNamespace(verify=verify)))
    assert asked == [True, False, False, True, False]
