"""Extended attributes as a sysadmin knows them: access lists as setfacl takes them, capabilities by name.

Sources: linux/posix_acl_xattr.h, linux/capability.h. What cannot be read so stands as hexadecimal digits.
"""

from __future__ import annotations

import struct

MAX_CHARS = 120
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_CAPABILITY = "security.capability"
_TAGS = {0x01: "user", 0x02: "user", 0x04: "group", 0x08: "group", 0x10: "mask", 0x20: "other"}
_NAMED = (0x02, 0x08)
_EFFECTIVE = 1
_CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid",
    "setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw",
    "ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct",
    "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease",
    "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog", "wake_alarm",
    "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore",
)  # fmt: skip


def shown(name: str, value: str) -> str:
    """``value`` in hexadecimal digits, as words."""
    try:
        data = bytes.fromhex(value)
        if name in _ACLS:
            return _access_list(data)
        if name == _CAPABILITY:
            return _capabilities(data)
    except (ValueError, LookupError, struct.error):
        pass
    return value if len(value) <= MAX_CHARS else f"{value[:MAX_CHARS]}… ({len(value) // 2} bytes)"


def _access_list(data: bytes) -> str:
    if data[:4] != b"\2\0\0\0":
        raise ValueError("another version")
    told = []
    for tag, rights, owner in struct.iter_unpack("<HHI", data[4:]):
        letters = "".join(letter if rights & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
        told.append(f"{_TAGS[tag]}:{owner if tag in _NAMED else ''}:{letters}")
    return ",".join(told)


def _capabilities(data: bytes) -> str:
    """As getcap(8) tells them: ``cap_net_raw=ep``; ``rootid`` of a user namespace after it."""
    magic, *words = struct.unpack(f"<{len(data) // 4}I", data)
    permitted, inheritable = words[0] | words[2] << 32, words[1] | words[3] << 32
    told = []
    for number in range(64):
        flags = ("p" if permitted >> number & 1 else "") + ("i" if inheritable >> number & 1 else "")
        if flags:
            name = _CAPABILITIES[number] if number < len(_CAPABILITIES) else str(number)
            told.append(f"cap_{name}={'e' if magic & _EFFECTIVE else ''}{flags}")
    return ",".join(told + [f"rootid={root}" for root in words[4:]]) or "none"
