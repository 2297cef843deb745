"""What config.yaml and .env may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend import config
from backend.errors import ConfigError
from backend.paths import Paths
from backend.places import Here, HostPlace, OverNetwork, OverSsh, SshDestination


def write(tmp_path: Path, text: str, mode: int = 0o640) -> Paths:
    paths = Paths.under(tmp_path)
    paths.config.mkdir(parents=True)
    paths.config_file.write_text(text)
    paths.config_file.chmod(mode)
    return paths


def write_env(tmp_path: Path, **words: object) -> Paths:
    paths = Paths.under(tmp_path)
    paths.config.mkdir(parents=True, exist_ok=True)
    file = paths.config_file.with_name(".env")
    file.write_text("".join(f"{name}={word}\n" for name, word in words.items()))
    file.chmod(0o640)
    return paths


def test_no_file_gives_defaults(tmp_path: Path) -> None:
    assert config.load(Paths.under(tmp_path)).hosts[0].name == "local"


def test_an_unknown_key_is_refused_with_file_and_line(tmp_path: Path) -> None:
    paths = write(tmp_path, "server:\n  listen: 127.0.0.1:8080\nguests:\n  cpus: 2\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:4: guests\.cpus: unknown key"):
        config.load(paths)


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml:2: not YAML"):
        config.load(write(tmp_path, "a: 1\n b: [\n"))


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
        config.load(paths)


def test_a_world_readable_password_is_refused_and_the_remedy_mends_it(tmp_path: Path) -> None:
    paths = write(tmp_path, "database: {password: hunter2}\n", mode=0o644)
    with pytest.raises(ConfigError, match="others can read it") as refused:
        config.load(paths)
    assert "hunter2" not in str(refused.value)
    assert refused.value.remedy.startswith("chmod o-rwx")
    paths.config_file.chmod(0o640)
    assert config.load(paths).database is not None


def test_a_password_is_masked_when_shown(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, "database: {password: hunter2}\n"))
    assert "hunter2" not in str(config.masked(loaded))


def test_the_documented_env_fills_what_the_file_leaves_open(tmp_path: Path) -> None:
    loaded = config.load(
        write_env(tmp_path, LIBVIRT_URI="test:///default", DATABASE_URL="postgresql://u@h/d")
    )
    assert loaded.hosts[0].uri == "test:///default"
    assert loaded.database is not None and loaded.database.url is not None


def test_the_documented_env_says_where_images_and_domains_lie(tmp_path: Path) -> None:
    folders = {"BASE_IMAGE_DIR": tmp_path / "base", "SANDBOX_WORKDIR": tmp_path / "jobs"}
    loaded = config.load(write_env(tmp_path, LIBVIRT_NETWORK="lab", **folders))
    assert (loaded.hosts[0].name, loaded.hosts[0].network) == ("local", "lab")
    (tmp_path / "base").mkdir(mode=0o750)
    paths = Paths.under(tmp_path).placed(images=loaded.storage.images, domains=loaded.storage.domains)
    paths.make()
    assert (paths.images, paths.domains) == (tmp_path / "base", tmp_path / "jobs")
    assert paths.images.stat().st_mode & 0o777 == 0o750, "a folder that was there keeps its mode"
    assert paths.domains.stat().st_mode & 0o777 == 0o711


def test_libvirts_own_network_in_the_env_is_no_choice_and_in_the_file_it_is(tmp_path: Path) -> None:
    loaded = config.load(write_env(tmp_path / "env", LIBVIRT_NETWORK="default"))
    assert loaded.hosts[0].network is None
    paths = write(tmp_path, "hosts: [{name: local, network: default}]\n")
    assert config.load(paths).hosts[0].network == "default"


def test_variables_of_the_shell_that_starts_us_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are there for other programs."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:hunter2@db/app")
    monkeypatch.setenv("LIBVIRT_URI", "qemu+ssh://elsewhere/system")
    monkeypatch.setenv("BASE_IMAGE_DIR", "/base")
    assert config.load(write(tmp_path, "{}\n", mode=0o644)) == config.Config()


def test_a_password_in_the_env_is_the_envs_alone(tmp_path: Path) -> None:
    paths = write(tmp_path, "operators: [anna]\n", mode=0o644)
    write_env(tmp_path, DATABASE_URL="postgresql://fluid:hunter2@db/fluid")
    assert config.load(paths).database is not None
    paths.config_file.with_name(".env").chmod(0o644)
    with pytest.raises(ConfigError, match=r"\.env holds a password and others can read it"):
        config.load(paths)


def test_the_file_wins_over_the_env(tmp_path: Path) -> None:
    paths = write(tmp_path, "hosts: [{name: kvm-01, address: 192.0.2.7}]\nstorage: {images: /srv/images}\n")
    write_env(tmp_path, LIBVIRT_URI="test:///default", BASE_IMAGE_DIR="/base", SANDBOX_WORKDIR="/jobs")
    loaded = config.load(paths)
    assert [host.name for host in loaded.hosts] == ["kvm-01"]
    assert (loaded.storage.images, loaded.storage.domains) == (Path("/srv/images"), Path("/jobs"))


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("name: local", Here()),
        ("address: 127.0.0.1", Here()),
        ("uri: qemu:///system", Here("qemu:///system")),
        ("uri: 'qemu:///system?socket=/run/x'", Here("qemu:///system?socket=/run/x")),
        ("address: kvm-01", OverSsh(SshDestination("kvm-01"))),
        (
            "{address: 192.0.2.7, user: ops, port: 2222, key: /k, known_hosts: /h}",
            OverSsh(SshDestination("192.0.2.7", "ops", 2222, Path("/k"), Path("/h"))),
        ),
        ("{address: localhost, port: 2222}", OverSsh(SshDestination("localhost", port=2222))),
        ("uri: 'qemu+ssh://kvm-01/system'", OverSsh(SshDestination("kvm-01"))),
        (
            "uri: 'qemu+libssh2://ops@192.0.2.7:2222/system?keyfile=/k&known_hosts=/h&socket=/run/s&no_tty=1'",
            OverSsh(SshDestination("192.0.2.7", "ops", 2222, Path("/k"), Path("/h")), "/run/s"),
        ),
        (
            "{uri: 'qemu+libssh://[fd00::7]/system', user: 'CORP\\ops'}",
            OverSsh(SshDestination("fd00::7", "CORP\\ops")),
        ),
        (
            "{uri: 'qemu+tls://kvm-01/system', user: ops}",
            OverNetwork("qemu+tls://kvm-01/system", SshDestination("kvm-01", "ops")),
        ),
        (
            "{uri: 'qemu+tcp://kvm-01/system', allow_plaintext: true}",
            OverNetwork("qemu+tcp://kvm-01/system", SshDestination("kvm-01")),
        ),
    ],
)
def test_where_a_host_is(tmp_path: Path, written: str, place: HostPlace) -> None:
    loaded = config.load(write(tmp_path, f"hosts:\n- {written}\n"))
    assert loaded.hosts[0].place() == place


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("[]", "at least one is needed"),
        ("{name: a}", "a list is expected"),
        ("[kvm-01]", "0: keys are expected"),
        ("[{name: a, address: x}, {name: a, address: y}]", "two hosts are called a"),
        ("[{name: a, address: x}, {name: b, address: x}]", "a and b are the same machine"),
        ("[{name: Kvm_01}]", r"name: 'Kvm_01' does not match"),
        ("[{adress: kvm-01}]", "adress: unknown key"),
        ("[{address: '-oProxyCommand=x'}]", "is not an address"),
        ("[{address: 'a b'}]", "is not an address"),
        ("[{address: ops@kvm-01}]", "'ops@kvm-01' is not an address: name the user apart, as `user`"),
        ("[{address: kvm-01, user: '-lroot'}]", "is not a user"),
        ("[{address: kvm-01, user: 'a;b'}]", "is not a user"),
        ("[{address: kvm-01, key: id_ed25519}]", "not an absolute path"),
        ("[{address: kvm-01, key: '/k/${HOME}'}]", "control character or"),
        ("[{address: kvm-01, network: 'a/b'}]", "network: 'a/b' does not match"),
        ("[{uri: qemu+tcp://kvm-01/system}]", "allow_plaintext: true"),
        ("[{uri: 'qemu+tls://kvm-01/system?no_verify=1'}]", "always checked"),
        ("[{uri: 'qemu+ssh://kvm-01/system?no_verify=1'}]", "always checked"),
        ("[{uri: 'qemu+libssh2://kvm-01/system?known_hosts_verify=auto'}]", "always checked"),
        ("[{uri: 'qemu+ssh://kvm-01/system?command=/bin/ssh'}]", "has no effect here"),
        ("[{uri: 'qemu+ssh://kvm-01/session'}]", "only /system"),
        ("[{uri: 'qemu+ssh://ops:secret@kvm-01/system'}]", "a password has no place"),
        ("[{uri: 'qemu+ssh://ops@kvm-01/system', user: root}]", "`uri` says user ops, and `user` says root"),
        ("[{uri: 'qemu+ssh://kvm-01/system', address: kvm-02}]", "`uri` says address kvm-01"),
        ("[{uri: 'qemu+ssh:///system'}]", "names no machine"),
        ("[{uri: 'qemu+ext://kvm-01/system'}]", "no such way"),
        ("[{uri: 'xen:///system'}]", "begin it with qemu"),
        ("[{uri: kvm-01}]", "not a libvirt URI"),
        ("[{uri: 'qemu+ssh://kvm-01:99999/system'}]", "Port out of range"),
        ("[{uri: 'qemu:///system', user: ops}]", "a libvirt of this machine"),
    ],
)
def test_a_host_that_cannot_be_meant_is_refused_with_words(tmp_path: Path, written: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"config\.yaml:1: hosts.*{words}") as refused:
        config.load(write(tmp_path, f"hosts: {written}\n"))
    assert "secret" not in refused.value.message


def test_the_schema_tells_what_a_host_may_say() -> None:
    host = config.schema()["$defs"]["HostConfig"]
    assert host["additionalProperties"] is False
    for key in (
        "address",
        "user",
        "port",
        "key",
        "known_hosts",
        "uri",
        "allow_plaintext",
        "network",
        "pool_path",
    ):
        assert key in host["properties"]
    assert host["properties"]["name"]["pattern"] == "^[a-z0-9][a-z0-9-]{0,62}$"


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
