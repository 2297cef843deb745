"""The residual names what a playbook leaves out, what it adds, and what is made anew."""

from __future__ import annotations

import pytest

from backend.changes import residual
from backend.models import (
    ChangeVerb,
    FileKind,
    GroupChange,
    PackageChange,
    SettingChange,
    SettingKind,
    UnitChange,
    UnitState,
    UserChange,
)

KEY = {"key": "rsa 2048", "private_key": "yes", "public": "1" * 16}
CERTIFICATE = {
    "subject": "CN=web-01", "issuer": "CN=web-01", "names": "DNS:web-01", "key": "rsa 2048",
    "extensions": "basicConstraints critical, CA:FALSE",
    "self_signed": "yes", "certificates": "1", "public": "1" * 16,
    "not_before": "2026-01-01T00:00:00+00:00", "not_after": "2027-01-01T00:00:00+00:00",
}  # fmt: skip


@pytest.fixture
def work(changes, change):
    """A change of every noun."""
    return changes(
        files=[
            change("/etc/app.conf"),
            change("/etc/cron.d/job", mode=0o600),
            change("/etc/old", ChangeVerb.REMOVED),
            change("/etc/site.crt", certificate=CERTIFICATE, sha256="1" * 64),
            change("/etc/site.key", secret="private key", certificate=KEY, mode=0o600, sha256="2" * 64),
            change("/srv/link", kind=FileKind.LINK, target="/etc/app.conf", sha256=None),
            change("/usr/bin/ping", ChangeVerb.METADATA, xattrs={"security.capability": "01"}),
        ],
        packages=[PackageChange(name="nginx", verb=ChangeVerb.ADDED, after_version="1.22", wanted=True)],
        units=[
            UnitChange(name="x.timer", verb=ChangeVerb.ADDED, after=UnitState(enabled=True, defined=True))
        ],
        users=[UserChange(name="deploy", verb=ChangeVerb.ADDED, after={"uid": "999", "password": "locked"})],
        groups=[GroupChange(name="deploy", verb=ChangeVerb.ADDED, after={"gid": "999", "members": ""})],
    )


NOUNS = ("files", "packages", "units", "users", "groups")
ANEW = {"/etc/site.crt", "/etc/site.key"}


def names(rows, kind):
    return {row.name for row in rows if row.kind == kind}


def twin(work):
    """The same work on another machine, which makes a key and a certificate of its own."""
    other = work.model_copy(deep=True)
    for at, sha256, facts in ((3, "3" * 64, CERTIFICATE), (4, "4" * 64, KEY)):
        other.files[at].after.sha256 = sha256
        other.files[at].after.certificate = {**facts, "public": "2" * 16}
    return other


def test_the_same_work_leaves_only_what_is_made_anew(work):
    rows = residual(work, twin(work))
    assert {row.kind for row in rows} == {"regenerated"}
    assert names(rows, "regenerated") == ANEW


def test_what_is_the_same_is_not_made_anew(work):
    assert residual(work, work) == []


@pytest.mark.parametrize("path", ["/root/.ssh/authorized_keys", "/usr/local/share/ca-certificates/a.crt"])
@pytest.mark.parametrize("facts", [{"public_key": "ed25519 256"}, CERTIFICATE])
def test_a_key_and_a_certificate_of_somebody_else_are_compared_by_their_content(work, change, path, facts):
    """They declare the same, and let somebody else in."""
    one, other = work, twin(work)
    for side, sign in ((one, "a"), (other, "b")):
        side.files.append(change(path, certificate={**facts, "public": sign * 16}, sha256=sign * 64))
    rows = residual(one, other)
    assert names(rows, "missing") == names(rows, "extra") == {path}


def test_what_belongs_to_a_key_made_anew_is_made_anew_with_it(work, change):
    one, other = work, twin(work)
    for path, facts in (
        ("/srv/id.pub", {"public_key": "rsa 2048"}),
        ("/srv/site.csr", {"request": "yes", "subject": "CN=web-01"}),
        ("/srv/signed.crt", {**CERTIFICATE, "self_signed": "no", "issuer": "CN=ca"}),
    ):
        for side, sign in ((one, "1"), (other, "2")):
            side.files.append(change(path, certificate={**facts, "public": sign * 16}, sha256=sign * 64))
    assert names(residual(one, other), "regenerated") == {
        *ANEW,
        "/srv/id.pub",
        "/srv/site.csr",
        "/srv/signed.crt",
    }


