"""The settings: one typed model that is documentation, validator and JSON Schema.

A file that holds a password and that others can read is refused; so is an unknown key, with file and line.
The documented ``.env`` (``LIBVIRT_URI`` …) fills what ``config.yaml`` leaves open.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from backend.errors import ConfigError
from backend.models.base import NAME
from backend.paths import Paths
from backend.places import HostPlace, SshDestination, checked_path, place_of, uri_address

GIB = 1024**3
LOCAL = "local"  # the host that needs no name
DAY_S = 86_400

_LISTEN = re.compile(r"(?:\[([^\[\]]+)\]|([^:]*)):(\d{1,5})", re.ASCII)
_MAX_PORT = 65_535
# The documented names of .env, and the keys that they fill where config.yaml leaves them open.
# What the documented `.env` says. libvirt's own network isolates nobody and gives every address away by DHCP:
# it means no choice, and guests get a network of ours. Below `hosts` it is taken at its word.
LIBVIRT_DEFAULT = "default"
_HOST_ENV = {"LIBVIRT_URI": "uri", "LIBVIRT_NETWORK": "network"}
_STORAGE_ENV = {"BASE_IMAGE_DIR": "images", "SANDBOX_WORKDIR": "domains"}


Port = Annotated[int, Field(ge=1, le=_MAX_PORT)]
Cidr = Annotated[str, AfterValidator(lambda text: str(IPv4Network(text)))]
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
LibvirtName = Annotated[str, Field(pattern=r"^[^/\x00-\x1f\x7f]{1,255}$")]
HostFile = Annotated[Path, AfterValidator(checked_path)]


class Section(BaseModel):
    """A part of the file. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerConfig(Section):
    """The doors. ``listen`` opens a TCP door for agents of this machine (off by default)."""

    listen: str | None = None
    socket_group_agents: str | None = None
    socket_group_operators: str | None = None


class DatabaseConfig(Section):
    """A PostgreSQL 14 or newer of your own. Without this section the backend keeps a private cluster."""

    host: str = "localhost"
    port: Port = 5432
    name: str = "fluid"
    user: str = "fluid"
    password: SecretStr | None = None
    url: SecretStr | None = None  # wins over the single fields


class EmbeddedConfig(Section):
    """The private cluster. ``run_as`` is needed when the backend runs as root, which PostgreSQL refuses."""

    run_as: str | None = None


