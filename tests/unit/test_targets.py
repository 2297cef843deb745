"""Production from the config: names, who sees them, host keys, and what is refused."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.config import TargetsConfig
from backend.errors import ConfigError, TargetDown, TargetNotFound
from backend.models import Identity, Role
from backend.targets import Keeper, Targets, Wanted, host_key, keeping, read_inventory
from backend.targets import targets as targets_module

KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIHk1s"
AGENT = Identity(uid=1001, name="robot", role=Role.AGENT, groups=["bots"])
OPERATOR = Identity(uid=0, name="root", role=Role.OPERATOR)
INI = """lonely
[web]
web-01 ansible_host=10.9.0.1 ansible_port=2222
# comment
[db]
db-01 ansible_host=10.9.0.2
"""


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """A group's settings with a key and a known host."""
    (tmp_path / "key").write_text("secret")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "known").write_text(f"[10.9.0.1]:2222 ssh-ed25519 {KEY}\n10.9.0.3 ssh-ed25519 {KEY}\n")
    return {"ssh_key_file": tmp_path / "key", "known_hosts": tmp_path / "known", "approvers": ["@sre"]}


def targets(tmp_path: Path, group: dict[str, Any], inventory: str = INI, name: str = "hosts.ini") -> Targets:
    (tmp_path / name).write_text(inventory)
    return Targets(TargetsConfig.model_validate({"inventory": tmp_path / name, "groups": {"web": group}}))


async def test_only_hosts_of_configured_groups_are_targets(tmp_path: Path, given: dict[str, Any]) -> None:
    given["hosts"] = {"web-03": {"address": "10.9.0.3"}}
    listed = await targets(tmp_path, given).list(OPERATOR)
    assert [(view.name, view.address) for view in listed] == [("web-01", "10.9.0.1"), ("web-03", "10.9.0.3")]


async def test_an_agent_sees_names_and_no_addresses(tmp_path: Path, given: dict[str, Any]) -> None:
    (view,) = await targets(tmp_path, given).list(AGENT)
    assert (view.name, view.address) == ("web-01", "")


@pytest.mark.parametrize(
    ("agents", "seen"), [(["*"], 1), (["robot"], 1), (["@bots"], 1), (["other", "@x"], 0), ([], 0)]
)
async def test_an_agent_sees_what_its_group_allows(
    tmp_path: Path, given: dict[str, Any], agents: list[str], seen: int
) -> None:
    found = targets(tmp_path, given | {"agents": agents})
    assert len(await found.list(AGENT)) == seen
    if not seen:
        with pytest.raises(TargetNotFound):
            found.allowed(AGENT, ["web-01"])
    assert found.allowed(OPERATOR, ["web-01", "web-01"]) == ["web-01"]


