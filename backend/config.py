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
    """A part of the file. Unknown keys are refused. What stands below a key is its meaning in the schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ServerConfig(Section):
    """The doors."""

    listen: str | None = None
    """A TCP door for agents of this machine, such as 127.0.0.1:8080. Without it there is none."""
    socket_group_agents: str | None = None
    """The group that may open agent.sock. Without it the backend's own."""
    socket_group_operators: str | None = None
    """The group that may open operator.sock. Without it the backend's own."""


class DatabaseConfig(Section):
    """A PostgreSQL 14 or newer of your own. Without this section the backend keeps a private cluster."""

    host: str = "localhost"
    """Its host, or the folder of its socket."""
    port: Port = 5432
    """Its port."""
    name: str = "fluid"
    """The database."""
    user: str = "fluid"
    """The role to log in as; it must own the database."""
    password: SecretStr | None = None
    """The role's password. Then others must not be able to read the file."""
    url: SecretStr | None = None
    """All of this as postgresql://…; it wins over the single keys."""


class EmbeddedConfig(Section):
    """The private PostgreSQL cluster."""

    run_as: str | None = None
    """Its system user where the backend is root. Without it fluid-postgres, else postgres."""


class HostConfig(Section):
    """A hypervisor: this machine, another by its SSH login, or a libvirt URI."""

    name: Name = LOCAL
    """What Fluid calls it."""
    address: str = "localhost"
    """Where SSH finds it. Without it what `uri` names."""
    user: str | None = None
    """The SSH login. Without it what ~/.ssh/config says, else the backend's own name."""
    port: Port | None = None
    """The SSH port. Without it what ~/.ssh/config says, else 22."""
    key: HostFile | None = None
    """The private key's file. Without it the agent and the default keys of the backend's user."""
    known_hosts: HostFile | None = None
    """The file of known host keys. Without it ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts."""
    uri: str | None = None
    """Its libvirt. Without it `address`; on this machine the one that answers, else one that Fluid starts."""
    allow_plaintext: bool = False
    """Allow qemu+tcp://, which sends guests' memory and disks unencrypted."""
    network: LibvirtName | None = None
    """A libvirt network that exists already. Its guests are not isolated. Without it one that Fluid makes."""
    pool_path: HostFile | None = None
    """The folder for Fluid's files on that host. Without it one below libvirt's images."""

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
    """The name that sandboxes are created from."""
    host: Name = LOCAL
    """The host that it is on."""
    domain: LibvirtName | None = None
    """libvirt's name of it. Without it the same as `name`."""
    acknowledge_unprepared: bool = False
    """It may be cloned as it is, with all secrets on its disk."""

    @property
    def called(self) -> str:
        """libvirt's name of it."""
        return self.domain or self.name


class StorageConfig(Section):
    """Where large files of this machine lie."""

    images: HostFile | None = None
    """Built and imported images. Without it in the cache."""
    domains: HostFile | None = None
    """Disks and memory files of sandboxes. Without it in the state folder."""


class StockConfig(Section):
    """Forks made ahead and parked in memory: a create is answered at once."""

    per_source: int = Field(default=0, ge=0, le=50)
    """How many are kept of each source, on each host."""
    memory_reserve_mb: int = Field(default=2048, ge=0)
    """How much of a host's memory they leave free. If others need it, they are suspended to disk."""
    busy_percent: int = Field(default=80, ge=1, le=100)
    """None is made on a host whose processors are busier, whoever causes it. 100: always."""


class HostAddress(Section):
    """Where a target is."""

    address: str
    """Its name or IP address."""
    port: Port = 22
    """Its SSH port."""


class TargetGroup(Section):
    """Production machines that share a key and a rule."""

    ssh_key_file: Path
    """The private key that logs in there, mode 0600."""
    known_hosts: Path
    """The file of their host keys; an unknown one is refused."""
    user: str = "root"
    """The login."""
    become: bool = False
    """Use sudo there, which must not ask for a password. Else a playbook has the login's rights only."""
    approvals: int = Field(default=1, ge=1, le=5)
    """How many operators must agree."""
    approvers: list[str] = Field(default_factory=lambda: ["*"])
    """Users or @groups whose approval counts. "*": every operator's."""
    agents: list[str] = Field(default_factory=lambda: ["*"])
    """Users or @groups who may ask for these machines. "*": every agent."""
    dry_run_with_request: bool = False
    """Start the dry run with the request, not only when an operator opens the review."""
    hosts: dict[str, HostAddress] = Field(default_factory=dict)
    """The machines, by name."""


class TargetsConfig(Section):
    """Production."""

    inventory: Path | None = None
    """A static Ansible inventory, whose groups are the groups here."""
    groups: dict[str, TargetGroup] = Field(default_factory=dict)
    """The groups, by name."""


class EgressConfig(Section):
    """What a sandbox may fetch through the proxy."""

    allow: list[str] | None = None
    """HOST:PORT, or .SUFFIX for every name below it. Without it the package sources of this machine."""
    ports: list[Port] = Field(default_factory=lambda: [80, 443])
    """The ports that .SUFFIX entries allow."""
    bytes_per_sandbox: int = Field(default=4 * GIB, ge=0)
    """How much a sandbox may transfer in its life, both directions together."""
    rate_bytes_s: int = Field(default=64 * 1024**2, ge=1)
    """How fast, on average."""
    upstream: str | None = None
    """HOST:PORT of the proxy that this machine itself must use."""


