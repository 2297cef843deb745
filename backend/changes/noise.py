"""What a machine changes by itself, as a profile in AIDE's manner: path pattern → which attributes count.

The first rule whose pattern matches decides; a user's rules stand before ours. A hidden change is counted
under its rule. What could give rights away (setuid, capabilities, devices) is never hidden, wherever it lies.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Flag, auto
from functools import cached_property
from pathlib import Path

from backend.errors import ConfigError
from backend.models import ChangeVerb, FileChange, FileKind, FileState, guest_path

SERVICE_STATE = "service state"
LOGS, CACHES, BACKUPS = "logs", "caches", "backups and mail"
HOST_KEYS = "host keys"
MAX_FILE_BYTES = 256 << 10
_APT = "_apt"
_SETID = 0o6000
_DEVICES = (FileKind.CHARACTER, FileKind.BLOCK)
_CAPABILITY = "security.capability"


class Attribute(Flag):
    """What of a change may count. ``CONTENT`` is a file's bytes and a link's target, ``NAMES`` are the other
    names of the same file."""

    NONE = 0
    ADDED = auto()
    REMOVED = auto()
    TYPE = auto()
    CONTENT = auto()
    MODE = auto()
    OWNER = auto()
    GROUP = auto()
    XATTRS = auto()
    NAMES = auto()
    ALL = ADDED | REMOVED | TYPE | CONTENT | MODE | OWNER | GROUP | XATTRS | NAMES
    METADATA = ADDED | REMOVED | TYPE | MODE | OWNER | GROUP | XATTRS | NAMES


RIGHTS = Attribute.MODE | Attribute.OWNER | Attribute.GROUP


@dataclass(frozen=True)
class Rule:
    """Paths by pattern (``*`` within a name, ``**`` across names), and what of a change there counts.
    ``roots``: so does what is new there and may be written by others than root and apt."""

    name: str
    patterns: tuple[str, ...]
    counts: Attribute = Attribute.NONE
    roots: bool = False

    @cached_property
    def regex(self) -> re.Pattern[bytes]:
        """All patterns as one."""
        return re.compile(b"|".join(_translate(pattern) for pattern in self.patterns), re.DOTALL)


@dataclass(frozen=True)
class NoiseProfile:
    """Rules in order."""

    rules: tuple[Rule, ...]

    @classmethod
    def default(cls) -> NoiseProfile:
        """What Debian, Fedora, systemd, OpenSSH and our own login change by themselves."""
        return cls(_RULES)

    @classmethod
    def load(cls, file: Path) -> NoiseProfile:
        """The default with the rules of ``file`` before it, if there is one.

        Raises:
            ConfigError: naming the file and the line.
        """
        try:
            own = tuple(_own_rules(file))
        except FileNotFoundError:
            own = ()
        return cls(own + _RULES)

    def hides(self, change: FileChange) -> str:
        """The name of the rule that hides ``change``; empty when it counts."""
        if gives_rights(change):
            return ""
        path = guest_path(change.path)
        rule = next((rule for rule in self.rules if rule.regex.fullmatch(path)), None)
        if rule is None or rule.counts & differing(change) or (rule.roots and _is_strange(change)):
            return ""
        return rule.name


def differing(change: FileChange) -> Attribute:
    """What differs between the two sides."""
    before, after = change.before, change.after
    if before is None or after is None:
        return Attribute.ADDED if before is None else Attribute.REMOVED
    found = Attribute.NONE
    for attribute, values in (
        (Attribute.TYPE, [(side.kind, side.device) for side in (before, after)]),
        (Attribute.CONTENT, [(side.sha256, side.size, side.target) for side in (before, after)]),
        (Attribute.MODE, [side.mode for side in (before, after)]),
        (Attribute.OWNER, [side.uid for side in (before, after)]),
        (Attribute.GROUP, [side.gid for side in (before, after)]),
        (Attribute.XATTRS, [side.xattrs for side in (before, after)]),
        (Attribute.NAMES, [side.same_file for side in (before, after)]),
    ):
        if values[0] != values[1]:
            found |= attribute
    if change.verb is ChangeVerb.MODIFIED and before.sha256 is after.sha256 is None:
        found |= Attribute.CONTENT if after.kind is FileKind.FILE else Attribute.NONE  # it was not hashed
    return found


def _is_strange(change: FileChange) -> bool:
    """Whether something is new that others than root and apt may write."""
    after = change.after
    if change.before is not None or after is None:
        return False
    open_to_all = after.kind is not FileKind.LINK and bool(after.mode & stat.S_IWOTH)
    return open_to_all or (after.uid != 0 and after.owner != _APT)


def _own_rules(file: Path) -> Iterator[Rule]:
    """A rule a line: ``PATTERN ATTRIBUTE[+ATTRIBUTE…] [NAME]``, quoted as in a shell."""
    with file.open("rb") as opened:
        if os.fstat(opened.fileno()).st_mode & stat.S_IWOTH:
            raise ConfigError(f"{file}: anybody can write what is hidden", remedy=f"chmod o-w {file}")
        data = opened.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{file}: over {MAX_FILE_BYTES >> 10} KiB", remedy="write fewer rules")
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            words = shlex.split(line.decode("utf-8"), comments=True)
            if words:
                yield _own_rule(*words)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{file}:{number}: {error}", remedy="write PATTERN, what counts there, and a name"
            ) from error


def _own_rule(pattern: str, attributes: str = "", *name: str) -> Rule:
    if not pattern.startswith(("/", "**")):
        raise ValueError(f"{pattern!r} is no absolute pattern")
    counts = Attribute.NONE
    for word in attributes.split("+"):
        try:
            counts |= Attribute[word.upper()]
        except KeyError:
            known = ", ".join(one.lower() for one in Attribute.__members__)
            raise ValueError(f"{word!r} is none of {known}") from None
    return Rule(" ".join(name) or pattern, (pattern,), counts)


def gives_rights(change: FileChange) -> bool:
    """Whether a side is setuid, setgid, a device or holds capabilities: such a change is never hidden."""
    return any(_rights(state) for state in (change.before, change.after))


def _rights(state: FileState | None) -> bool:
    if state is None:
        return False
    set_id = state.kind is FileKind.FILE and state.mode & _SETID
    return bool(set_id) or state.kind in _DEVICES or _CAPABILITY in state.xattrs


def _translate(pattern: str) -> bytes:
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    words = {"**": b".*", "*": b"[^/]*", "?": b"[^/]"}
    return b"".join(words.get(part) or re.escape(part.encode()) for part in parts if part)


def _tree(*folders: str) -> tuple[str, ...]:
    """Everything in the folders, and the folders themselves."""
    return tuple(form for folder in folders for form in (folder, folder + "/**"))


_NOT_ROOTS = ("timesync", "network", "journal-remote", "journal-upload")
"""Services of systemd that have accounts of their own, which get their folder as they start."""

_RULES: tuple[Rule, ...] = (
    Rule(
        "accounts",
        tuple(f"/etc/{name}" for name in ("passwd", "group", "shadow", "gshadow")),
        Attribute.METADATA,
    ),
    Rule("subordinate ids", ("/etc/subuid", "/etc/subgid"), Attribute.METADATA),
    Rule(
        "account backups",
        (
            "/etc/passwd-",
            "/etc/group-",
            "/etc/shadow-",
            "/etc/gshadow-",
            "/etc/subuid-",
            "/etc/subgid-",
            "/etc/.pwd.lock",
        ),
    ),
    Rule(
        "identity",
        ("/etc/machine-id", "/etc/hostname", "/etc/hosts", "/var/lib/dbus/machine-id"),
        Attribute.METADATA,
    ),
    Rule("identity", ("/etc/machine-info",)),  # Ansible writes the host name there too
    Rule(
        HOST_KEYS,
        ("/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub", "/etc/ssh/fluid_ca.pub"),
        Attribute.METADATA,
    ),
    Rule(LOGS, ("/var/log/**",)),
    Rule(CACHES, ("/var/cache/**", "/home/*/.cache", "/home/*/.cache/**", *_tree("/root/.cache"))),
    Rule("package lists", _tree("/var/lib/apt/lists/partial", "/var/lib/apt/mirrors/partial")),  # apt's own
    Rule("package lists", _tree("/var/lib/apt"), RIGHTS, roots=True),
    Rule(
        "package database",
        (
            "/var/lib/dpkg/**",
            *_tree("/var/lib/rpm", "/usr/lib/sysimage/rpm", "/var/lib/dnf", "/usr/lib/sysimage/libdnf5"),
            *_tree("/var/lib/yum"),
        ),
        RIGHTS,
        roots=True,
    ),
    Rule("services that outlive a login", ("/var/lib/systemd/linger/*",), Attribute.ALL),
    Rule("package scripts", _tree(*(f"/var/lib/systemd/{name}" for name in _NOT_ROOTS))),
    Rule("package scripts", _tree("/var/lib/systemd"), RIGHTS),
    Rule("package scripts", _tree("/var/lib/ucf", "/var/lib/pam", "/var/lib/private")),
    Rule("temporary files", ("/tmp/**", "/var/tmp/**", "/run/**", "/dev/**")),  # noqa: S108
    Rule("linker cache", ("/etc/ld.so.cache",), Attribute.METADATA),
    Rule("compiled Python", ("**/__pycache__", "**/__pycache__/**", "**/*.pyc")),
    Rule("shell history", ("/root/.bash_history", "/home/*/.bash_history", "**/.lesshst", "**/.viminfo")),
    Rule("tool droppings", (*_tree("/root/.ansible", "/home/*/.ansible"), "/root/.wget-hsts", "/root/.rnd")),
    Rule(BACKUPS, (*_tree("/var/backups"), "/var/mail/*", "/var/spool/mail/*")),
    Rule("file system", _tree("/lost+found")),
    Rule("time", ("/etc/adjtime", "/var/lib/logrotate/**", "/var/lib/misc/**", "/var/lib/man-db/**")),
    Rule("name resolution", ("/etc/resolv.conf",), Attribute.METADATA),
)
