"""What a machine changes by itself, as a profile in AIDE's manner: named rules, none of them silent.

A hidden change is counted under its rule. What could give rights away (setuid, capabilities, devices) is
never hidden, wherever it lies.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from backend.models import FileChange, FileKind, FileState, guest_path

SERVICE_STATE = "service state"
_SETID = 0o6000
_DEVICES = (FileKind.CHARACTER, FileKind.BLOCK)
_CAPABILITY = "security.capability"


@dataclass(frozen=True)
class Rule:
    """Paths by pattern (``*`` within a name, ``**`` across names). With ``keeps_metadata`` a change of owner,
    mode, attributes or kind still counts."""

    name: str
    patterns: tuple[str, ...]
    keeps_metadata: bool = False

    @cached_property
    def regex(self) -> re.Pattern[bytes]:
        """All patterns as one."""
        return re.compile(b"|".join(_translate(pattern) for pattern in self.patterns), re.DOTALL)

    def hides(self, change: FileChange, path: bytes) -> bool:
        """Whether this rule hides ``change``."""
        if not self.regex.fullmatch(path):
            return False
        return not (self.keeps_metadata and _metadata(change.before) != _metadata(change.after))


@dataclass(frozen=True)
class NoiseProfile:
    """Rules in order; the first that matches gives its name."""

    rules: tuple[Rule, ...]

    @classmethod
    def default(cls) -> NoiseProfile:
        """What Debian, systemd, OpenSSH and our own login change by themselves."""
        return cls(_RULES)

    def hides(self, change: FileChange) -> str:
        """The name of the rule that hides ``change``; empty when it counts."""
        if gives_rights(change):
            return ""
        path = guest_path(change.path)
        return next((rule.name for rule in self.rules if rule.hides(change, path)), "")


def gives_rights(change: FileChange) -> bool:
    """Whether a side is setuid, setgid, a device or holds capabilities: such a change is never hidden."""
    return any(_rights(state) for state in (change.before, change.after))


def _rights(state: FileState | None) -> bool:
    if state is None:
        return False
    set_id = state.kind is FileKind.FILE and state.mode & _SETID
    return bool(set_id) or state.kind in _DEVICES or _CAPABILITY in state.xattrs


def _metadata(state: FileState | None) -> tuple[object, ...]:
    if state is None:
        return ()
    return state.kind, state.mode, state.uid, state.gid, tuple(sorted(state.xattrs.items()))


def _translate(pattern: str) -> bytes:
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    words = {"**": b".*", "*": b"[^/]*", "?": b"[^/]"}
    return b"".join(words.get(part) or re.escape(part.encode()) for part in parts if part)


def _tree(*folders: str) -> tuple[str, ...]:
    """Everything in the folders, and the folders themselves."""
    return tuple(form for folder in folders for form in (folder, folder + "/**"))


_RULES: tuple[Rule, ...] = (
    Rule("accounts", tuple(f"/etc/{name}" for name in ("passwd", "group", "shadow", "gshadow")), True),
    Rule("subordinate ids", ("/etc/subuid", "/etc/subgid"), True),
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
    Rule("identity", ("/etc/machine-id", "/etc/hostname", "/etc/hosts", "/var/lib/dbus/machine-id"), True),
    Rule(
        "host keys", ("/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub", "/etc/ssh/fluid_ca.pub"), True
    ),
    Rule("logs", ("/var/log/**",)),
    Rule("caches", ("/var/cache/**", "/home/*/.cache", "/home/*/.cache/**", *_tree("/root/.cache"))),
    Rule("package lists", _tree("/var/lib/apt")),
    Rule(
        "package database",
        ("/var/lib/dpkg/**", *_tree("/var/lib/rpm", "/usr/lib/sysimage/rpm", "/var/lib/dnf", "/var/lib/yum")),
    ),
    Rule("package scripts", _tree("/var/lib/ucf", "/var/lib/pam", "/var/lib/systemd", "/var/lib/private")),
    Rule("temporary files", ("/tmp/**", "/var/tmp/**", "/run/**", "/dev/**")),  # noqa: S108
    Rule("linker cache", ("/etc/ld.so.cache",), True),
    Rule("compiled Python", ("**/__pycache__", "**/__pycache__/**", "**/*.pyc")),
    Rule("shell history", ("/root/.bash_history", "/home/*/.bash_history", "**/.lesshst", "**/.viminfo")),
    Rule("tool droppings", (*_tree("/root/.ansible", "/home/*/.ansible"), "/root/.wget-hsts", "/root/.rnd")),
    Rule("backups and mail", (*_tree("/var/backups"), "/var/mail/*", "/var/spool/mail/*")),
    Rule("file system", _tree("/lost+found")),
    Rule("time", ("/etc/adjtime", "/var/lib/logrotate/**", "/var/lib/misc/**", "/var/lib/man-db/**")),
    Rule("name resolution", ("/etc/resolv.conf",), True),
)