@pytest.mark.parametrize(
    ("noun", "at"), [(noun, at) for noun in NOUNS for at in range(7 if noun == "files" else 1)]
)
def test_each_thing_left_out_is_missing_and_each_thing_added_is_extra(work, noun, at):
    less = work.model_copy(deep=True)
    gone = getattr(less, noun).pop(at)
    name = getattr(gone, "path", None) or gone.name
    rows = residual(work, less)
    assert names(rows, "missing") == {name}
    assert names(rows, "extra") == set()
    assert next(row for row in rows if row.kind == "missing").noun == noun.removesuffix("s")
    rows = residual(less, work)
    assert names(rows, "extra") == {name}
    assert names(rows, "missing") == set()


@pytest.mark.parametrize(
    ("at", "field", "value"),
    [
        (0, "sha256", "b" * 64),
        (0, "mode", 0o600),
        (0, "owner", "www-data"),
        (0, "group", "www-data"),
        (0, "sha256", None),
        (5, "target", "/elsewhere"),
        (6, "xattrs", {}),
        (4, "mode", 0o644),
        (4, "certificate", {"key": "rsa 1024", "private_key": "yes", "public": "2" * 16}),
        (3, "certificate", {**CERTIFICATE, "names": "DNS:other", "public": "2" * 16}),
        (3, "certificate", {**CERTIFICATE, "not_after": "2036-01-01T00:00:00+00:00", "public": "2" * 16}),
        (3, "certificate", {**CERTIFICATE, "issuer": "CN=other", "public": "2" * 16}),
        (3, "certificate", {**CERTIFICATE, "chain": "CN=other", "public": "2" * 16}),
        (
            3,
            "certificate",
            {**CERTIFICATE, "extensions": "basicConstraints critical, CA:TRUE", "public": "2" * 16},
        ),
    ],
)
def test_a_difference_is_both_missing_and_extra(work, at, field, value):
    other = twin(work)
    setattr(other.files[at].after, field, value)
    rows = residual(work, other)
    path = work.files[at].path
    assert names(rows, "missing") == names(rows, "extra") == {path}
    assert path not in names(rows, "regenerated")


def test_what_is_made_anew_may_differ_in_content_and_dates(work):
    other = twin(work)
    later = {"not_before": "2026-02-01T00:00:00+00:00", "not_after": "2027-02-01T00:00:00+00:00"}
    other.files[3].after.certificate |= later
    rows = residual(work, other)
    assert {row.kind for row in rows} == {"regenerated"}
    assert "subject CN=web-01" in next(row.sandbox for row in rows if row.name == "/etc/site.crt")


def test_a_secret_that_a_packages_script_makes_is_made_anew(work, change):
    one, other = work.model_copy(deep=True), work.model_copy(deep=True)
    for side, sign in ((one, "c"), (other, "d")):
        made = change("/etc/bind/rndc.key", secret="credentials", sha256=sign * 64)
        side.files.append(made.model_copy(update={"package": "bind9"}))
    assert [(row.kind, row.name) for row in residual(one, other)] == [("regenerated", "/etc/bind/rndc.key")]
    other.files[-1].after.mode = 0o600
    assert names(residual(one, other), "missing") == {"/etc/bind/rndc.key"}


@pytest.mark.parametrize(
    ("path", "facts", "kind"),
    [
        ("/etc/aliases", {}, "regenerated"),
        ("/etc/aliases", {"size": 4096}, "missing"),
        ("/etc/aliases", {"mode": 0o666}, "missing"),
        ("/etc/other", {}, "missing"),
    ],
)
def test_a_table_of_the_same_text_may_hold_its_own_place(changes, change, path: str, facts, kind: str):
    one, other = (
        changes(files=[change(path), change(f"{path}.db", sha256=sign * 64)]) for sign in ("a", "b")
    )
    for name, value in facts.items():
        setattr(other.files[1].after, name, value)
    assert {row.kind for row in residual(one, other)} - {"extra"} == {kind}
    other.files[0].after.sha256 = "c" * 64
    assert names(residual(one, other), "missing") == {path, f"{path}.db"}


