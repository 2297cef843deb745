"""What a guest says listens and runs in it, read strictly; two answers; sandbox and twin."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backend.changes.running import compare, parse, unlike
from backend.models import RunningChanges, RunningState

SS = b"""=ss
tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=1,fd=3))
tcp   LISTEN 0      511   0.0.0.0:443    0.0.0.0:*    users:(("nginx",pid=9,fd=6),("nginx",pid=8,fd=6))
tcp LISTEN 0 511 *:80 *:* users:(("a b) x",pid=9,fd=6),("nginx",pid=8,fd=6))
tcp LISTEN 0 128 127.0.0.1:3128 0.0.0.0:* users:(("sshd-session",pid=77,fd=9))
tcp LISTEN 0 244 [::1]:5432 [::]:* users:(("postgres",pid=12,fd=6))
udp UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:* users:(("systemd-resolve",pid=12,fd=6))
udp UNCONN 0 0 [fe80::1]%eth0:546 [::]:* users:(("systemd-network",pid=12,fd=6))
udp UNCONN 0 0 0.0.0.0:41234 0.0.0.0:* users:(("systemd-timesyn",pid=12,fd=6))
udp UNCONN 0 0 0.0.0.0:51820 0.0.0.0:*

=end 0
"""
UNITS = b"""=units
nginx.service                 loaded active     running   A web server
dev-disk-by\\x2duuid.mount     loaded failed failed A mount
a.mount                       loaded active mounted A mount
foo.service                   loaded failed     failed    Foo
docker.socket                 loaded active     running   Docker
backup.timer                  loaded active     waiting   Backup
user@0.service                loaded active     running   User
session-3.scope               loaded active     running   Session
run-backup.service            loaded active     running   No transient one
session-sweeper.service       loaded active     running   No log-in
run-p812-i77.service          loaded active     running   /usr/bin/x
run-r0a1b2c.timer             loaded active     waiting   /usr/bin/x
run-u12.service               loaded active     running   /usr/bin/x
ssh@0-10.0.0.1:22-10.0.0.2:44.service loaded active running Log-in
fluid-guestd.service          loaded active     running   Ours
systemd-hostnamed.service     loaded active     running   Name

