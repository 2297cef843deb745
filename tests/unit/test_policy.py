"""The guard rails: what they refuse, and what they must leave alone."""

from __future__ import annotations

import time

import pytest

from backend.config import LimitConfig
from backend.policy import Policy

POLICY = Policy(LimitConfig())


@pytest.mark.parametrize(
    ("command", "rule"),
    [
        ("rm -rf /", "no-root-wipe"),
        ("sudo rm -r -f --no-preserve-root / ", "no-root-wipe"),
        ("rm -rf /*", "no-root-wipe"),
        (":(){ :|:& };:", "no-fork-bomb"),
        ("dd if=/dev/zero of=/dev/vda bs=1M", "no-disk-overwrite"),
        ("mkfs.ext4 -F /dev/vda", "no-disk-overwrite"),
        ("x" * 70_000, "command-length"),
    ],
)
def test_a_refusal_names_its_rule(command: str, rule: str) -> None:
    refusal = POLICY.check_command(command)
    assert refusal is not None and refusal.rule == rule and refusal.remedy


@pytest.mark.parametrize(
    "command", ["rm -rf /srv/old", "rm -rf ./x /tmp/y", "dd if=/dev/zero of=/swapfile", "rm -rf /*.tmp"]
)
def test_ordinary_work_is_left_alone(command: str) -> None:
    assert POLICY.check_command(command) is None


def test_a_time_limit_is_never_over_the_maximum() -> None:
    assert POLICY.timeout_s(None) == 300
    assert POLICY.timeout_s(10) == 10
    assert POLICY.timeout_s(10**6) == 7200


def test_how_far_an_end_may_be_ahead_and_how_large_a_disk_may_be() -> None:
    policy = Policy(LimitConfig(ttl_max_s=3600, disk_gb_max=20))
    assert policy.check_ttl(3600) is None and policy.check_disk(20) is None
    late, large = policy.check_ttl(3601), policy.check_disk(21)
    assert late is not None and (late.rule, "3601 s" in late.words) == ("ttl-max", True)
    assert large is not None and (large.rule, "21 GB" in large.words) == ("disk-max", True)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("cd /srv; rm -rf old", "removes folders"),
        ("rm --recursive /srv/old", "removes folders"),
        ("wipefs -a /dev/vdb", "writes to a disk"),
        ("DEBIAN_FRONTEND=noninteractive apt-get -y purge nginx", "removes or replaces packages"),
        ("dpkg -P nginx", "removes packages"),
        ("userdel ada", "removes accounts"),
        ("iptables -t nat -F", "empties the firewall"),
        ("su postgres -c 'psql -c \"DROP DATABASE app\"'", "drops data"),
        ("chown -R www-data /srv", "changes many rights"),
    ],
)
def test_what_destroys_is_dangerous(command: str, words: str) -> None:
    assert words in POLICY.danger(command)


@pytest.mark.parametrize(
    "command", ["rm /tmp/x", "apt-get -y install nginx", "systemctl reload nginx", "echo farm -r", "ls -R /"]
)
def test_what_only_adds_is_not_dangerous(command: str) -> None:
    assert POLICY.danger(command) == ""


@pytest.mark.parametrize("word", ["rm ", "rm  -", "mkfs ", "dd ", "chmod -", "> ", "apt a ", "drop "])
def test_a_hostile_command_is_judged_in_no_time(word: str) -> None:
    command = word * (60_000 // len(word))
    began = time.monotonic()
    POLICY.danger(command)
    POLICY.check_command(command)
    assert time.monotonic() - began < 1