class GuestConfig(Section):
    """Sandboxes."""

    cpu: int = Field(default=2, ge=1)
    """Processors, if a create asks for nothing else."""
    memory_mb: int = Field(default=1024, ge=256)
    """Memory, if a create asks for nothing else."""
    ttl_seconds: int = Field(default=DAY_S, ge=60)
    """How long a sandbox lives, if a create asks for nothing else."""
    expiry_warnings_s: list[Annotated[int, Field(ge=1)]] = Field(default_factory=lambda: [600, 60])
    """How long before its end its agent and the operators are told."""
    idle_stop_s: int = Field(default=0, ge=0)
    """A sandbox is stopped after so long without a command, file work or output of a pane. 0: never."""
    template_idle_s: int = Field(default=DAY_S, ge=60)
    """How long a template of an unusual size is kept unused."""
    network_cidr: Cidr | None = None
    """The guests' network. Without it the first free /24 of 10.231.0.0/16."""


class AnsibleConfig(Section):
    """Rehearsal, dry run and apply."""

    run_as: str | None = None
    """The system user that runs Ansible where the backend is root. Without it fluid-runner."""
    strategy: Literal["auto", "linear", "mitogen_linear"] = "auto"
    """auto: mitogen_linear where guests are emulated, linear elsewhere."""
    timeout_s: int = Field(default=1800, ge=30)
    """How long a run may take."""


class ApprovalConfig(Section):
    """Requests for approval."""

    expires_s: int = Field(default=3600, ge=60)
    """How long a request waits for an answer."""
    allow_unrehearsed: bool = False
    """Allow the approval of a playbook with tasks that the rehearsal could not try."""


class SnapshotConfig(Section):
    """Snapshots that are made by policy."""

    before_dangerous: bool = True
    """Before a command that removes folders, packages or accounts, formats a disk or empties the firewall."""
    at_task: bool = False
    """When an agent says that it begins a task, and that it has finished."""
    keep: int = Field(default=5, ge=1, le=100)
    """How many of these a sandbox keeps; the oldest go."""


class RecordingConfig(Section):
    """What agents' terminals show, kept for replay."""

    enabled: bool = True
    """Whether it is recorded."""
    keep_days: int = Field(default=30, ge=1, le=3660)
    """How long it is kept after the terminal's end."""
    terminal_mb: int = Field(default=8, ge=3, le=64)
    """Of one terminal, uncompressed; beyond it the middle goes."""
    total_mb: int = Field(default=2048, ge=16)
    """Of all, on the disk; beyond it the oldest go."""


class LimitConfig(Section):
    """Limits for agents, and what is left free for others."""

    sandboxes_per_owner: int = Field(default=20, ge=0)
    """How many sandboxes a user may have at once."""
    panes_per_sandbox: int = Field(default=16, ge=1)
    """How many terminals a sandbox may have, those included whose shell has ended."""
    requests_per_requester: int = Field(default=20, ge=1)
    """How many open requests for approval a user may have, those aside whose rehearsal failed."""
    rehearsals_per_requester: int = Field(default=4, ge=1)
    """How many of a user's requests are rehearsed at once, each on a machine of its own."""
    asks_per_requester: int = Field(default=100, ge=1)
    """How many questions of a user may wait for an answer."""
    output_bytes: int = Field(default=1024**2, ge=1024)
    """How much of a command's output is kept."""
    file_bytes: int = Field(default=16 * 1024**2, ge=1024)
    """How large a file may be that is read or written in a sandbox."""
    command_s: int = Field(default=300, ge=1)
    """How long a command may run, if nothing else is asked for."""
    command_s_max: int = Field(default=7200, ge=1)
    """The most that may be asked for."""
    command_chars: int = Field(default=65_536, ge=1)
    """How long a command's text may be."""
    disk_reserve_mb: int = Field(default=2048, ge=0)
    """What stays free on a disk that holds sandboxes. Below it nothing is created, and the sandbox that grew
    most lately is paused."""
    memory_reserve_mb: int = Field(default=512, ge=0)
    """What stays free of each host's memory. A create that needs it is refused."""
    disk_gb_max: int = Field(default=64, ge=1)
    """How large a sandbox's disk may be, as the guest sees it."""
    ttl_max_s: int = Field(default=7 * DAY_S, ge=60, le=3660 * DAY_S)
    """How far ahead the end of a sandbox may be set."""
    image_gb: int = Field(default=32, ge=8)
    """How large an imported image may be, as a file and as a disk."""


class Config(Section):
    """``config.yaml``."""

    server: ServerConfig = Field(default_factory=ServerConfig)
    database: DatabaseConfig | None = None
    embedded: EmbeddedConfig = Field(default_factory=EmbeddedConfig)
    hosts: list[HostConfig] = Field(default_factory=lambda: [HostConfig()], min_length=1)
    """The hypervisors. Without them this machine."""
    storage: StorageConfig = Field(default_factory=StorageConfig)
    sources: list[SourceConfig] = Field(default_factory=list)
    """libvirt domains that operators may make sources of. A target of production is refused."""
    operators: list[str] = Field(default_factory=list)
    """Users or @groups who decide. Without them the user that runs the backend."""
    agents: list[str] = Field(default_factory=list)
    """Users or @groups who may use the agents' door. Without them whoever its group lets in."""
    auditors: list[str] = Field(default_factory=list)
    """Users or @groups who may see what operators see, and decide nothing."""
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
