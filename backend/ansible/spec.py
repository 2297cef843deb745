"""What is run where, and what became of it. Values that reach Ansible's inventory are held to plain words."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Literal

from backend.errors import InvalidValue
from backend.models import RunKind, RunState, TargetResult, check_name

Strategy = Literal["linear", "mitogen_linear"]

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_HOST_KEY = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/=]+")
_SECRET = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
SSH_PORT = 22


def check_run_id(run_id: str) -> str:
    """``run_id`` itself: it becomes the name of a folder."""
    if not _RUN_ID.fullmatch(run_id):
        raise InvalidValue(f"{run_id!r} is not the id of a run", remedy="an approval names its runs")
    return run_id


def is_address(text: str) -> bool:
    """True for an IP address or a host name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _HOST.fullmatch(text) is not None
    return True


@dataclass(frozen=True)
class TargetHost:
    """A machine to run on. ``host_key`` is ``type base64`` of the one key that it must show."""

    name: str
    address: str
    host_key: str
    port: int = SSH_PORT
    user: str = "root"
    become: bool = False

    def __post_init__(self) -> None:
        check_name(self.name, "name of a target")
        for word, value, good in (
            ("address", self.address, is_address(self.address)),
            ("user", self.user, _USER.fullmatch(self.user)),
            ("host key", self.host_key, _HOST_KEY.fullmatch(self.host_key)),
            ("port", str(self.port), 0 < self.port < 65536),
        ):
            if not good:
                raise InvalidValue(
                    f"target {self.name}: {value!r} is not a valid {word}", remedy="mend it in `targets`"
                )

    def known_hosts_line(self) -> str:
        """sshd(8), SSH_KNOWN_HOSTS FILE FORMAT."""
        name = self.address if self.port == SSH_PORT else f"[{self.address}]:{self.port}"
        return f"{name} {self.host_key}"


@dataclass(frozen=True)
class SshKey:
    """What the runner logs in with: a private key without a passphrase, and maybe its certificate."""

    private: bytes = field(repr=False)
    certificate: bytes | None = None


@dataclass(frozen=True)
class RunSpec:
    """One run. ``files`` maps SHA-256 to content; ``secrets`` are values that no file may hold.

    With ``first_alone`` the first host goes through the whole play before any other is touched, and where it
    fails no other is.
    """

    id: str
    kind: RunKind
    playbook: str
    hosts: list[TargetHost]
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    check: bool = False
    strategy: Strategy = "linear"
    timeout_s: int = 1800
    first_alone: bool = False
    secrets: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_run_id(self.id)
        if not self.hosts:
            raise InvalidValue(f"run {self.id}: no hosts", remedy="name one target at least")
        if bad := next((name for name in self.files if not _SHA256.fullmatch(name)), None):
            raise InvalidValue(
                f"run {self.id}: {bad!r} is not a SHA-256", remedy="generate the playbook anew"
            )
        if bad := next((name for name in self.secrets if not _SECRET.fullmatch(name)), None):
            raise InvalidValue(
                f"run {self.id}: {bad!r} is not the name of a secret", remedy="generate the playbook anew"
            )


@dataclass(frozen=True)
class RunHandle:
    """A started run. ``pid`` is the supervisor's, outside the backend's process tree; None: it ended
    already."""

    id: str
    pid: int | None


@dataclass(frozen=True)
class RunOutcome:
    """How a run stands. ``strategy`` is the one that was really used, known at the end."""

    id: str
    state: RunState
    results: dict[str, TargetResult] = field(default_factory=dict)
    reason: str = ""
    strategy: str = ""
