"""What config.yaml and .env may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend import config
from backend.errors import ConfigError
from backend.paths import Paths


def write(tmp_path: Path, text: str, mode: int = 0o640) -> Paths:
    paths = Paths.under(tmp_path)
    paths.config.mkdir(parents=True)
    paths.config_file.write_text(text)
    paths.config_file.chmod(mode)
    return paths


def test_no_file_gives_defaults(tmp_path: Path) -> None:
    assert config.load(Paths.under(tmp_path), env={}).hosts[0].name == "local"


def test_an_unknown_key_is_refused_with_file_and_line(tmp_path: Path) -> None:
    paths = write(tmp_path, "server:\n  listen: 127.0.0.1:8080\nguests:\n  cpus: 2\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:4: guests\.cpus: unknown key"):
        config.load(paths, env={})


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml:2: not YAML"):
        config.load(write(tmp_path, "a: 1\n b: [\n"), env={})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"operators: [root]\noperators: [eve]\n", r":2: not YAML: key 'operators' stands twice"),
        (b"operators: [\xff]\n", "not UTF-8 text"),
        (b"egress:\n  ports: [80, 99999]\n", r":2: egress\.ports\.1: "),
        (b"limits: {output_bytes: -1}\n", r":1: limits\.output_bytes: "),
        (b"guests:\n  network_cidr: banana\n", r":2: guests\.network_cidr: "),
    ],
    ids=["a key twice", "not text", "no port", "negative", "no network"],
)
def test_a_value_that_could_only_fail_later_is_refused_now(tmp_path: Path, text: bytes, words: str) -> None:
    paths = write(tmp_path, "")
    paths.config_file.write_bytes(text)
    with pytest.raises(ConfigError, match=words):
        config.load(paths, env={})


def test_a_world_readable_password_is_refused_and_the_remedy_mends_it(tmp_path: Path) -> None:
    paths = write(tmp_path, "database: {password: hunter2}\n", mode=0o644)
    with pytest.raises(ConfigError, match="others can read it") as refused:
        config.load(paths, env={})
    assert "hunter2" not in str(refused.value)
    assert refused.value.remedy.startswith("chmod o-rwx")
    paths.config_file.chmod(0o640)
    assert config.load(paths, env={}).database is not None


def test_a_password_is_masked_when_shown(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, "database: {password: hunter2}\n"), env={})
    assert "hunter2" not in str(config.masked(loaded))


def test_the_documented_env_fills_what_the_file_leaves_open(tmp_path: Path) -> None:
    loaded = config.load(
        Paths.under(tmp_path), env={"LIBVIRT_URI": "test:///default", "DATABASE_URL": "postgresql://u@h/d"}
    )
    assert loaded.hosts[0].uri == "test:///default"
    assert loaded.database is not None and loaded.database.url is not None


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("127.1.2.3:0", "127.1.2.3:0"),
        ("LocalHost:65535", "127.0.0.1:65535"),
        ("[::1]:8080", "[::1]:8080"),
    ],
)
def test_the_tcp_door_is_on_the_loopback(text: str, where: str) -> None:
    assert str(config.listen_address(text)) == where


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (":8080", "other machines"),
        ("0.0.0.0:8080", "other machines"),
        ("192.0.2.1:8080", "other machines"),
        ("[::]:8080", "other machines"),
        ("[::ffff:192.0.2.1]:80", "other machines"),
        ("node.example:8080", "other machines"),
        ("8080", "not HOST:PORT"),
        ("127.0.0.1", "not HOST:PORT"),
        ("127.0.0.1:65536", "not HOST:PORT"),
        ("::1:8080", "not HOST:PORT"),
        ("http://127.0.0.1:8080", "not HOST:PORT"),
        ("", "not HOST:PORT"),
    ],
)
def test_any_other_listen_is_refused_by_its_value(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        config.listen_address(text)
    assert f"server.listen: {text!r}" in refused.value.message
    assert "127.0.0.1:8080" in refused.value.remedy