=end 0
"""
PORTS = {
    "tcp *:80": "a b) x, nginx",
    "tcp 0.0.0.0:22": "sshd",
    "tcp 0.0.0.0:443": "nginx",
    "tcp [::1]:5432": "postgres",
    "udp 0.0.0.0:51820": "",
    "udp 127.0.0.53%lo:53": "systemd-resolve",
    "udp [fe80::1]%eth0:546": "systemd-network",
}
RUNNING = {
    "backup.timer": "waiting",
    "dev-disk-by\\x2duuid.mount": "failed",
    "docker.socket": "listening",
    "foo.service": "failed",
    "nginx.service": "running",
    "run-backup.service": "running",
    "session-sweeper.service": "running",
}


def told(ports: dict[str, str] | None = None, units: dict[str, str] | None = None) -> RunningState:
    return RunningState(ports=ports or {}, units=units or {})


def names(changes: RunningChanges) -> list[tuple[str, str, str | None, str | None]]:
    return [(one.verb.value, one.name, one.before, one.after) for one in changes.changes]


def test_ports_and_units_are_told_without_what_is_ours_or_fleeting() -> None:
    state = parse(SS + UNITS)
    assert state.ports == PORTS
    assert state.units == RUNNING
    assert state.notes == ["its units: 1 lines of its answer cannot be read"]  # a scope is none of them


def test_another_program_at_the_place_of_our_proxy_is_told() -> None:
    data = SS.replace(b"sshd-session", b"squid")
    assert (parse(data + UNITS).ports or {})["tcp 127.0.0.1:3128"] == "squid"


def test_without_ss_the_kernel_tells_ports_but_no_program() -> None:
    data = (
        b"=proc\ntcp 00000000:0016\ntcp 0100007F:0C38\ntcp6 00000000000000000000000001000000:1538\n"
        b"udp 3500007F:0035\n=end 0\n"
    )
    state = parse(data)
    assert state.ports == {"tcp 0.0.0.0:22": "", "tcp [::1]:5432": "", "udp 127.0.0.53:53": ""}
    assert state.units is None
    assert state.notes == [
        "which programs listen is not told: it has no ss",
        "its units are not told: it does not run systemd",
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "its ports are not told: the answer cannot be used"),
        (b"\xff\x00=ss", "its ports are not told: the answer cannot be used"),
        (b"=ss\ntcp LISTEN 0 1 0.0.0.0:22", "its ports are not told: the answer is cut off"),
        (b"=ss\n\n=end 124\n", "its ports are not told: it took too long"),
        (b"=ss\n\n=end \x1b7\n", "its ports are not told: what it was asked with ended with %1B7"),
        (b"=ss\n\n=end 0\n=units\n\n=end 1\n", "its units are not told: what it was asked with ended with 1"),
    ],
)
def test_what_is_no_answer_is_a_note(data: bytes, words: str) -> None:
    state = parse(data)
    assert words in state.notes
    assert (state.ports if "ports" in words else state.units) is None


@pytest.mark.parametrize(
    "line",
    [
        b"tcp LISTEN 0 1 0.0.0.0:0 0.0.0.0:*",
        b"tcp LISTEN 0 1 0.0.0.0:65536 0.0.0.0:*",
        b"tcp LISTEN 0 1 300.0.0.0:22 0.0.0.0:*",
        b"tcp LISTEN 0 1 0.0.0.0%a\x1bb:22 0.0.0.0:*",
        b"raw UNCONN 0 0 0.0.0.0:22 0.0.0.0:*",
        b"tcp LISTEN 0 1 \xd9\xa1:22 *:*",
        "tcp LISTEN 0 1 0.0.0.0:٣ *:*".encode(),
    ],
)
def test_a_line_that_is_none_is_counted_and_not_told(line: bytes) -> None:
    state = parse(b"=ss\n" + line + b"\n=end 0\n")
    assert state.ports == {} and "its ports: 1 lines of its answer cannot be read" in state.notes


def test_a_guest_that_tells_of_very_many_is_cut_with_a_word() -> None:
    lines = b"".join(b"s%d.service loaded active running x\n" % number for number in range(3000))
    state = parse(b"=units\n" + lines + b"=end 0\n")
    assert len(state.units or {}) == 1000 and "its units: only 1000 of 3000 are kept" in state.notes


LINES = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from([*SS.split(b"\n"), *UNITS.split(b"\n"), b"=proc", b"tcp6 " + b"0" * 32 + b":0016"]),
        st.tuples(st.sampled_from(SS.split(b"\n")), st.integers(0, 80), st.binary(max_size=3)).map(
            lambda one: one[0][: one[1]] + one[2] + one[0][one[1] :]
        ),
    ),
    max_size=30,
)


@given(LINES.map(b"\n".join), LINES.map(b"\n".join))
@example(SS, UNITS)
def test_whatever_guests_say_is_a_state_that_can_be_kept_and_compared(one: bytes, other: bytes) -> None:
    states = parse(one), parse(other)
    for state in states:
        text = state.model_dump_json()
        assert RunningState.model_validate_json(text) == state
        for name, words in {**(state.ports or {}), **(state.units or {})}.items():
            assert name.isprintable() and not any(ord(char) < 32 for char in words)
    made = compare(*states, "a", "b")
    assert RunningChanges.model_validate_json(made.model_dump_json()) == made
    unlike(made, *states)
    assert compare(states[0], states[0], "a", "b").changes == []


def test_what_came_went_and_differs() -> None:
    before = told({"tcp 0.0.0.0:22": "sshd", "tcp *:80": "apache2"}, {"apache2.service": "running"})
    after = told(
        {"tcp 0.0.0.0:22": "sshd", "tcp *:80": "nginx", "tcp 0.0.0.0:443": "nginx"},
        {"nginx.service": "running", "foo.service": "failed"},
    )
    made = compare(before, after, "clean", "now")
    assert names(made) == [
        ("modified", "tcp *:80", "apache2", "nginx"),
        ("added", "tcp 0.0.0.0:443", None, "nginx"),
        ("removed", "apache2.service", "running", None),
        ("added", "foo.service", None, "failed"),
        ("added", "nginx.service", None, "running"),
    ]
    assert made.read_from == "guest" and made.notes == []
    assert made.same() == {"tcp 0.0.0.0:22": "sshd"}


def test_of_a_point_that_was_not_asked_or_did_not_tell_there_is_a_note_and_no_change() -> None:
    now = told({"tcp 0.0.0.0:22": "sshd"}, {"a.service": "running"})
    old = compare(None, now, "clean", "now")
    assert old.changes == [] and old.notes == ["clean: what listens and runs was not asked then"]
    mute = compare(RunningState(ports={}, notes=["it does not run systemd"]), now, "clean", "now")
    assert names(mute) == [("added", "tcp 0.0.0.0:22", None, "sshd")]
    assert mute.notes == ["clean: it does not run systemd"]


def test_a_program_that_one_of_them_does_not_name_is_no_change() -> None:
    assert compare(told({"tcp *:80": ""}), told({"tcp *:80": "nginx"}), "a", "b").changes == []


def rows(before: RunningState, after: RunningState, end: RunningState) -> list[tuple[str, str, str]]:
    """``before`` is where the twin begins, too."""
    found = unlike(compare(before, after, "a", "b"), before, end)
    assert found is not None
    return [(row.kind, row.noun, row.name) for row in found]


def test_what_was_started_by_hand_is_missing_in_the_twin_with_its_reason() -> None:
    before, after = told({"tcp *:22": "sshd"}), told({"tcp *:22": "sshd", "tcp *:8000": "python3"})
    found = unlike(compare(before, after, "a", "b"), before, before)
    assert found is not None
    (row,) = found
    assert (row.kind, row.noun, row.name, row.sandbox, row.rehearsal) == (
        "missing", "port", "tcp *:8000", "python3", "not there",
    )  # fmt: skip
    assert "no unit starts" in row.reason
    assert rows(before, after, after) == []


def test_what_the_playbook_starts_or_leaves_is_extra_and_a_unit_counts_by_its_state() -> None:
    before = told({"tcp *:80": "apache2"}, {"apache2.service": "running"})
    after = told({}, {"nginx.service": "running"})
    end = told({"tcp *:80": "apache2", "tcp *:25": "master"}, {"nginx.service": "failed"})
    assert rows(before, after, end) == [
        ("extra", "port", "tcp *:25"),
        ("extra", "port", "tcp *:80"),
        ("missing", "unit", "nginx.service"),
    ]


def test_drawn_ports_own_addresses_other_workers_and_what_was_so_before_are_no_difference() -> None:
    before = told({"udp *:68": "dhclient"})
    after = told(
        {"tcp *:40001": "rpc.statd", "tcp 10.0.0.5:53": "named", "tcp *:5432": "postgres"},
        {"late.service": "running"},
    )
    end = told(
        {"tcp *:51111": "rpc.statd", "tcp 10.0.0.9:53": "named", "tcp *:5432": "postmaster"},
        {"late.service": "running"},
    )
    assert rows(before, after, end) == []
    # Nobody's work: it is in the sandbox since before, and the twin never had it.
    only_here = told({"tcp *:9": "x"})
    assert unlike(compare(only_here, only_here, "a", "b"), told(), told()) == []
    assert rows(before, after, end.model_copy(update={"ports": {"tcp *:51111": "rpc.mountd"}})) != []


def test_nothing_is_compared_where_one_of_them_did_not_tell() -> None:
    some = told({"tcp *:9": "x"})
    assert unlike(None, some, some) is None
    assert unlike(compare(None, some, "a", "b"), some, some) is None
    assert unlike(compare(told(), some, "a", "b"), some, RunningState()) is None
