"""What dpkg, the account files and systemd's folders say, also when a hostile guest wrote them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.changes.accounts import CHANGED, group_changes, parse_accounts, user_changes
from backend.changes.dpkg import (
    hold_changes,
    merged,
    package_changes,
    parse_auto,
    parse_status,
    parse_sums,
    windows,
)
from backend.changes.units import LOCAL, started, unit_changes, unit_states
from backend.disks import Listed
from backend.models import ChangeVerb

STATUS = b"""Package: nginx
Status: install ok installed
Architecture: amd64
Version: 1.22.1-9
Conffiles:
 /etc/nginx/nginx.conf 1234
 /etc/nginx/old 5678 obsolete

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36

Package: libc6
Status: install ok installed
Architecture: i386
Version: 2.36

Package: gone
Status: deinstall ok config-files
Version: 1
"""


def test_installed_packages_with_their_configuration_files():
    found = parse_status(STATUS)
    assert list(found) == ["nginx", "libc6", "libc6:i386"]
    assert found["nginx"].conffiles == {b"/etc/nginx/nginx.conf": "1234", b"/etc/nginx/old": "5678"}


def test_packages_that_came_went_and_were_upgraded():
    before = parse_status(STATUS)
    after = parse_status(STATUS.replace(b"1.22.1-9", b"1.24").replace(b"i386", b"arm64"))
    found = {(one.name, one.arch): one for one in package_changes(before, after, {"libc6"}, {"libc6"})}
    assert found["nginx", "amd64"].verb is ChangeVerb.MODIFIED
    assert (found["nginx", "amd64"].before_version, found["nginx", "amd64"].after_version) == (
        "1.22.1-9",
        "1.24",
    )
    assert found["libc6", "i386"].verb is ChangeVerb.REMOVED
    assert found["libc6", "arm64"].verb is ChangeVerb.ADDED
    assert not found["libc6", "arm64"].wanted
    assert found["nginx", "amd64"].wanted


def test_a_package_that_is_held_and_no_longer():
    free, held = parse_status(STATUS), parse_status(STATUS.replace(b"install ok", b"hold ok", 1))
    (found,) = hold_changes(free, held)
    assert (found.name, found.before, found.after) == ("hold of nginx", {}, {"held": "yes"})
    assert hold_changes(held, free)[0].verb is ChangeVerb.REMOVED
    assert package_changes(free, held, set(), set()) == []


def test_asking_for_a_package_that_was_pulled_in_is_a_change_of_its_own():
    packages = parse_status(STATUS)
    auto = parse_auto(
        b"Package: nginx\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: x\nAuto-Installed: 0\n"
    )
    assert auto == {"nginx"}
    (found,) = package_changes(packages, packages, auto, set())
    assert (found.name, found.verb, found.wanted) == ("nginx", ChangeVerb.METADATA, True)


def test_sums_and_paths_are_told_as_on_a_merged_system():
    assert parse_sums(b"abc  lib/systemd/system/x.service\nrubbish\n") == {
        b"/usr/lib/systemd/system/x.service": "abc"
    }
    assert merged(b"/etc/lib/x") == b"/etc/lib/x"


def test_windows_of_package_scripts():
    old = b"2026-01-01 10:00:00 startup archives unpack\n"
    new = old + (
        b"2026-01-01 10:00:01 install nginx:amd64 <none> 1.22\n"
        b"2026-01-01 10:00:01 status half-installed nginx:amd64 1.22\n"
        b"2026-01-01 10:00:02 status unpacked nginx:amd64 1.22\n"
        b"2026-01-01 10:00:05 configure nginx:amd64 1.22 <none>\n"
        b"2026-01-01 10:00:05 status unpacked nginx:amd64 1.22\n"
        b"2026-01-01 10:00:05 status half-configured nginx:amd64 1.22\n"
        b"2026-01-01 10:00:17 status installed nginx:amd64 1.22\nnonsense\n9999-99-99 99:99:99 install x\n"
        b"2026-01-01 10:00:20 status installed old:amd64 1\n"
        b"2026-01-01 10:00:20 remove old:amd64 1 <none>\n"
        b"2026-01-01 10:00:20 status installed old:amd64 1\n"
        b"2026-01-01 10:00:26 status config-files old:amd64 1\n"
        b"2026-01-01 10:00:30 upgrade up:all 1 2\n"
        b"2026-01-01 10:00:30 status half-configured up:all 1\n"
        b"2026-01-01 10:00:31 status unpacked up:all 1\n"
        b"2026-01-01 10:00:39 status unpacked up:all 2\n"
    )
    first = 1_767_261_600.0
    found = windows(old, new, first + 39.25)
    assert [(w.start - first, w.end - first, w.package) for w in found] == [
        (1, 3, "nginx"),
        (5, 18, "nginx"),
        (20, 27, "old"),
        (30, 39.25, "up"),
    ]


PASSWD = b"root:x:0:0:root:/root:/bin/bash\nweb:x:33:33::/srv:/usr/sbin/nologin\n"
GROUP = b"root:x:0:\nweb:x:33:\nsudo:x:27:web,ann\n"


def test_accounts_of_two_points():
    before = parse_accounts(PASSWD, GROUP, b"root:set~aaaa:1\nweb:locked:1\n")
    after = parse_accounts(
        PASSWD.replace(b"/srv", b"/home/web") + b"new:x:1001:1001::/home/new:/bin/sh\n",
        GROUP.replace(b"web,ann", b"ann"),
        b"root:set~bbbb:1\nweb:locked:1\nnew:none:1\n",
    )
    users = {change.name: change for change in user_changes(before, after, {})}
    assert users["root"].after["password"] == CHANGED
    assert users["web"].before["groups"] == "sudo"
    assert (users["web"].after["groups"], users["web"].after["home"]) == ("", "/home/web")
    assert (users["new"].verb, users["new"].after["password"]) == (ChangeVerb.ADDED, "none")
    (group,) = group_changes(before, after, {})
    assert (group.name, group.after["members"]) == ("sudo", "ann")


def test_a_password_s_age_is_told_where_it_is_not_the_usual_one():
    before = parse_accounts(PASSWD, GROUP, b"root:locked:1:0:99999:7:::\nweb:locked:1:0:99999:7:::\n")
    after = parse_accounts(PASSWD, GROUP, b"root:locked:2:0:99999:7:::\nweb:locked:2:0:90:7::20000:\n")
    (change,) = user_changes(before, after, {})
    assert (change.name, change.after["ageing"]) == ("web", "at most 90, expires 20000")
    assert "ageing" not in change.before


def test_an_account_that_a_package_s_script_makes_is_the_package_s():
    empty = parse_accounts(b"", b"", b"")
    after = parse_accounts(PASSWD, GROUP, b"")
    makers = {"nginx": "adduser --system web", "other": "echo web"}
    assert {change.name: change.package for change in user_changes(empty, after, makers)} == {
        "root": "",
        "web": "nginx",
    }


def test_units_that_are_defined_enabled_and_masked():
    def listing(*items: tuple[str, str]) -> dict[bytes, tuple[Listed, ...]]:
        local = tuple(
            Listed(path.encode(), "l" if target else "f", target.encode()) for path, target in items
        )
        return {LOCAL: local, b"/usr/lib/systemd/system": (Listed(b"ssh.service", "f", b""),)}

    before = unit_states(listing(("multi-user.target.wants/ssh.service", "/lib/systemd/system/ssh.service")))
    after = unit_states(
        listing(
            ("x.timer", ""), ("timers.target.wants/x.timer", "/etc/systemd/system/x.timer"),
            ("ssh.service", "/dev/null"),
            ("display.service", "/lib/systemd/system/gdm.service"),
        )
    )  # fmt: skip
    found = {
        change.name: change
        for change in unit_changes(before, after, set(), {b"ssh.service": "openssh-server"})
    }
    assert found["x.timer"].verb is ChangeVerb.ADDED
    assert found["x.timer"].after.enabled
    assert found["ssh.service"].before.enabled
    assert (found["ssh.service"].after.enabled, found["ssh.service"].after.masked) == (False, True)
    assert found["ssh.service"].package == "openssh-server"
    assert found["gdm.service"].after.enabled
    assert unit_changes(before, before, {b"ssh.service"}, {})[0].verb is ChangeVerb.MODIFIED


def test_an_instance_is_defined_where_its_template_is():
    wanted = tuple(
        Listed(f"multi-user.target.wants/{name}@a.service".encode(), "l", b"x") for name in ("wg-quick", "no")
    )
    states = unit_states({LOCAL: wanted, b"/lib/systemd/system": (Listed(b"wg-quick@.service", "f", b""),)})
    assert [states[name].defined for name in (b"wg-quick@a.service", b"no@a.service")] == [True, False]
    assert states[b"wg-quick@a.service"].enabled and not states[b"wg-quick@.service"].enabled


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_parsers_never_fail_on_what_a_guest_wrote(one, two, three):
    status = parse_status(one)
    package_changes(status, parse_status(two), parse_auto(three), set())
    parse_sums(one)
    windows(one, two, 0.0)
    before, after = parse_accounts(one, two, three), parse_accounts(two, three, one)
    user_changes(before, after, {"x": three.decode("latin-1")})
    group_changes(before, after, {})


def test_units_that_the_machine_starts_by_itself():
    vendor = b"/usr/lib/systemd/system"
    links = (b"multi-user.target.wants/a.service", b"sockets.target.wants/b.socket", b"x.wants/gone.service")
    names = (
        "a.service",
        "b.socket",
        "b.service",
        "off.service",
        "static.service",
        "no.service",
        "al.service",
    )
    listed = {
        LOCAL: [
            *(Listed(link, "l", b"x") for link in links),
            Listed(b"no.service", "l", b"/dev/null"),
            Listed(b"multi-user.target.wants/no.service", "l", b"x"),
            Listed(b"other.service", "l", b"/usr/lib/systemd/system/al.service"),
        ],
        vendor: [
            *(Listed(name.encode(), "f", b"") for name in names),
            Listed(b"sysinit.target.wants/static.service", "l", b"../static.service"),
        ],
    }
    assert started(listed) == ["a.service", "al.service", "b.service", "b.socket", "static.service"]
