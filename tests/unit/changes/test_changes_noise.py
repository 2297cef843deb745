"""What is hidden, what never is, and the blob store."""

from __future__ import annotations

import stat

import pytest

from backend.changes import BlobStore, NoiseProfile
from backend.errors import BadRequest, NotFound
from backend.models import ChangeVerb, FileKind, wire_path

PROFILE = NoiseProfile.default()


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("/var/log/nginx/access.log", "logs"),
        ("/var/lib/dpkg/status", "package database"),
        ("/var/lib/dpkg/info/x.list", "package database"),
        ("/root/.ansible/tmp/x", "tool droppings"),
        ("/usr/lib/python3/x/__pycache__/y.cpython-311.pyc", "compiled Python"),
        ("/etc/passwd", "accounts"),
        ("/etc/passwd-", "account backups"),
        ("/etc/ssh/ssh_host_ed25519_key", "host keys"),
        ("/etc/ssh/sshd_config", ""),
        ("/etc/passwd.d/x", ""),
        ("/var/logs", ""),
        ("/home/a/.cache/x", "caches"),
        ("/home/a/b/.cache", ""),
    ],
)
def test_what_a_machine_changes_by_itself_is_hidden_under_its_rule(change, path, rule):
    assert PROFILE.hides(change(path, ChangeVerb.MODIFIED, sha256="b" * 64)) == rule


def test_hidden_names_may_hold_any_byte(change):
    assert PROFILE.hides(change(wire_path(b"/var/log/\xff\n%41"))) == "logs"


def test_an_account_file_that_everybody_may_read_is_not_noise(change):
    assert PROFILE.hides(change("/etc/shadow", ChangeVerb.METADATA, mode=0o666)) == ""


@pytest.mark.parametrize(
    "values",
    [{"mode": 0o4755}, {"mode": 0o2755}, {"kind": FileKind.BLOCK}, {"xattrs": {"security.capability": "01"}}],
)
def test_what_gives_rights_is_never_hidden(change, values):
    assert PROFILE.hides(change("/var/tmp/x", **values)) == ""


def test_a_blob_is_kept_once_readable_by_its_owner_only(tmp_path):
    store = BlobStore(tmp_path / "blobs")
    name = store.put(b"content")
    assert store.put(b"content") == name
    assert store.get(name) == b"content"
    assert stat.S_IMODE(store.path(name).stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == [name]


def test_a_blob_that_is_not_there_damaged_or_misnamed_is_refused(tmp_path):
    store = BlobStore(tmp_path)
    name = store.put(b"content")
    store.path(name).write_bytes(b"other")
    with pytest.raises(NotFound, match="damaged"):
        store.get(name)
    with pytest.raises(NotFound, match="no blob"):
        store.get("0" * 64)
    with pytest.raises(BadRequest):
        store.get("../../etc/passwd")
