"""What is hidden, what never is, and the blob store."""

from __future__ import annotations

import stat

import pytest

from backend.changes import BlobStore, NoiseProfile
from backend.changes.noise import Attribute, Rule
from backend.changes.states import verb
from backend.errors import BadRequest, ConfigError, NotFound
from backend.models import ChangeVerb, FileChange, FileKind, wire_path

PROFILE = NoiseProfile.default()


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("/var/log/nginx/access.log", "logs"),
        ("/var/lib/dpkg/status", "package database"),
        ("/var/lib/dpkg/info/x.list", "package database"),
        ("/usr/lib/sysimage/libdnf5/transaction_history.sqlite", "package database"),
        ("/root/.ansible/tmp/x", "tool droppings"),
        ("/usr/lib/python3/x/__pycache__/y.cpython-311.pyc", "compiled Python"),
        ("/etc/passwd", "accounts"),
        ("/etc/passwd-", "account backups"),
        ("/etc/ssh/ssh_host_ed25519_key", "host keys"),
        ("/etc/ssh/sshd_config", ""),
        ("/etc/passwd.d/x", ""),
        ("/var/logs", ""),
        ("/var/lib/systemd/linger/ann", ""),
        ("/var/lib/systemd/random-seed", "package scripts"),
        ("/home/a/.cache/x", "caches"),
        ("/home/a/b/.cache", ""),
    ],
)
def test_what_a_machine_changes_by_itself_is_hidden_under_its_rule(change, path, rule):
    assert PROFILE.hides(change(path, ChangeVerb.MODIFIED, sha256="b" * 64)) == rule


@pytest.mark.parametrize(
    "path",
    ["/var/lib/dpkg/info", "/var/lib/dpkg/info/x.postrm", "/var/lib/apt/lists", "/var/lib/systemd/timers"],
)
@pytest.mark.parametrize("values", [{"uid": 33}, {"gid": 33}, {"mode": 0o666}])
def test_who_may_write_what_packages_run_as_root_is_no_noise(change, path, values):
    assert PROFILE.hides(change(path, ChangeVerb.METADATA, **values)) == ""


@pytest.mark.parametrize(
    ("path", "verb", "values"),
    [
        ("/var/lib/dpkg/info/x.postrm", ChangeVerb.ADDED, {"mode": 0o755}),
        ("/var/lib/dpkg/info/x.postrm", ChangeVerb.REMOVED, {}),
        ("/var/lib/apt/lists/x_InRelease", ChangeVerb.ADDED, {"uid": 42, "owner": "_apt"}),
        ("/var/lib/apt/lists/partial", ChangeVerb.METADATA, {"uid": 42, "mode": 0o700}),
        ("/var/lib/systemd/timesync/clock", ChangeVerb.METADATA, {"uid": 997}),
        ("/var/lib/systemd/linked", ChangeVerb.ADDED, {"uid": 997}),
    ],
)
def test_what_packages_and_services_do_there_by_themselves_is(change, path, verb, values):
    assert PROFILE.hides(change(path, verb, **values)) in (
        "package database",
        "package lists",
        "package scripts",
    )


@pytest.mark.parametrize("values", [{"uid": 33}, {"mode": 0o777}])
def test_what_is_new_among_packages_and_not_root_s_alone_is_no_noise(change, values):
    assert PROFILE.hides(change("/var/lib/dpkg/info/x.postrm", ChangeVerb.ADDED, **values)) == ""
    link = change("/var/lib/dpkg/x", ChangeVerb.ADDED, kind=FileKind.LINK, mode=0o777)
    assert PROFILE.hides(link) == "package database"


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


OWN = """# what our machines do
/srv/uploads/**  none  uploads
/etc/app.db      metadata  "state of app"
/var/log/audit/** content+removed
'/srv/with space' owner+group spaced
"""


@pytest.mark.parametrize(
    ("path", "values", "rule"),
    [
        ("/srv/uploads/a", {"sha256": "b" * 64, "mode": 0o600}, "uploads"),
        ("/srv/uploads/a", {"mode": 0o4755}, ""),  # never hidden
        ("/etc/app.db", {"sha256": "b" * 64}, "state of app"),
        ("/etc/app.db", {"sha256": "b" * 64, "gid": 5}, ""),
        ("/var/log/audit/a", {"sha256": "b" * 64}, ""),  # before the default, which hides logs
        ("/var/log/audit/a", {"mode": 0o600}, "/var/log/audit/**"),
        ("/srv/with space", {"sha256": "b" * 64, "mode": 0o600}, "spaced"),
        ("/srv/with space", {"uid": 7}, ""),
        ("/var/log/other", {"sha256": "b" * 64}, "logs"),
    ],
)
def test_a_user_s_rules_say_which_attributes_count(change, tmp_path, path, values, rule):
    (tmp_path / "noise.conf").write_text(OWN)
    profile = NoiseProfile.load(tmp_path / "noise.conf")
    assert profile.hides(change(path, ChangeVerb.MODIFIED, **values)) == rule


def test_what_came_and_what_went_count_apart(change, tmp_path):
    (tmp_path / "noise.conf").write_text("/x/* added\n")
    profile = NoiseProfile.load(tmp_path / "noise.conf")
    assert profile.hides(change("/x/a", ChangeVerb.ADDED)) == ""
    assert profile.hides(change("/x/a", ChangeVerb.REMOVED)) == "/x/*"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("srv none", "no absolute pattern"), ("/srv sha512", "'sha512' is none of"),
        ("/srv 'none", "No closing"), ("/srv", "is none of"), ("/srv \udcff", "codec"),
    ],
)  # fmt: skip
def test_a_rule_that_makes_no_sense_is_refused_with_its_line(tmp_path, line, why):
    file = tmp_path / "noise.conf"
    file.write_bytes(b"# first\n" + line.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=rf"noise.conf:2: .*{why}"):
        NoiseProfile.load(file)


def test_a_file_that_anybody_can_write_decides_nothing(tmp_path):
    file = tmp_path / "noise.conf"
    file.write_text(OWN)
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="anybody can write"):
        NoiseProfile.load(file)
    assert NoiseProfile.load(tmp_path / "none") == PROFILE


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


def test_a_content_that_was_not_hashed_counts_unless_it_is_known_to_be_the_same(state):
    profile = NoiseProfile((Rule("mine", ("/srv/**",), Attribute.CONTENT),))
    large = {"before": state(sha256=None, mode=0o600), "after": state(sha256=None)}
    told = [
        profile.hides(FileChange(path="/srv/x.img", verb=what, **large))
        for what in (verb(**large), verb(**large, same_content=True))
    ]
    assert told == ["", "mine"]
