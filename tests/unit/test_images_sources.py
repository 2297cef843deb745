"""Which package sources a guest image may be built from."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import InvalidValue, Unavailable
from backend.images.sources import (
    Entry,
    Release,
    first_mirror,
    moved,
    parse_deb822,
    parse_one_line,
    read_release,
    read_sources,
    release_named,
    select,
)

BOOKWORM = Release("debian", "12", "bookworm")
NOBLE = Release("ubuntu", "24.04", "noble")
MAIN = Entry("http://archive.test/debian", "bookworm", ("main",))

DEB822 = """\
Types: deb deb-src
# a comment inside a stanza
URIs: http://archive.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb-src
URIs: http://archive.test/source
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://archive.test/off
Suites: bookworm
Components: main
"""


def test_deb822_gives_one_entry_per_suite_and_skips_sources_and_disabled_stanzas() -> None:
    entries = parse_deb822(DEB822)
    assert [(entry.uri, entry.suite) for entry in entries] == [
        ("http://archive.test/debian", "bookworm"),
        ("http://archive.test/debian", "bookworm-updates"),
    ]
    assert entries[0].components == ("main", "contrib")
    assert entries[0].signed_by == "/usr/share/keyrings/debian-archive-keyring.gpg"


def test_one_line_entries_with_and_without_options() -> None:
    entries = parse_one_line(
        "# deb http://commented.test bookworm main\n"
        "deb [arch=amd64 signed-by=/etc/k.gpg trusted=yes] http://a.test bookworm main extra # tail\n"
        "deb-src http://a.test bookworm main\n"
        "deb http://b.test bookworm-security main\n"
    )
    assert entries == [
        Entry("http://a.test", "bookworm", ("main", "extra"), "/etc/k.gpg", True),
        Entry("http://b.test", "bookworm-security", ("main",)),
    ]


@pytest.mark.parametrize(
    ("foreign", "why"),
    [
        (Entry("http://d.test", "bookworm", ("stable",)), "components"),
        (Entry("http://d.test", "bookworm", ("main",), "/etc/apt/keyrings/docker.gpg"), "key"),
        (Entry("http://d.test", "bookworm-pgdg", ("main",)), "suite"),
        (Entry("http://d.test", "nodistro", ("main",)), "suite"),
        (Entry("http://d.test", "bookworm-backports", ("main",)), "suite"),
        (Entry("http://d.test", "bookworm", ("main",), trusted=True), "signature"),
        (Entry("http://d.test", "bookworm", ("main",), "-----BEGIN PGP PUBLIC KEY BLOCK-----"), "key"),
        (Entry("cdrom:[Debian]", "bookworm", ("main",)), "reach"),
        (Entry("file:/srv/mirror", "bookworm", ("main",)), "reach"),
    ],
)
def test_third_party_and_unreachable_entries_are_left_out_with_the_reason(foreign: Entry, why: str) -> None:
    selection = select([foreign, MAIN], BOOKWORM)
    assert [entry.uri for entry in selection.used] == [MAIN.uri]
    ((left_out, reason),) = selection.left_out
    assert left_out == foreign
    assert why in reason


def test_a_configuration_without_the_release_is_refused_with_a_remedy() -> None:
    with pytest.raises(Unavailable, match="bookworm") as caught:
        select([Entry("http://archive.test/debian", "trixie", ("main",))], BOOKWORM)
    assert "sources.list.d" in caught.value.remedy


def test_the_distribution_keyring_signs_what_names_no_key(tmp_path: Path) -> None:
    keyring = tmp_path / "debian-archive-keyring.gpg"
    keyring.touch()
    selection = select([MAIN, MAIN], BOOKWORM, tmp_path)
    assert [entry.signed_by for entry in selection.used] == [str(keyring)]
    assert parse_deb822(selection.deb822()) == list(
        parse_deb822(
            f"Types: deb\nURIs: {MAIN.uri}\nSuites: bookworm\nComponents: main\nSigned-By: {keyring}\n"
        )
    )


def test_ubuntu_components_are_ubuntus() -> None:
    selection = select(
        [
            Entry("http://u.test/ubuntu/", "noble-security", ("main", "universe")),
            Entry("http://u.test/ubuntu/", "noble", ("main", "universe")),
        ],
        NOBLE,
    )
    assert {entry.suite for entry in selection.used} == {"noble", "noble-security"}
    assert select([MAIN], BOOKWORM).used
    with pytest.raises(Unavailable):
        select([Entry("http://u.test/ubuntu", "noble", ("contrib",))], NOBLE)


def test_the_mirror_list_of_cloud_images_is_followed(tmp_path: Path) -> None:
    listing = tmp_path / "debian.list"
    listing.write_text("# mirrors\nhttps://first.test/debian priority:1\nhttps://second.test/debian\n")
    assert first_mirror(f"mirror+file://{listing}") == "https://first.test/debian"
    entry = Entry(f"mirror+file:{listing}", "bookworm", ("main",))
    assert select([entry], BOOKWORM).used[0].uri == "https://first.test/debian"


def test_both_places_and_both_formats_of_a_host_are_read(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://one.test bookworm main\n")
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "a.sources").write_text(DEB822)
    (parts / "b.list.disabled").write_text("deb http://no.test bookworm main\n")
    assert {entry.uri for entry in read_sources(tmp_path)} == {
        "http://one.test",
        "http://archive.test/debian",
    }


def test_the_release_names_the_image(tmp_path: Path) -> None:
    file = tmp_path / "os-release"
    file.write_text('NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n')
    assert read_release(file) == NOBLE
    assert NOBLE.image_name == "ubuntu-24-04"
    assert BOOKWORM.image_name == "debian-12"
    file.write_text("ID=arch\n")
    with pytest.raises(InvalidValue, match="arch"):
        read_release(file)


def test_another_release_is_built_of_the_host_s_sources_with_its_suite() -> None:
    trixie = release_named("debian-13", BOOKWORM)
    assert trixie == Release("debian", "13", "trixie")
    whole, one = "/usr/share/keyrings/debian-archive-keyring.gpg", "/k/debian-archive-bookworm-stable.gpg"
    entries = [
        Entry("http://a.test", "bookworm", ("main", "non-free-firmware"), whole),
        Entry("http://a.test", "bookworm-updates", ("main",), one),
        Entry("http://s.test", "bookworm-security", ("main",)),
        Entry("http://third.test", "bookworm", ("nodistro",)),
        Entry("http://b.test", "bookworm-backports", ("main",)),
        Entry("http://own.test", "trixie", ("main",)),
    ]
    assert [(entry.uri, entry.suite, entry.signed_by) for entry in moved(entries, BOOKWORM, trixie)] == [
        ("http://own.test", "trixie", ""),
        ("http://a.test", "trixie", whole),
        ("http://a.test", "trixie-updates", ""),
        ("http://s.test", "trixie-security", ""),
    ]
    assert moved(entries, BOOKWORM, BOOKWORM) == entries


@pytest.mark.parametrize("name", ["debian-11", "ubuntu-24-04", "plan9", ""])
def test_a_release_that_this_host_s_sources_cannot_serve_is_refused_with_those_that_they_can(
    name: str,
) -> None:
    with pytest.raises(InvalidValue, match="cannot be built on this host") as caught:
        release_named(name, BOOKWORM)
    assert "debian-12|debian-13" in caught.value.remedy
