"""Access lists and capabilities, which no module of ``ansible.builtin`` sets: by ``setfacl`` and ``setcap``,
each behind a probe that looks whether there are any. A machine that has others keeps them.

Sources: acl(5), capabilities(7); linux/posix_acl_xattr.h, linux/capability.h for the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from backend.models import FileChange, FileKind, FileState
from backend.playbooks.builders.context import Context, Phase, Task, title

ACCESS, DEFAULT, CAPABILITY = "system.posix_acl_access", "system.posix_acl_default", "security.capability"
LABELS = "security.selinux"
_SETTERS = {"setfacl": (ACCESS, DEFAULT), "setcap": (CAPABILITY,)}
_VERSION = 2  # of an access list: eight bytes an entry
_TAGS = {1: "u:", 2: "u:", 4: "g:", 8: "g:", 16: "m:", 32: "o:"}
_NAMED = (2, 8)
_REVISIONS = {2: 20, 3: 24}  # of capabilities: bytes
_EFFECTIVE = 1
_CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid",
    "setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw",
    "ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct",
    "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease",
    "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog", "wake_alarm",
    "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore",
)  # fmt: skip


def rights(context: Context, change: FileChange, path: str) -> list[Task]:
    """Two tasks for each kind that the agent gave by its program; a note for what is left."""
    state, before = change.after, change.before
    if state is None or state.kind is FileKind.LINK:
        return []
    left = {name for name in state.xattrs if not name.startswith(LABELS)}
    had = set(before.xattrs) if before is not None else set()
    tasks: list[Task] = []
    for program, names in _SETTERS.items():
        commands = [c.id for c, call in context.calls(program) if _names(call.argv, path)]
        words = (
            _access(context, state)
            if program == "setfacl"
            else _capabilities(state.xattrs.get(CAPABILITY, ""))
        )
        if not left.intersection(names) or not commands or not words or had.intersection(names):
            continue
        left.difference_update(names)
        tasks += _guarded(context, program, words, path, change, commands)
    if left:
        context.note(
            f"{change.path}: {', '.join(sorted(left))} cannot be expressed by a module of ansible.builtin"
        )
    return tasks


def _names(argv: list[str], path: str) -> bool:
    """The path, or with ``-R`` a folder around it."""
    return any(f"{path}/".startswith(f"{word.rstrip('/')}/") for word in argv if word.startswith("/"))


def _guarded(
    context: Context, program: str, words: str, path: str, change: FileChange, commands: list[str]
) -> list[Task]:
    probe = ["getfacl", "-cps", path] if program == "setfacl" else ["getcap", path]
    argv = ["setfacl", "--set", words, path] if program == "setfacl" else ["setcap", words, path]
    what = "an access list" if program == "setfacl" else "capabilities"
    result = context.result("rights")
    return [
        Task(
            Phase.RIGHTS,
            title(f"Look whether {path} has {what}"),
            "command",
            {"argv": probe},
            register=result,
            commands=commands,
            paths=[change.path],
        ),
        Task(
            Phase.RIGHTS,
            title(f"Give {path} {what}"),
            "command",
            {"argv": argv},
            when=f"{result}.stdout == ''",
            commands=commands,
            paths=[change.path],
        ),
    ]


def _access(context: Context, state: FileState) -> str:
    """As ``setfacl --set`` takes it; empty for bytes that are none."""
    entries = list(_entries(context, state.xattrs.get(ACCESS, ""), ""))
    if ACCESS not in state.xattrs:
        bits = ((state.mode >> shift) & 7 for shift in (6, 3, 0))
        entries = [f"{who}::{_rwx(perm)}" for who, perm in zip("ugo", bits, strict=True)]
    default = list(_entries(context, state.xattrs.get(DEFAULT, ""), "d:"))
    if not entries or (DEFAULT in state.xattrs and not default):
        return ""
    return ",".join([*entries, *default])


def _entries(context: Context, value: str, prefix: str) -> Iterator[str]:
    data = bytes.fromhex(value)
    if data[:4] != struct.pack("<I", _VERSION):
        return
    for tag, perm, number in struct.iter_unpack("<HHI", data[4 : 4 + (len(data) - 4) // 8 * 8]):
        if tag not in _TAGS:
            return
        who = _name(context, tag, number) if tag in _NAMED else ""
        yield f"{prefix}{_TAGS[tag]}{who}:{_rwx(perm)}"


def _name(context: Context, tag: int, number: int) -> str:
    """The name of an account of the change, whose number may differ elsewhere; else the number."""
    accounts = context.changes.users if tag == _NAMED[0] else context.changes.groups
    key = "uid" if tag == _NAMED[0] else "gid"
    return next((one.name for one in accounts if one.after.get(key) == str(number)), str(number))


def _rwx(perm: int) -> str:
    return "".join(letter if perm & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))


def _capabilities(value: str) -> str:
    """As setcap(8) takes it; empty for what it cannot say, such as a user namespace's."""
    data = bytes.fromhex(value)
    if len(data) < 4:
        return ""
    (magic,) = struct.unpack_from("<I", data)
    revision = magic >> 24
    if _REVISIONS.get(revision) != len(data) or data[20:].strip(b"\0"):
        return ""
    low, low_inherited, high, high_inherited = struct.unpack_from("<IIII", data, 4)
    permitted, inherited = low | high << 32, low_inherited | high_inherited << 32
    if (permitted | inherited) >> len(_CAPABILITIES):
        return ""
    found: dict[str, list[str]] = {}
    for number, name in enumerate(_CAPABILITIES):
        has, gets = permitted >> number & 1, inherited >> number & 1
        if has or gets:
            flags = ("e" if magic & _EFFECTIVE else "") + ("i" if gets else "") + ("p" if has else "")
            found.setdefault(flags, []).append(f"cap_{name}")
    return " ".join(f"{','.join(names)}={flags}" for flags, names in sorted(found.items()))
