"""A file that is made once, whoever else makes it, and whatever ends who does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from backend.whole_files import write_first


def test_a_file_that_did_not_reach_the_disk_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(fd: int) -> NoReturn:
        raise OSError("power cut")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
        patch.setattr(os, "fsync", lost)
        write_first(tmp_path / "id", b"one")
    assert list(tmp_path.iterdir()) == []
    write_first(tmp_path / "id", b"two")
    write_first(tmp_path / "id", b"three")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("id", b"two")]
