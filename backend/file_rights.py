"""Rights that extended attributes give, from their bytes: access lists and file capabilities; and what
chattr(1) sets, which the disk reader puts beside them. Pure.

Sources: acl(5), capabilities(7), chattr(1); linux/posix_acl_xattr.h, linux/capability.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
CAPABILITY = "security.capability"
CHATTR = "chattr"
_CHATTR_WORDS = {
    "i": "immutable", "a": "append only", "A": "no access times", "S": "synchronous",
    "D": "synchronous directory", "d": "no dump", "j": "journalled data",
}  # fmt: skip

_LIST_VERSION = struct.pack("<I", 2)
_TAGS = {1: "user", 2: "user", 4: "group", 8: "group", 16: "mask", 32: "other"}
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


MAX_CHARS = 120


@dataclass(frozen=True)
class Entry:
    """One of an access list. ``number``: the uid or gid; None: the file's own."""

    who: str  # user | group | mask | other
    number: int | None
    rights: str  # r-x


@dataclass(frozen=True)
class Capabilities:
    """What a program may."""

    flags: dict[str, str]  # cap_net_raw → ep; a number for a name that nobody knew
    root: int  # the uid that is root in the user namespace whose they are; 0: the machine's


def access_list(data: bytes) -> list[Entry]:
    """In the order of the bytes. Raises ValueError: they are no access list."""
    if data[:4] != _LIST_VERSION or len(data) % 8 != 4:
        raise ValueError("no access list of version 2")
    entries = list(struct.iter_unpack("<HHI", data[4:]))
    if any(tag not in _TAGS for tag, _, _ in entries):
        raise ValueError("an entry of nobody")
    return [
        Entry(_TAGS[tag], number if tag in _NAMED else None, rwx(rights)) for tag, rights, number in entries
    ]


def rwx(bits: int) -> str:
    """``r-x`` of the bits of one of the three."""
    return "".join(letter if bits & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))


def capabilities(data: bytes) -> Capabilities:
    """In the order of their numbers. Raises ValueError: the bytes are no capabilities."""
    magic = int.from_bytes(data[:4], "little")
    if _REVISIONS.get(magic >> 24) != len(data):
        raise ValueError("no capabilities of revision 2 or 3")
    low, low_inherited, high, high_inherited = struct.unpack_from("<IIII", data, 4)
    permitted, inherited = low | high << 32, low_inherited | high_inherited << 32
    effective = "e" if magic & _EFFECTIVE else ""
    found = {}
    for number in range(64):
        has, gets = permitted >> number & 1, inherited >> number & 1
        if has or gets:
            name = f"cap_{_CAPABILITIES[number]}" if number < len(_CAPABILITIES) else str(number)
            found[name] = effective + ("i" if gets else "") + ("p" if has else "")
    return Capabilities(found, int.from_bytes(data[20:], "little"))


def words(name: str, value: str) -> str:
    """An extended attribute's hexadecimal digits as a sysadmin knows them: access lists as setfacl(1)
    takes them, capabilities as getcap(8) tells them, chattr's letters in words. Anything else stands as it
    is, cut."""
    try:
        data = bytes.fromhex(value)
        if name in (ACCESS, DEFAULT):
            return ",".join(
                f"{one.who}:{'' if one.number is None else one.number}:{one.rights}"
                for one in access_list(data)
            )
        if name == CHATTR:
            return ", ".join(_CHATTR_WORDS[letter] for letter in dict.fromkeys(data.decode("ascii")))
        if name == CAPABILITY:
            found = capabilities(data)
            told = [f"{each}={flags}" for each, flags in found.flags.items()]
            return ",".join(told + ([f"rootid={found.root}"] if found.root else [])) or "none"
    except (ValueError, KeyError):
        pass
    return value if len(value) <= MAX_CHARS else f"{value[:MAX_CHARS]}… ({len(value) // 2} bytes)"
