"""What is sent into a guest tells what stands there, though it is written to in that moment."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.disks.records import Node, unpack
from backend.guests import _tell


def told(folder: Path) -> dict[bytes, Node]:
    """The nodes of a folder, by path."""
    base = os.fsencode(folder)
    records = [record for _, record, inner in _tell.rows(base, b"/") if inner is None]
    return {node.path: node for record in records for node in unpack(record)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "stays").write_text("x")
    return tmp_path


def before(monkeypatch: pytest.MonkeyPatch, call: str, path: Path, written: Callable[[], object]) -> None:
    """Do ``written`` once, just before ``call`` of the operating system on ``path``."""
    real, done = getattr(os, call), list[bool]()

    def first(name: bytes, *args: object, **more: object) -> object:
        if name == os.fsencode(path) and not done:
            done.append(True)
            written()
        return real(name, *args, **more)

    monkeypatch.setattr(_tell.os, call, first)


@pytest.mark.parametrize("call", ["lstat", "listxattr"])
def test_a_file_that_goes_meanwhile_is_not_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before(monkeypatch, call, folder / "file", (folder / "file").unlink)
    assert told(folder).keys() == {b"/link", b"/stays"}


def test_a_link_that_a_file_takes_the_place_of_is_told_as_that_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before(monkeypatch, "readlink", folder / "link", lambda: (folder / "stays").rename(folder / "link"))
    found = told(folder)
    assert (found[b"/link"].mode & 0o170000, found[b"/link"].target) == (0o100000, None)


def test_a_folder_that_a_file_takes_the_place_of_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "d"
    inner.mkdir()
    (inner / "x").touch()

    def replaced() -> None:
        (inner / "x").unlink()
        inner.rmdir()
        inner.touch()

    before(monkeypatch, "lstat", inner / "x", replaced)
    assert _tell.rows(os.fsencode(tmp_path), b"/d/") == []


def test_an_attribute_that_goes_meanwhile_takes_no_other_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a label beside which a capability is removed."""
    held = {"security.capability": None, "security.selinux": b"system_u:object_r:etc_t:s0\0"}

    def value(path: bytes, name: str, **_: object) -> bytes:
        if (found := held[name]) is None:
            raise OSError(errno.ENODATA, "gone")
        return found

    monkeypatch.setattr(_tell.os, "listxattr", lambda path, **_: list(held))
    monkeypatch.setattr(_tell.os, "getxattr", value)
    label = (b"security.selinux", held["security.selinux"])
    assert {node.xattrs for node in told(folder).values()} == {(label,)}
