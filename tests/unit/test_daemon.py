"""The installation's own keys: there whole, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NoReturn

import pytest

from backend.daemon import _key
from backend.errors import ConfigError


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