def test_an_agent_hears_of_a_target_that_is_not_ready_and_none_of_our_paths(
    tmp_path: Path, given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    given["hosts"] = {"web-03": {"address": "10.9.0.3"}, "web-09": {"address": "10.9.0.9"}}
    found = targets(tmp_path, given | {"agents": ["*"]})
    assert found.allowed(AGENT, ["web-03"]) == ["web-03"]
    assert found.allowed(OPERATOR, ["web-09"]) == ["web-09"]
    for broken in (given["known_hosts"].touch, given["known_hosts"].unlink):
        broken()
        with pytest.raises(TargetDown) as caught:
            found.allowed(AGENT, ["web-03", "web-09"])
        name = "web-09" if given["known_hosts"].exists() else "web-03"
        assert (caught.value.message, caught.value.remedy) == (
            f"target {name!r} is not ready",
            "ask an operator: the backend's log says why",
        )
    assert "holds no key of 10.9.0.9" in caplog.text and "cannot read" in caplog.text


def test_a_resolved_target_holds_all_that_is_bound(tmp_path: Path, given: dict[str, Any]) -> None:
    (target,) = targets(tmp_path, given | {"approvals": 2, "become": True, "user": "ops"}).resolve(["web-01"])
    assert (target.address, target.port, target.user, target.become) == ("10.9.0.1", 2222, "ops", True)
    assert (target.host_key, target.approvals, target.approvers) == (f"ssh-ed25519 {KEY}", 2, ("@sre",))
    assert target.host().known_hosts_line() == f"[10.9.0.1]:2222 ssh-ed25519 {KEY}"
    assert target.login == "ops@10.9.0.1:2222"
    assert replace(target, address="fd00::1").login == "ops@[fd00::1]:2222"


async def test_a_target_that_tells_without_end_is_refused_for_that_and_at_once(
    tmp_path: Path, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = targets(tmp_path, given)
    monkeypatch.setattr(found, "ssh", lambda *_: ["yes"])
    monkeypatch.setattr(keeping, "NAMES_BYTES", 1 << 20)
    monkeypatch.setattr(keeping, "ASK_S", 5)
    with pytest.raises(TargetDown, match="more than 1048576 bytes"):
        await Keeper(found, tmp_path, b"k" * 32).look("web-01", Wanted(frozenset({b"/etc/issue"})))


def test_a_target_without_a_known_key_says_how_to_get_one(tmp_path: Path, given: dict[str, Any]) -> None:
    found = targets(tmp_path, given, "[web]\nweb-09 ansible_host=10.9.0.9\n")
    with pytest.raises(ConfigError, match="holds no key of") as caught:
        found.resolve(["web-09"])
    assert "ssh-keyscan -p 22 10.9.0.9" in caught.value.remedy


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    found = targets(tmp_path, given)
    assert found.key("web-01").private == b"secret"
    given["ssh_key_file"].chmod(0o640)
    with pytest.raises(ConfigError, match="others can read the private key"):
        found.key("web-01")


YAML = """
all:
  children:
    web:
      hosts:
        web-01: {ansible_host: 10.9.0.1, ansible_port: 2222}
"""


async def test_a_yaml_inventory_reads_the_same(tmp_path: Path, given: dict[str, Any]) -> None:
    (target,) = targets(tmp_path, given, YAML, "hosts.yml").resolve(["web-01"])
    assert (target.address, target.port) == ("10.9.0.1", 2222)


@pytest.mark.parametrize(
    ("name", "text", "line", "word"),
    [
        ("i", "[web]\nweb-01 ansible_connection=local\n", 2, "ansible_connection"),
        ("i", "[web]\nweb-01\n\n[web:vars]\nx=1\n", 4, "web:vars"),
        ("i", "[all:children]\nweb\n", 1, "all:children"),
        ("i", "[web]\nweb[01:10]\n", 2, "web"),
        ("i", "[web]\nweb-01 ansible_port=0\n", 2, "'0'"),
        ("i", "[web]\nweb-01 'x\n", 2, "quotation"),
        ("i", "[web]\nWeb_01\n", 2, "Web_01"),
        ("i.yml", "web:\n  vars: {a: 1}\n", 2, "vars"),
        ("i.yml", "web:\n  hosts:\n    w1: {ansible_become: true}\n", 3, "ansible_become"),
        ("i.yml", "web:\n  children: {a: {}}\n", 2, "children"),
        ("i.yml", "- web\n", 1, "names and values"),
        ("i.yml", "web: [\n", 2, "not YAML"),
    ],
)
def test_what_an_inventory_could_mean_beyond_addresses_is_refused(
    tmp_path: Path, name: str, text: str, line: int, word: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_inventory(tmp_path / name)
    assert f"{tmp_path / name}:{line}: " in caught.value.message
    assert word.lower() in caught.value.message.lower()


def test_a_target_in_two_groups_is_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    (tmp_path / "i").write_text("[web]\na ansible_host=10.9.0.1\n[db]\na ansible_host=10.9.0.1\n")
    config = {"inventory": tmp_path / "i", "groups": {"web": given, "db": given}}
    with pytest.raises(ConfigError, match="stands twice"):
        Targets(TargetsConfig.model_validate(config))


def known(tmp_path: Path, text: str) -> Path:
    (tmp_path / "kh").write_text(text)
    return tmp_path / "kh"


@pytest.mark.parametrize(
    ("text", "address", "port", "found"),
    [
        ("h ssh-ed25519 A\n", "h", 22, "ssh-ed25519 A"),
        ("h ssh-ed25519 A\n", "h", 2222, None),
        ("h,10.9.0.1 ssh-ed25519 A\n", "10.9.0.1", 22, "ssh-ed25519 A"),
        ("*.example,!bad.example ssh-ed25519 A\n", "x.example", 22, "ssh-ed25519 A"),
        ("*.example,!bad.example ssh-ed25519 A\n", "bad.example", 22, None),
        ("h ssh-rsa R\nh ssh-ed25519 A\n", "h", 22, "ssh-ed25519 A"),
        ("@revoked h ssh-ed25519 A\nh ssh-ed25519 A\nh ssh-rsa R\n", "h", 22, "ssh-rsa R"),
        ("@cert-authority h ssh-ed25519 A\n", "h", 22, None),
        ("# h ssh-ed25519 A\n|1|bad|%% ssh-ed25519 A\n", "h", 22, None),
    ],
)
def test_known_hosts_reads_as_ssh_reads_it(
    tmp_path: Path, text: str, address: str, port: int, found: str | None
) -> None:
    assert host_key(known(tmp_path, text), address, port) == found


def test_a_hashed_entry_is_found(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "k")], check=True)
    key = " ".join((tmp_path / "k.pub").read_text().split()[:2])
    file = known(tmp_path, f"[10.9.0.1]:2222 {key}\n")
    subprocess.run(["ssh-keygen", "-H", "-f", str(file)], check=True, capture_output=True)
    assert "10.9.0.1" not in file.read_text()
    assert host_key(file, "10.9.0.1", 2222) == key
    assert host_key(file, "10.9.0.2", 2222) is None


async def test_a_check_says_in_one_line_what_is_wrong(tmp_path: Path, given: dict[str, Any]) -> None:
    found = targets(tmp_path, given, "[web]\nweb-01 ansible_host=127.0.0.1 ansible_port=1\n")
    (view,) = await found.check(OPERATOR, "web-01")
    assert (view.reachable, "holds no key" in view.problem) == (False, True)
    given["known_hosts"].write_text(f"[127.0.0.1]:1 ssh-ed25519 {KEY}\n")
    (view,) = await found.check(OPERATOR, "web-01")
    assert view.reachable is False
    assert "refused" in view.problem
    assert "\n" not in view.problem


@pytest.mark.parametrize(
    ("group", "command", "problem"),
    [
        ({}, "true", ""),
        ({"user": "deploy", "become": True}, "sudo -n -- true", ""),
        ({"user": "deploy"}, "true", "deploy is not root there, which playbooks need"),
    ],
)
async def test_a_check_asks_for_what_an_apply_needs(
    tmp_path: Path,
    given: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    group: dict[str, Any],
    command: str,
    problem: str,
) -> None:
    asked: list[str] = []

    async def login(argv: list[str]) -> None:
        asked.append(argv[-1])

    monkeypatch.setattr(targets_module, "_login", login)
    (view,) = await targets(tmp_path, given | group).check(OPERATOR, "web-01")
    assert (asked, view.problem.startswith(problem), view.reachable) == ([command], True, not problem)