class HostConfig(Section):
    """A hypervisor: this machine, another by its SSH login, or a libvirt URI."""

    name: Name = LOCAL
    address: str = "localhost"  # what `uri` names, where there is one
    user: str | None = None  # None: what ~/.ssh/config says, else the backend's own
    port: Port | None = None
    key: HostFile | None = None  # None: the agent and the default keys of the backend's user
    known_hosts: HostFile | None = None  # None: ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts
    uri: str | None = None  # None: `address`, or a libvirtd that answers here, else a private one is started
    allow_plaintext: bool = False  # qemu+tcp:// carries guests' memory and disks unencrypted
    network: LibvirtName | None = None  # a libvirt network that is there; its guests are not isolated
    pool_path: HostFile | None = None  # where on that host our files lie; None: below libvirt's images

    @model_validator(mode="before")
    @classmethod
    def _address_of_uri(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(uri := data.get("uri"), str) and "address" not in data:
            return {**data, "address": uri_address(uri) or cls.model_fields["address"].default}
        return data

    @model_validator(mode="after")
    def _means_a_place(self) -> HostConfig:
        self.place()
        return self

    def place(self) -> HostPlace:
        """Where it is."""
        ssh = SshDestination(self.address, self.user, self.port, self.key, self.known_hosts)
        return place_of(self.uri, ssh, allow_plaintext=self.allow_plaintext)


class SourceConfig(Section):
    """A libvirt domain that an operator may make a source of, by ``name``."""

    name: Name
    host: Name = LOCAL
    domain: LibvirtName | None = None  # None: the domain is called as the source is
    acknowledge_unprepared: bool = False  # it may be cloned as it is, with all that is on its disk

    @property
    def called(self) -> str:
        """libvirt's name of it."""
        return self.domain or self.name


class StorageConfig(Section):
    """Where large files of this machine lie, if not in the cache and the state folder."""

    images: HostFile | None = None  # built and imported images
    domains: HostFile | None = None  # disks and memory files of sandboxes


class StockConfig(Section):
    """Forks made ahead, parked in memory: a create is answered at once."""

    per_source: int = Field(default=0, ge=0, le=50)
    memory_reserve_mb: int = Field(default=2048, ge=0)  # of the host's, that stock never takes
    busy_percent: int = Field(default=80, ge=1, le=100)  # none is made on a host whose CPUs are busier


class HostAddress(Section):
    """Where a target is."""

    address: str
    port: Port = 22


class TargetGroup(Section):
    """Production machines that share a key and a rule."""

    ssh_key_file: Path
    known_hosts: Path
    user: str = "root"
    become: bool = False
    approvals: int = Field(default=1, ge=1, le=5)
    approvers: list[str] = Field(default_factory=lambda: ["*"])  # users or @groups; "*" is every operator
    agents: list[str] = Field(default_factory=lambda: ["*"])
    dry_run_with_request: bool = False  # not only once an operator opens the review
    hosts: dict[str, HostAddress] = Field(default_factory=dict)


class TargetsConfig(Section):
    """Production: a static inventory file, groups, or both."""

    inventory: Path | None = None
    groups: dict[str, TargetGroup] = Field(default_factory=dict)


class EgressConfig(Section):
    """What a sandbox may fetch. Empty ``allow``: the host's own package sources."""

    allow: list[str] | None = None
    ports: list[Port] = Field(default_factory=lambda: [80, 443])
    bytes_per_sandbox: int = Field(default=4 * GIB, ge=0)
    rate_bytes_s: int = Field(default=64 * 1024**2, ge=1)
    upstream: str | None = None  # host:port of the proxy that this host itself must use


class GuestConfig(Section):
    """Sandboxes."""

    cpu: int = Field(default=2, ge=1)
    memory_mb: int = Field(default=1024, ge=256)
    ttl_seconds: int = Field(default=DAY_S, ge=60)
    expiry_warnings_s: list[Annotated[int, Field(ge=1)]] = Field(default_factory=lambda: [600, 60])
    idle_stop_s: int = Field(
        default=0, ge=0
    )  # no command, file work or output of a pane for so long; 0: never
    template_idle_s: int = Field(default=DAY_S, ge=60)  # of an unusual size: kept unused for so long
    network_cidr: Cidr | None = None  # None: the first free /24 of 10.231.0.0/16


class AnsibleConfig(Section):
    """Rehearsal, dry run and apply. ``auto``: mitogen where guests are emulated, linear elsewhere."""

    run_as: str | None = None
    strategy: Literal["auto", "linear", "mitogen_linear"] = "auto"
    timeout_s: int = Field(default=1800, ge=30)


class ApprovalConfig(Section):
    """Requests for approval."""

    expires_s: int = Field(default=3600, ge=60)
    allow_unrehearsed: bool = False


class SnapshotConfig(Section):
    """Snapshots that are made by policy. ``at_task``: when an agent says that it is working, and done."""

    before_dangerous: bool = True
    at_task: bool = False
    keep: int = Field(default=5, ge=1, le=100)  # of one sandbox; the oldest go


class RecordingConfig(Section):
    """What agents' terminals show, kept for replay."""

    enabled: bool = True
    keep_days: int = Field(default=30, ge=1, le=3660)  # after a terminal's end
    terminal_mb: int = Field(
        default=8, ge=3, le=64
    )  # of one terminal, uncompressed; beyond it the middle goes
    total_mb: int = Field(default=2048, ge=16)  # of all, on the disk; beyond it the oldest go


class LimitConfig(Section):
    """Guard rails for agents."""

    sandboxes_per_owner: int = Field(default=20, ge=0)
    panes_per_sandbox: int = Field(default=16, ge=1)  # those whose shell has ended counted
    output_bytes: int = Field(default=1024**2, ge=1024)
    file_bytes: int = Field(default=16 * 1024**2, ge=1024)
    command_s: int = Field(default=300, ge=1)
    command_s_max: int = Field(default=7200, ge=1)
    command_chars: int = Field(default=65_536, ge=1)
    disk_reserve_mb: int = Field(default=2048, ge=0)
    memory_reserve_mb: int = Field(default=512, ge=0)  # of each host's; beyond it creates are refused
    disk_gb_max: int = Field(default=64, ge=1)  # of one sandbox, as the guest sees it
    ttl_max_s: int = Field(default=7 * DAY_S, ge=60, le=3660 * DAY_S)  # how far ahead an end may be
    image_gb: int = Field(default=32, ge=8)  # of an imported image, as a file and as a disk


class Config(Section):
    """``config.yaml``."""

    server: ServerConfig = Field(default_factory=ServerConfig)
    database: DatabaseConfig | None = None
    embedded: EmbeddedConfig = Field(default_factory=EmbeddedConfig)
    hosts: list[HostConfig] = Field(default_factory=lambda: [HostConfig()], min_length=1)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    sources: list[SourceConfig] = Field(default_factory=list)
    operators: list[str] = Field(default_factory=list)
    agents: list[str] = Field(default_factory=list)
    auditors: list[str] = Field(default_factory=list)
    targets: TargetsConfig = Field(default_factory=TargetsConfig)
    egress: EgressConfig = Field(default_factory=EgressConfig)
    guests: GuestConfig = Field(default_factory=GuestConfig)
    stock: StockConfig = Field(default_factory=StockConfig)
    ansible: AnsibleConfig = Field(default_factory=AnsibleConfig)
    approvals: ApprovalConfig = Field(default_factory=ApprovalConfig)
    snapshots: SnapshotConfig = Field(default_factory=SnapshotConfig)
    recordings: RecordingConfig = Field(default_factory=RecordingConfig)
    limits: LimitConfig = Field(default_factory=LimitConfig)

    @field_validator("hosts")
    @classmethod
    def _are_different(cls, hosts: list[HostConfig]) -> list[HostConfig]:
        names = [host.name for host in hosts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two hosts are called {twice[0]}")
        seen: dict[HostPlace, str] = {}
        for host in hosts:
            if (other := seen.setdefault(host.place(), host.name)) != host.name:
                raise ValueError(f"{other} and {host.name} are the same machine")
        return hosts

    @field_validator("sources")
    @classmethod
    def _are_other_domains(cls, sources: list[SourceConfig]) -> list[SourceConfig]:
        names = [source.name for source in sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are called {twice[0]}")
        seen: dict[tuple[str, str], str] = {}
        for source in sources:
            if (other := seen.setdefault((source.host, source.called), source.name)) != source.name:
                raise ValueError(f"{other} and {source.name} are the same domain")
        return sources

    @model_validator(mode="after")
    def _no_source_is_a_target(self) -> Config:
        """Those of the inventory file are refused when a source is used."""
        for group in self.targets.groups.values():
            production = {*group.hosts, *(host.address for host in group.hosts.values())}
            for source in self.sources:
                if found := production & {source.name, source.called}:
                    raise ValueError(f"the source {source.name} is a target of production: {found.pop()}")
        return self


def load(paths: Paths | None = None) -> Config:
    """The settings of ``paths.config_file`` and ``.env`` beside it; defaults if neither is there. The
    environment says nothing: its ``DATABASE_URL`` may be another program's.

    Raises:
        ConfigError: naming the file, the line and the key.
    """
    paths = paths or Paths.default()
    file = paths.config_file
    data = _read_yaml(file) if file.exists() else {}
    has_database = "database" in data
    _fill_from_env(data, _read_env(file.with_name(".env")))
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise _explain(file, error) from error
    if has_database and config.database and (config.database.password or config.database.url):
        _refuse_if_readable(file)
    return config


@dataclass(frozen=True)
class ListenAddress:
    """A loopback address and a port; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listen_address(text: str) -> ListenAddress:
    """Where ``server.listen`` puts the TCP door: ``127.0.0.1:8080``, ``localhost:8080`` or ``[::1]:8080``.

    Raises:
        ConfigError: something else, or an address that other machines reach.
    """
    found = _LISTEN.fullmatch(text)
    if found is None or int(found[3]) > _MAX_PORT:
        raise ConfigError(f"server.listen: {text!r} is not HOST:PORT", remedy="write 127.0.0.1:8080")
    host = found[1] or found[2]
    try:
        address = ip_address("127.0.0.1" if host.lower() == "localhost" else host)
        local = address.is_loopback
    except ValueError:
        local = False
    if not local:
        raise ConfigError(
            f"server.listen: {text!r} is open to other machines, whose users the kernel here does not know",
            remedy="write 127.0.0.1:8080; from elsewhere `ssh -L 8080:127.0.0.1:8080` leads to it",
        )
    return ListenAddress(str(address), int(found[3]))


def schema() -> dict[str, Any]:
    """JSON Schema of ``config.yaml``."""
    return Config.model_json_schema()


def masked(config: Config) -> dict[str, Any]:
    """The effective settings with every secret as ``**********``."""
    return config.model_dump(mode="json")


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: the second would silently replace who may decide."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", remedy="check owner and mode") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text", remedy="write it as UTF-8") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        raise ConfigError(f"{file}{line}: not YAML: {getattr(error, 'problem', error)}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{file}:1: expected keys, found {type(data).__name__}")
    return data


def _read_env(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    lines = (line.strip() for line in file.read_text().splitlines())
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    found = {key.strip(): value.strip().strip("'\"") for key, value in pairs}
    if "DATABASE_URL" in found:
        _refuse_if_readable(file)
    return found


def _fill_from_env(data: dict[str, Any], env: dict[str, str]) -> None:
    if (url := env.get("DATABASE_URL")) and "database" not in data:
        data["database"] = {"url": url}
    host = {key: env[name] for name, key in _HOST_ENV.items() if env.get(name)}
    if host.get("network") == LIBVIRT_DEFAULT:
        del host["network"]
    if host and "hosts" not in data:
        data["hosts"] = [{"name": "local", **host}]
    storage = {key: env[name] for name, key in _STORAGE_ENV.items() if env.get(name)}
    if storage and isinstance(written := data.get("storage", {}), dict):
        data["storage"] = {**storage, **written}


def _refuse_if_readable(file: Path) -> None:
    if file.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ConfigError(f"{file} holds a password and others can read it", remedy=f"chmod o-rwx {file}")


def _explain(file: Path, error: ValidationError) -> ConfigError:
    location = [str(part) for part in error.errors()[0]["loc"]]
    return ConfigError(
        f"{file}:{_line_of(file, location)}: {'.'.join(location)}: {words_of(error)}",
        remedy="`fluid config schema` prints every key",
    )


def words_of(error: ValidationError) -> str:
    """What is wrong with the first value that cannot be meant, for whoever wrote it. A value is in the words
    only where it is a name: others may be secrets."""
    first = error.errors()[0]
    match first["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "list_type":
            return "a list is expected: each entry begins with `- `"
        case "too_short":
            return "at least one is needed"
        case "model_type":
            return "keys are expected, as in `{name: …}`"
        case "string_pattern_mismatch":
            return f"{first['input']!r} does not match {first['ctx']['pattern']}"
        case _:
            return first["msg"].removeprefix("Value error, ")


def _line_of(file: Path, location: list[str]) -> int:
    """The line of a key, found in YAML's own node tree."""
    if not file.exists():
        return 0
    node = yaml.compose(file.read_text(), Loader=yaml.SafeLoader)
    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == part), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdigit():
            node = node.value[int(part)]
            line = node.start_mark.line + 1
    return line