def test_a_packages_script_may_name_the_machine_in_a_certificate_and_in_the_link_to_it(work, change):
    one, other = twin(work), twin(work)
    for side, sign, link in ((one, "5", "0a1b2c3d"), (other, "6", "4e5f6a7b.0")):
        half = {"public": sign * 16}
        key = change(
            "/etc/ssl/private/a.key", secret="private key", certificate={**KEY, **half}, sha256=sign * 64
        )
        own = {**CERTIFICATE, **half, "subject": f"CN={sign}", "issuer": f"CN={sign}"}
        made = change("/etc/ssl/certs/a.pem", certificate=own, sha256=sign * 64)
        named = change(f"/etc/ssl/certs/{link}", kind=FileKind.LINK, target="a.pem", sha256=None)
        side.files += [each.model_copy(update={"package": "ssl-cert"}) for each in (key, made, named)]
    assert {row.kind for row in residual(one, other)} == {"regenerated"}
    for side in (one, other):
        for each in side.files[-3:]:
            each.package = ""
    assert names(residual(one, other), "missing") == {"/etc/ssl/certs/a.pem", "/etc/ssl/certs/0a1b2c3d"}


def test_a_secret_that_is_no_key_is_compared_by_fingerprint_and_never_shown(work, change):
    one, other = work.model_copy(deep=True), work.model_copy(deep=True)
    one.files.append(change("/root/.netrc", secret="credentials", sha256="c" * 64))
    other.files.append(change("/root/.netrc", secret="credentials", sha256="d" * 64))
    row = next(row for row in residual(one, other) if row.kind == "missing")
    assert row.name == "/root/.netrc"
    assert "cccc" not in row.sandbox + row.rehearsal


def test_numbers_of_owners_may_differ_when_their_names_are_the_same(work):
    other = work.model_copy(deep=True)
    for side, uid in ((work, 998), (other, 997)):
        side.files[0].after.owner, side.files[0].after.uid = "deploy", uid
    assert names(residual(work, other), "missing") == set()


def test_noise_is_left_out_on_both_sides(work, change):
    noisy = work.model_copy(deep=True)
    noisy.files.append(change("/var/log/x").model_copy(update={"hidden": "logs"}))
    assert residual(noisy, work) == residual(work, noisy) == residual(work, work)


def test_another_version_of_a_package_is_one_row_and_not_one_per_file(work, change):
    one, other = work.model_copy(deep=True), work.model_copy(deep=True)
    other.packages[0].after_version = "1.24"
    for side, digit in ((one, "5"), (other, "6")):
        side.files.append(
            change("/usr/sbin/nginx", sha256=digit * 64).model_copy(update={"package": "nginx"})
        )
    assert names(residual(one, other), "missing") == {"nginx"}


def package(name, version, arch="x86_64", verb=ChangeVerb.ADDED):
    versions = {"before_version" if verb is ChangeVerb.REMOVED else "after_version": version}
    return PackageChange(name=name, verb=verb, arch=arch, wanted=True, **versions)


@pytest.mark.parametrize(
    ("at", "name"),
    [(0, "libc6 (amd64)"), (1, "libc6 (i386)"), (2, "kernel 6.1"), (3, "kernel 6.2"), (4, "kernel 5.9")],
)
def test_architectures_and_versions_of_one_package_are_compared_each(changes, at, name):
    """As rpm keeps kernels beside each other, and dpkg a library for two architectures."""
    packages = [
        package("libc6", "2.36", "amd64"), package("libc6", "2.36", "i386"),
        package("kernel", "6.1"), package("kernel", "6.2"), package("kernel", "5.9", verb=ChangeVerb.REMOVED),
    ]  # fmt: skip
    whole = changes(packages=packages)
    less = changes(packages=packages[:at] + packages[at + 1 :])
    assert residual(whole, whole) == []
    assert [(row.kind, row.name) for row in residual(whole, less)] == [("missing", name)]
    assert [(row.kind, row.name) for row in residual(less, whole)] == [("extra", name)]


def test_a_package_of_another_architecture_is_another_one(changes, change):
    file = change("/usr/lib/x.so").model_copy(update={"package": "libx"})
    one = changes(packages=[package("libx", "1", "amd64")], files=[file])
    other = changes(packages=[package("libx", "1", "i386")])
    rows = [(row.kind, row.noun, row.name) for row in residual(one, other)]
    assert rows == [("missing", "package", "libx (amd64)"), ("extra", "package", "libx (i386)")]


def test_a_package_s_account_may_get_another_number(work):
    other = work.model_copy(deep=True)
    for side, uid in ((work, "101"), (other, "102")):
        side.users[0].package = "nginx"
        side.users[0].after["uid"] = uid
    assert names(residual(work, other), "missing") == set()


