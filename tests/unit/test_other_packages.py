"""Packages of a target against the rehearsal's, from what apt and dpkg themselves say."""

from __future__ import annotations

import pytest

from backend.models import Changes, ChangeVerb, PackageChange, Run, RunEvent, RunKind, now
from backend.playbooks import other_packages

ADDED, REMOVED = ChangeVerb.ADDED, ChangeVerb.REMOVED
NGINX = PackageChange(name="nginx", verb=ADDED, after_version="1.22.1-9", wanted=True)
COMMON = PackageChange(name="nginx-common", verb=ADDED, after_version="1.22.1-9")


def changes(*packages: PackageChange) -> Changes:
    return Changes(
        id="CHG-1",
        sandbox_id="SBX-1",
        from_snapshot="",
        to_snapshot="",
        created_at=now(),
        packages=[*packages],
    )


def dry_run(*planned: dict[str, str], host: str = "web-01") -> Run:
    events = [RunEvent(at=now(), host=host, status="changed", packages=one) for one in planned]
    return Run(id="RUN-1", kind=RunKind.DRY_RUN, events=events, started_at=now())


def status(**packages: str) -> bytes:
    rest = "Status: install ok installed\nArchitecture: amd64"
    return "\n".join(
        f"Package: {name.replace('_', '-')}\n{rest}\nVersion: {version}\n"
        for name, version in packages.items()
    ).encode()


def test_the_same_packages_say_nothing() -> None:
    planned = dry_run({"nginx": "1.22.1-9", "nginx-common": "1.22.1-9"})
    assert other_packages(changes(NGINX, COMMON), planned, "web-01", status(bash="5.2")) == []
    there = status(nginx="1.22.1-9", nginx_common="1.22.1-9")
    assert other_packages(changes(NGINX, COMMON), dry_run(), "web-01", there) == []


def test_another_version_is_named_whether_it_is_there_or_would_come() -> None:
    words = "packages: another version on web-01 than (in the rehearsal): nginx 1.18.0-6 (1.22.1-9)"
    assert other_packages(changes(NGINX), dry_run(), "web-01", status(nginx="1.18.0-6")) == [words]
    assert other_packages(changes(NGINX), dry_run({"nginx": "1.18.0-6"}), "web-01", status()) == [words]


def test_what_an_upgrade_there_makes_equal_says_nothing() -> None:
    told = other_packages(changes(NGINX), dry_run({"nginx": "1.22.1-9"}), "web-01", status(nginx="1.18.0-6"))
    assert told == []


def test_what_would_go_and_what_would_come_besides_is_named() -> None:
    planned = dry_run({"nginx": "1.22.1-9", "libpcre3": "8.39"}, {"apache2": "", "apache2-bin": ""})
    assert other_packages(changes(NGINX), planned, "web-01", status(apache2="2.4")) == [
        "packages: web-01 would lose what the rehearsal did not: apache2, apache2-bin",
        "packages: web-01 would get what the rehearsal did not: libpcre3",
    ]


def test_what_the_rehearsal_removed_too_is_no_difference() -> None:
    gone = PackageChange(name="apache2", verb=REMOVED, before_version="2.4")
    assert other_packages(changes(gone), dry_run({"apache2": ""}), "web-01", status(apache2="2.4")) == []


def test_many_are_counted() -> None:
    planned = dry_run({f"lib{at}": "1" for at in range(9)})
    (told,) = other_packages(changes(NGINX), planned, "web-01", status(nginx="1.22.1-9"))
    assert told.endswith("lib0, lib1, lib2, lib3, lib4 and 4 more")


def test_the_plan_of_another_target_is_not_this_ones() -> None:
    planned = dry_run({"nginx": "1.18.0-6"}, host="web-02")
    assert other_packages(changes(NGINX), planned, "web-01", status(nginx="1.22.1-9")) == []


@pytest.mark.parametrize(("done", "told"), [(changes(), 0), (changes(NGINX), 1)])
def test_a_target_without_dpkg_is_not_compared_and_says_so_where_there_are_packages(
    done: Changes, told: int
) -> None:
    words = ["packages: not compared, web-01 tells no versions of its own"]
    assert other_packages(done, dry_run(), "web-01", None) == words[:told]
