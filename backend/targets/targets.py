"""Production as the config names it: who may ask for which target, and how the runner reaches it.

A target has one group, and the group has the key, the known host keys and the rule of approval. An agent sees
the names it may ask for; any other name does not exist for it.
"""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.ansible import SshKey, TargetHost, is_address
from backend.config import TargetGroup, TargetsConfig
from backend.errors import ConfigError, TargetDown, TargetNotFound
from backend.models import Identity, Role, TargetView
from backend.targets.inventory import read_inventory
from backend.targets.known_hosts import host_key

log = logging.getLogger("fluid.targets")

CONNECT_S = 10
CHECK_S = 20
ANYBODY = "*"


@dataclass(frozen=True)
class ResolvedTarget:
    """A target with all that an approval binds. ``host_key`` is ``type base64``."""

    name: str
    group: str
    address: str
    port: int
    user: str
    become: bool
    host_key: str
    key_file: Path
    approvals: int
    approvers: tuple[str, ...]

    @property
    def login(self) -> str:
        """``user@address:port``, for people."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.user}@{address}:{self.port}"

    def host(self) -> TargetHost:
        """As the runner wants it."""
        return TargetHost(self.name, self.address, self.host_key, self.port, self.user, self.become)


@dataclass(frozen=True)
class _Entry:
    name: str
    group: str
    address: str
    port: int
    user: str


class Targets:
    """The targets of one configuration, read once.

    Raises:
        ConfigError: the inventory cannot be read, or names a host in two groups.
    """

    def __init__(self, config: TargetsConfig) -> None:
        self._groups = config.groups
        self._entries: dict[str, _Entry] = {}
        for group, settings in config.groups.items():
            for name, host in settings.hosts.items():
                self._add(_Entry(name, group, host.address, host.port, settings.user), "targets.groups")
        for listed in read_inventory(config.inventory) if config.inventory else []:
            if (settings_of := config.groups.get(listed.group)) is not None:
                user = listed.user or settings_of.user
                entry = _Entry(listed.name, listed.group, listed.address or listed.name, listed.port, user)
                self._add(entry, f"{config.inventory}:{listed.line}")

    def _add(self, entry: _Entry, where: str) -> None:
        if (known := self._entries.get(entry.name)) and known != entry:
            raise ConfigError(
                f"{where}: target {entry.name!r} stands twice (also in group {known.group!r})",
                remedy="a target belongs to one group, which gives its key and its rule",
            )
        if not is_address(entry.address):
            raise ConfigError(f"{where}: {entry.address!r} is not an address of {entry.name!r}")
        self._entries[entry.name] = entry

    async def list(self, actor: Identity) -> Sequence[TargetView]:
        """The targets that ``actor`` may ask for; addresses for operators only."""
        return [self._view(entry, actor) for entry in self._visible(actor)]

    async def check(self, actor: Identity, name: str | None = None) -> Sequence[TargetView]:
        """The same after a login on each with its group's key.

        Raises:
            TargetNotFound: no such target, or not the caller's.
        """
        entries = [self._visible_entry(name, actor)] if name is not None else self._visible(actor)
        problems = await asyncio.gather(*(self.problem(entry.name) for entry in entries))
        views = (self._view(entry, actor) for entry in entries)
        return [
            view.model_copy(update={"reachable": problem is None, "problem": problem or ""})
            for view, problem in zip(views, problems, strict=True)
        ]

    def production(self) -> frozenset[str]:
        """Every name and every address of a target."""
        return frozenset(word for entry in self._entries.values() for word in (entry.name, entry.address))

    def allowed(self, actor: Identity, names: Iterable[str]) -> Sequence[str]:
        """``names`` without doubles, in their order.

        Raises:
            TargetNotFound: no such target, or not one that ``actor`` may ask for.
            TargetDown: to an agent, of one that :meth:`resolve` refuses in words that are for operators.
        """
        entries = [self._visible_entry(name, actor) for name in dict.fromkeys(names)]
        if actor.role is Role.AGENT:
            for entry in entries:
                self._must_be_ready(entry)
        return [entry.name for entry in entries]

    def _must_be_ready(self, entry: _Entry) -> None:
        try:
            self._resolved(entry)
        except ConfigError as error:
            log.warning("%s; %s", error.message, error.remedy)
            raise TargetDown(
                f"target {entry.name!r} is not ready", remedy="ask an operator: the backend's log says why"
            ) from error

    def resolve(self, names: Iterable[str]) -> Sequence[ResolvedTarget]:
        """All that an approval binds about the targets, in the order of ``names``.

        Raises:
            TargetNotFound: no such target.
            ConfigError: its host key is not in the group's known_hosts.
        """
        return [self._resolved(self._entry(name)) for name in dict.fromkeys(names)]

    def key(self, name: str) -> SshKey:
        """The group's private key, with the certificate beside it if there is one (``KEY-cert.pub``).

        Raises:
            ConfigError: it cannot be read, or others can read it.
        """
        file = self._groups[self._entry(name).group].ssh_key_file
        _refuse_if_open(file)
        certificate = file.with_name(file.name + "-cert.pub")
        try:
            return SshKey(file.read_bytes(), certificate.read_bytes() if certificate.exists() else None)
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error

    async def problem(self, name: str) -> str | None:
        """What keeps the runner from being root there, in one line; None when that worked just now."""
        try:
            target = self._resolved(self._entry(name))
            _refuse_if_open(target.key_file)
        except ConfigError as error:
            return f"{error.message}; {error.remedy}" if error.remedy else error.message
        if target.user == "root":
            return await _login(self.ssh(target, "true"))
        if target.become:
            return await _login(self.ssh(target, "sudo -n -- true"))
        return await _login(self.ssh(target, "true")) or (
            f"{target.user} is not root there, which playbooks need; give its group `become: true` for sudo"
        )

    def ssh(self, target: ResolvedTarget, command: str) -> Sequence[str]:
        """The argument list that runs ``command`` there, in the way that the runner logs in."""
        return _ssh(target, self._groups[target.group].known_hosts, command)

    def _visible(self, actor: Identity) -> Sequence[_Entry]:
        return [entry for _, entry in sorted(self._entries.items()) if self._may_ask(entry, actor)]

    def _may_ask(self, entry: _Entry, actor: Identity) -> bool:
        if actor.role is not Role.AGENT:
            return True
        allowed = self._groups[entry.group].agents
        own = {ANYBODY, actor.name, *(f"@{group}" for group in actor.groups)}
        return any(word in own for word in allowed)

    def _entry(self, name: str) -> _Entry:
        if (entry := self._entries.get(name)) is None:
            raise TargetNotFound(f"there is no target {name!r}", remedy="`fluid targets list` names them")
        return entry

    def _visible_entry(self, name: str, actor: Identity) -> _Entry:
        entry = self._entries.get(name)
        if entry is None or not self._may_ask(entry, actor):
            raise TargetNotFound(f"there is no target {name!r}", remedy="`fluid targets list` names them")
        return entry

    def _view(self, entry: _Entry, actor: Identity) -> TargetView:
        approvals = self._groups[entry.group].approvals
        if actor.role is Role.AGENT:
            return TargetView(name=entry.name, group=entry.group, approvals=approvals)
        return TargetView(name=entry.name, group=entry.group, address=entry.address, approvals=approvals)

    def _resolved(self, entry: _Entry) -> ResolvedTarget:
        group = self._groups[entry.group]
        return ResolvedTarget(
            name=entry.name,
            group=entry.group,
            address=entry.address,
            port=entry.port,
            user=entry.user,
            become=group.become,
            host_key=self._host_key(entry, group),
            key_file=group.ssh_key_file,
            approvals=group.approvals,
            approvers=tuple(group.approvers),
        )

    @staticmethod
    def _host_key(entry: _Entry, group: TargetGroup) -> str:
        if found := host_key(group.known_hosts, entry.address, entry.port):
            return found
        scan = f"ssh-keyscan -p {entry.port} {entry.address} >> {group.known_hosts}"
        raise ConfigError(
            f"target {entry.name!r}: {group.known_hosts} holds no key of {entry.address} port {entry.port}",
            remedy=f"`{scan}`, then compare the fingerprint with the machine's own (ssh-keygen -lf)",
        )


def _refuse_if_open(file: Path) -> None:
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", remedy="check ssh_key_file") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"others can read the private key {file}", remedy=f"chmod 600 {file}")


def _ssh(target: ResolvedTarget, known_hosts: Path, command: str) -> list[str]:
    """A login with the group's key and nothing else of ours (ssh(1), ssh_config(5))."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(CONNECT_S),
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f'"{known_hosts}"',
        "GlobalKnownHostsFile": "/dev/null",
        "UpdateHostKeys": "no",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "IdentityFile": f'"{target.key_file}"',
        "ForwardAgent": "no",
        "ControlPath": "none",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    return ["ssh", "-F", "none", *words, "-p", str(target.port), f"{target.user}@{target.address}", command]


async def _login(argv: Sequence[str]) -> str | None:
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(CHECK_S):
            _, errors = await process.communicate()
    except TimeoutError:
        return f"no answer within {CHECK_S} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return None
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else f"ssh ended with {process.returncode}"
