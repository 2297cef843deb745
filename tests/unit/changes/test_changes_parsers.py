"""What dpkg, the account files and systemd's folders say, also when a hostile guest wrote them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.changes.accounts import (
    CHANGED,
    group_changes,
    ids_changes,
    parse_accounts,
    strange_changes,
    user_changes,
)
from backend.changes.dpkg import (
    Log,
    hold_changes,
    merged,
    package_changes,
    parse_auto,
    parse_status,
    parse_sums,
    windows,
)
from backend.changes.units import LOCAL, started, unit_changes, unit_of, unit_states
from backend.disks import Listed
from backend.disks.contents import ShadowMask
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
    found, note = windows(Log(old, None), Log(new, first + 39.25))
    assert not note
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


def test_of_two_rows_of_a_name_the_first_counts_as_for_glibc():
    found = parse_accounts(
        PASSWD + b"web:x:0:0::/root:/bin/sh\n",
        GROUP + b"web:x:34:\n",
        b"web:none:1:0:99999:7:::\nweb:locked:1:0:99999:7:::\n",
    )
    assert (found.users["web"]["uid"], found.users["web"]["password"]) == ("33", "none")
    assert found.groups["web"]["gid"] == "33"
    assert found.user_names[0] == "root"


def test_a_member_is_in_the_group_that_has_the_number_first_whatever_the_row_calls_it():
    members = [b"sudo:x:27:web\nsudo:x:27:ann\n", b"sudo:x:27:web\nother:x:27:ann\n"]
    passwd = PASSWD + b"ann:x:1000:1000::/:/bin/sh\n"
    told = [parse_accounts(passwd, group, b"").users["ann"]["groups"] for group in members]
    assert told == ["sudo", "other,sudo"]


def test_numbers_are_read_as_glibc_reads_them():
    told = [b"0", b"007", b"+5", b" 6", b"-0", b"-1", b"4294967296", b"9" * 5000]
    passwd = b"".join(b"u%d:x:%s:1::/:/bin/sh\n" % (at, uid) for at, uid in enumerate(told))
    found = parse_accounts(passwd, b"", b"")
    assert [user["uid"] for user in found.users.values()] == [
        "0", "7", "5", "6", "0", "4294967295", "4294967295", "4294967295",
    ]  # fmt: skip
    odd = ["\u00b2", "\u0661", "1e3", "0x0", "1_0", "6\u2028", "", "6 "]
    passwd = "".join(f"u{at}:x:{uid}:1::/:/bin/sh\n" for at, uid in enumerate(odd)).encode()
    found = parse_accounts(passwd, b"", b"")
    assert (found.users, len(found.strange["/etc/passwd"])) == ({}, len(odd))


def test_a_line_of_dpkg_ends_where_dpkg_ends_it():
    forged = "Package: a\nStatus: install ok installed\nVersion: 1\nNote: x\u2028Version: 2\n".encode()
    assert parse_status(forged)["a"].version == "1"
    assert parse_sums(b"abc  etc/a\rdef  etc/b\n") == {b"/etc/a\rdef  etc/b": "abc"}
    log = (
        "2026-01-01 10:00:01 install a:all <none> 1\x852026-01-01 10:00:02 status unpacked a:all 1\n"
    ).encode()
    assert windows(Log(b"", None), Log(log, None)) == ([], "")


def logged(*lines: str) -> bytes:
    """A log in which a package is installed at each of the local times."""
    return "".join(
        f"2026-{at} install p{number}:all <none> 1\n2026-{at} status unpacked p{number}:all 1\n"
        for number, at in enumerate(lines)
    ).encode()


def epoch(text: str) -> float:
    return datetime.fromisoformat(f"2026-{text}+00:00").timestamp()


@pytest.mark.parametrize("hours", [0, 1, 2, 5.75, -8])
def test_the_log_s_local_time_is_known_by_when_its_last_line_was_written(hours: float):
    local = datetime.fromtimestamp(epoch("06-01 12:00:00") + hours * 3600, UTC)
    log = Log(logged(f"{local:%m-%d %H:%M:%S}"), epoch("06-01 12:00:00") + 0.4)
    assert [(one.start, note) for found, note in [windows(Log(b"", None), log)] for one in found] == [
        (epoch("06-01 12:00:00"), "")
    ]


def test_the_hour_that_comes_twice_is_two_hours():
    """Europe/Berlin, 25 October 2026: at 01:00 UTC it is 02:00 again."""
    old = logged("10-25 01:30:00")
    new = logged("10-25 01:30:00", "10-25 02:50:00", "10-25 02:10:00")
    found, note = windows(Log(old, epoch("10-24 23:30:00") + 0.2), Log(new, epoch("10-25 01:10:00") + 0.2))
    assert [one.start for one in found] == [epoch("10-25 00:50:00"), epoch("10-25 01:10:00")]
    assert "shifted" in note


def test_where_the_zone_was_set_meanwhile_the_longest_pause_is_when():
    """From UTC to UTC+1 between two runs of apt."""
    old = logged("06-01 10:00:00")
    new = logged("06-01 10:00:00", "06-01 10:01:00", "06-01 11:09:00", "06-01 11:09:30")
    found, note = windows(Log(old, epoch("06-01 10:00:00")), Log(new, epoch("06-01 10:09:30") + 0.9))
    assert [one.start for one in found] == [
        epoch(f"06-01 {at}") for at in ("10:01:00", "10:09:00", "10:09:30")
    ]
    assert "shifted" in note


@pytest.mark.parametrize("written", ["06-01 10:07:00", "06-04 10:00:00"])
def test_a_log_that_something_else_wrote_to_is_taken_for_utc_and_that_is_said(written: str):
    found, note = windows(Log(b"", None), Log(logged("06-01 10:00:00"), epoch(written)))
    assert [one.start for one in found] == [epoch("06-01 10:00:00")]
    assert "taken for UTC" in note


def test_who_rules_a_group_and_whether_its_password_opens_it_are_told_and_a_hash_never_is():
    group = b"root:x:0:\nops:x:27:ann\nweb:x:33:\n"
    masks = [ShadowMask(b"k").mask_groups, ShadowMask(b"k").mask_groups]
    shadows = [
        b"root:*::\nops:!::ann\nweb:$y$j9T$one::\n",
        b"root:*::\nops:$y$j9T$hash:mallory:ann,eve\nweb:$y$j9T$two::$y$j9T$lost\nodd\n",
    ]
    before, after = (
        parse_accounts(None, group, None, mask(one)) for mask, one in zip(masks, shadows, strict=True)
    )
    assert before.groups["root"] == {"gid": "0", "members": ""}
    told = {one.name: (one.before, one.after) for one in group_changes(before, after, {})}
    assert told == {
        "ops": (
            {"gid": "27", "members": "ann"},
            {
                "gid": "27", "members": "ann", "administrators": "mallory", "password": "set",
                "more members by gshadow": "eve",
            },
        ),
        "web": (
            {"gid": "33", "members": "", "password": "set"},
            {"gid": "33", "members": "", "password": "set, changed", "more members by gshadow": "?"},
        ),
    }  # fmt: skip
    assert b"j9T" not in ShadowMask().mask_groups(shadows[1])


def test_a_password_that_stands_in_passwd_itself_is_told_when_it_changes():
    before, after = (parse_accounts(f"ann:{one}:1:1::/:/x\n".encode(), None, None) for one in ("aa1", "bb2"))
    ((one,), same) = user_changes(before, after, {}), user_changes(before, before, {})
    assert (one.before["password"], one.after["password"], same) == ("set", "set, changed", [])
    assert "bb2" not in str(one)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("", "ann:100000:65536\n", []),
        ("ann:100000:65536\n", "", []),
        ("", "bob:100000:65536\n", ["/etc/subuid: bob:100000:65536"]),  # he was there before
        ("", "ann:0:65536\n", ["/etc/subuid: ann:0:65536"]),
        ("", "ann:0x0:1\n", ["/etc/subuid: ann:0x0:1"]),
        ("bob:1:1\n", "", ["/etc/subuid: no longer so: bob:1:1"]),
        (
            "",
            "\n".join(map(str, range(9))),
            [*(f"/etc/subuid: {n}" for n in range(5)), "/etc/subuid: and 4 more of such rows"],
        ),
    ],
)
def test_ids_beside_its_own_that_an_account_did_not_get_when_it_was_made_are_told(before, after, told):
    assert ids_changes("/etc/subuid", before.encode(), after.encode(), {"ann"}) == told


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
    for other, owner in (("caddy", ""), ("web", "web")):
        several = {"nginx": "adduser --system web", other: "adduser --system caddy; adduser caddy web"}
        assert {one.name: one.package for one in user_changes(empty, after, several)}["web"] == owner


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


def test_of_a_unit_in_several_folders_the_first_counts():
    def folder(name: bytes, path: str, target: str = "") -> dict[bytes, tuple[Listed, ...]]:
        return {name: (Listed(path.encode(), "l" if target else "f", target.encode()),)}

    local, usr = b"/usr/local/lib/systemd/system", b"/usr/lib/systemd/system"
    wanted = folder(LOCAL, "multi-user.target.wants/x.service", local.decode() + "/x.service")
    listed = wanted | folder(local, "x.service") | folder(usr, "x.service", "/dev/null")
    state = unit_states(listed)[b"x.service"]
    assert (state.defined, state.enabled, state.masked) == (True, True, False)
    assert started(listed) == ["x.service"]
    state = unit_states(wanted | folder(local, "x.service", "/dev/null") | folder(usr, "x.service"))
    assert state[b"x.service"].masked
    assert unit_of(local + b"/x.service.d/a.conf") == b"x.service"


def test_an_instance_is_defined_where_its_template_is():
    wanted = tuple(
        Listed(f"multi-user.target.wants/{name}@a.service".encode(), "l", b"x") for name in ("wg-quick", "no")
    )
    states = unit_states({LOCAL: wanted, b"/lib/systemd/system": (Listed(b"wg-quick@.service", "f", b""),)})
    assert [states[name].defined for name in (b"wg-quick@a.service", b"no@a.service")] == [True, False]
    assert states[b"wg-quick@a.service"].enabled and not states[b"wg-quick@.service"].enabled


FIELD = st.text(max_size=8) | st.sampled_from(["x", "root", "0", "²", "9" * 4400, "-1", "+", "a,b", "\u2028"])
ROWS = st.lists(st.lists(FIELD, min_size=1, max_size=9).map(":".join), max_size=8).map(
    lambda rows: "\n".join(rows).encode("utf-8", "surrogatepass")
)
WELL_FORMED = st.lists(st.tuples(*[FIELD] * 7).map(":".join), max_size=8).map(
    lambda rows: "\n".join(rows).encode("utf-8", "surrogatepass")
)


@given(WELL_FORMED, ROWS, ROWS, WELL_FORMED)
def test_no_account_file_is_too_strange_to_be_told(passwd, group, shadow, later):
    before = parse_accounts(passwd, group, ShadowMask().mask(shadow))
    after = parse_accounts(later, group, ShadowMask().mask(passwd))
    told = user_changes(before, after, {}), group_changes(before, after, {}), strange_changes(before, after)
    assert json.dumps([[one.model_dump() for one in told[0] + told[1]], told[2]]).encode()
    for user in after.users.values():
        assert int(user["uid"]) >= 0 and int(user["gid"]) >= 0


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_parsers_never_fail_on_what_a_guest_wrote(one, two, three):
    status = parse_status(one)
    package_changes(status, parse_status(two), parse_auto(three), set())
    parse_sums(one)
    windows(Log(one, None), Log(two, 0.0))
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