@pytest.mark.parametrize(
    ("ends", "rows"), [({}, set()), ({"shell": "/bin/bash"}, {"deploy"}), ({"groups": "sudo"}, {"deploy"})]
)
def test_what_an_account_had_and_keeps_is_compared_only_where_one_side_changed_it(changes, ends, rows):
    """As of a roll back: its target's user has a group that the twin's never had."""
    was = {"uid": "999", "shell": "/bin/zsh", "groups": "games"}
    target = UserChange(name="deploy", verb=ChangeVerb.MODIFIED, before=was, after=was | {"shell": "/bin/sh"})
    was = was | {"groups": ""}
    twin = UserChange(
        name="deploy", verb=ChangeVerb.MODIFIED, before=was, after=was | {"shell": "/bin/sh"} | ends
    )
    assert names(residual(changes(users=[target]), changes(users=[twin])), "missing") == rows


def test_what_one_side_hides_and_the_other_shows_is_compared(work, change):
    hides, shows = work.model_copy(deep=True), work.model_copy(deep=True)
    shows.files.append(change("/var/lib/nginx/body", kind=FileKind.DIRECTORY, sha256=None))
    hides.files.append(shows.files[-1].model_copy(update={"hidden": "service state"}, deep=True))
    assert residual(hides, shows) == residual(shows, hides) == residual(work, work)
    hides.files[-1].after.mode = 0o777
    assert names(residual(hides, shows), "extra") == names(residual(work, work), "extra") | {
        "/var/lib/nginx/body"
    }


def test_of_a_hidden_file_what_it_states_is_compared(changes, change):
    """Each machine's /etc/hosts holds its own name; an address that somebody added must be added again."""

    def machine(name: str, *addresses: str):
        file = change("/etc/hosts", ChangeVerb.MODIFIED, sha256=name * 64)
        file.hidden = "identity"
        entry = {"kind": SettingKind.HOSTS, "paths": ["/etc/hosts"]}
        own = SettingChange(
            name="127.0.1.1", verb=ChangeVerb.MODIFIED, after={"names": name}, hidden="identity", **entry
        )
        more = [
            SettingChange(name=one, verb=ChangeVerb.ADDED, after={"names": "db"}, **entry)
            for one in addresses
        ]
        return changes(files=[file], settings=[own, *more])

    assert residual(machine("a", "10.0.0.5"), machine("b", "10.0.0.5")) == []
    rows = residual(machine("a", "10.0.0.5"), machine("b", "10.0.0.6"))
    assert [(row.kind, row.noun, row.name) for row in rows] == [
        ("missing", "hosts entry", "10.0.0.5"),
        ("extra", "hosts entry", "10.0.0.6"),
    ]


@pytest.mark.parametrize(
    ("rehearsed", "missing"),
    [([("web", "identity")], []), ([("twin", "identity")], ["host name"]), ([], ["host name"])],
    ids=["set there too", "another name there", "not set"],
)
def test_what_one_side_takes_for_its_own_counts_where_the_other_means_it(
    changes, change, rehearsed: list[tuple[str, str]], missing: list[str]
):
    def machine(names: list[tuple[str, str]]):
        file = change("/etc/hostname", ChangeVerb.MODIFIED)
        file.hidden = "identity"
        return changes(
            files=[file],
            settings=[
                SettingChange(
                    kind=SettingKind.HOSTNAME,
                    name="host name",
                    verb=ChangeVerb.MODIFIED,
                    after={"value": name},
                    paths=["/etc/hostname"],
                    hidden=hidden,
                )
                for name, hidden in names
            ],
        )

    rows = residual(machine([("web", "")]), machine(rehearsed))
    assert [row.name for row in rows] == missing
    assert {row.kind for row in rows} <= {"missing"}


@pytest.mark.parametrize(
    ("uid", "gid", "group", "rows"),
    [
        ("997", "996", {"u": "996"}, 0),  # the next free ones of another machine
        ("997", "998", {"u": "998"}, 0),
        ("0", "998", {"u": "998"}, 2),  # never root
        ("99", "998", {"u": "998"}, 2),
        ("1000", "998", {"u": "998"}, 2),
        ("998", "27", {"u": "998"}, 2),  # in another group
        ("998", "996", {"u": "998", "v": "996"}, 3),
    ],
)
def test_the_number_of_a_system_account_means_nothing_and_its_group_does(changes, uid, gid, group, rows):
    def side(uid, gid, groups):
        return changes(
            users=[UserChange(name="u", verb=ChangeVerb.ADDED, after={"uid": uid, "gid": gid})],
            groups=[
                GroupChange(name=name, verb=ChangeVerb.ADDED, after={"gid": number, "members": ""})
                for name, number in groups.items()
            ],
        )

    assert len(residual(side("998", "998", {"u": "998"}), side(uid, gid, group))) == rows
