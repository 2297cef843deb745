"""What a domain must have to become a source: findings from its XML and from its disk, each with its remedy.

Nothing is asked of the guest and nothing in it is believed: names on a disk are looked at, no more.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from backend.config import LOCAL, SourceConfig
from backend.disks import Survey, named
from backend.disks.elsewhere import DATA
from backend.errors import ImageRefused
from backend.hypervisor import AGENT_PORT, WITH_BIOS, SourceDisk, SourceDomain
from backend.images import can_boot
from backend.models import SourceFinding
from backend.text import visible

OK, WARN, BAD, UNKNOWN = "ok", "warn", "bad", "unknown"
HOST_NAME = b"/etc/hostname"
HOST_NAME_BYTES = 256
PYTHON = re.compile(rb"(?:.*/)?python3\.([0-9]{1,3})")
PYTHON_MINOR_MIN = 8
CLOUD_INIT_OFF = b"/etc/cloud/cloud-init.disabled"
OUR_SSHD = b"/etc/ssh/sshd_config.d/10-fluid.conf"
OUR_DAEMON = b"/usr/local/sbin/fluid-guestd"
SYSTEMD = (b"/usr/lib/systemd/systemd", b"/lib/systemd/systemd")
SSHD = (b"/usr/sbin/sshd",)
PYTHON3 = (b"/usr/bin/python3",)
CLOUD_INIT = (b"/usr/bin/cloud-init",)
LOOKED_FOR = (*SYSTEMD, *SSHD, *PYTHON3, *CLOUD_INIT, CLOUD_INIT_OFF, OUR_SSHD, OUR_DAEMON)
SYSTEM = (b"/etc", b"/usr", b"/var", b"/var/lib")
READABLE = "clone a machine whose root is ext4 on the first Linux partition, without LVM"
CHANGES = (
    "the copy is booted once, without a network; services of the machine start in it too",
    "root's password is locked; a user `sandbox` may become root",
    "sshd trusts the certificates of Fluid's SSH CA, and no port is opened beside it",
    "the guest daemon is installed and enabled",
    "network configuration, cloud-init and timers of upkeep are turned off",
    "SSH host keys, machine-id and host name are taken away",
    "the machine itself, its disk and its configuration stay as they are",
)
"""What preparing does, as an operator reads it before saying yes."""


def disk_to_copy(source: SourceDomain) -> SourceDisk | None:
    """The one disk of the machine; None where there is none, or more than one."""
    disks = [disk for disk in source.disks if not disk.readonly]
    return disks[0] if len(disks) == 1 else None


def of_domain(entry: SourceConfig, source: SourceDomain) -> list[SourceFinding]:
    """What the XML tells."""
    return [_state(source), *_disks(entry, source), _firmware(entry, source), _agent(entry, source)]


def bad(findings: Sequence[SourceFinding]) -> list[SourceFinding]:
    """What stands in the way."""
    return [one for one in findings if one.status == BAD]


def of_disk(entry: SourceConfig, survey: Survey, when: str = "") -> list[SourceFinding]:
    """What the disk tells: the file system was found and read. ``when``, for the words: at which moment."""
    there = survey.names
    guest = f"in {entry.called}: "
    found = [
        SourceFinding(name="file system", status=OK, message=f"ext4, read from outside{when}"),
        *_partitions(survey),
        _python(there[PYTHON3[0]].target if PYTHON3[0] in there else None, guest),
    ]
    for name, paths, remedy in (
        ("systemd", SYSTEMD, f"{guest}apt-get install systemd-sysv"),
        ("ssh", SSHD, f"{guest}apt-get install openssh-server"),
        ("cloud-init", CLOUD_INIT, f"{guest}apt-get install cloud-init"),
    ):
        has = any(path in there for path in paths)
        found.append(
            SourceFinding(
                name=name,
                status=OK if has else BAD,
                message=f"{paths[0].decode()} is {'there' if has else 'missing'}",
                remedy="" if has else remedy,
            )
        )
    if CLOUD_INIT_OFF in there:
        off = CLOUD_INIT_OFF.decode()
        found.append(
            SourceFinding(
                name="cloud-init",
                status=BAD,
                message=f"{off} turns it off, and it is what prepares a copy",
                remedy=f"{guest}rm {off}",
            )
        )
    if survey.cut:
        found.append(
            SourceFinding(
                name="secrets",
                status=WARN,
                message="a limit was met before all of the disk was looked through: there may be more",
            )
        )
    trusted = OUR_SSHD in there and OUR_DAEMON in there
    found.append(
        SourceFinding(
            name="ca trust",
            status=OK if trusted else WARN,
            message="sshd trusts Fluid's CA already" if trusted else "sshd does not trust Fluid's CA yet",
            remedy="" if trusted else f"fluid sources prepare {entry.name}, which does that in the copy",
        )
    )
    return found


def _partitions(survey: Survey) -> Iterator[SourceFinding]:
    """What no diff of a sandbox will show. Without the package database there is no use in one."""
    lost = [one for one in survey.elsewhere if one.role == DATA]
    if lost:
        needed = any(point in SYSTEM for one in lost for point in one.points)
        yield SourceFinding(
            name="partitions",
            status=BAD if needed else WARN,
            message=f"on other partitions, where no diff looks: {', '.join(map(named, lost))}",
            remedy="clone a machine whose system and data lie on one partition, or move them to its root's",
        )
    if boot := [one for one in survey.elsewhere if one.role != DATA]:
        yield SourceFinding(
            name="partitions",
            status=OK,
            message=f"for booting and swap: {', '.join(map(named, boot))}",
        )


def host_name(called: bytes | None, production: frozenset[str]) -> list[SourceFinding]:
    """A machine that is off has no address; what it calls itself may give it away as a target."""
    name = (called or b"").decode("utf-8", "replace").strip()
    if not production & {name, name.partition(".")[0]}:
        return []
    return [
        SourceFinding(
            name="host name",
            status=BAD,
            message=f"it calls itself {visible(name)}, which is a target of production",
            remedy="clone another machine",
        )
    ]


def unread(why: str, remedy: str = READABLE) -> SourceFinding:
    """The disk could not be looked into."""
    return SourceFinding(name="file system", status=UNKNOWN, message=why, remedy=remedy)


def of_file(error: ImageRefused) -> SourceFinding:
    """The disk's file cannot be copied."""
    return SourceFinding(name="disk file", status=BAD, message=error.message, remedy=error.remedy)


def _state(source: SourceDomain) -> SourceFinding:
    if source.is_off:
        return SourceFinding(name="state", status=OK, message="off: its disk stands still")
    return SourceFinding(
        name="state", status=OK, message=f"{source.state}: it is copied at one point, and goes on"
    )


def _there(entry: SourceConfig, *command: str) -> str:
    """A command for the host of the machine, as an operator types it there."""
    where = "" if entry.host == LOCAL else f"on {entry.host}: "
    return f"{where}{shlex.join(command)}"


def _virsh(entry: SourceConfig, verb: str, *words: str) -> str:
    return _there(entry, "virsh", verb, entry.called, *words)


def _disks(entry: SourceConfig, source: SourceDomain) -> list[SourceFinding]:
    left_out = [disk.target for disk in source.disks if disk.readonly]
    writable = [disk for disk in source.disks if not disk.readonly]
    found = []
    if len(writable) != 1:
        names = f" ({', '.join(disk.target for disk in writable)})" if writable else ""
        others = [_virsh(entry, "detach-disk", disk.target, "--config") for disk in writable[1:]]
        found.append(
            SourceFinding(
                name="disks",
                status=BAD,
                message=f"it has {len(writable)} disks{names}, and a sandbox has one",
                remedy=f"move what it needs to {writable[0].target}, then {'; '.join(others)}"
                if others
                else "clone a machine whose system and data lie on one disk",
            )
        )
    for disk in writable:
        where = f"{disk.target}: {disk.format} in {disk.path}"
        found.append(
            SourceFinding(
                name=f"disk {disk.target}",
                status=BAD if disk.problem else OK,
                message=f"{disk.target} {disk.problem}" if disk.problem else where,
                remedy=_own_file(entry, disk) if disk.problem else "",
            )
        )
    if left_out:
        message = f"{', '.join(left_out)} cannot be written to, and is left out"
        found.append(SourceFinding(name="disks", status=WARN, message=message))
    return found


def _own_file(entry: SourceConfig, disk: SourceDisk) -> str:
    """How what cannot be copied becomes a disk that can be."""
    edit = _virsh(entry, "edit")
    if disk.path is not None and disk.other_format:
        convert = ("qemu-img", "convert", "-f", disk.other_format, "-O", "qcow2")
        copy = _there(entry, *convert, str(disk.path), f"{disk.path}.qcow2")
        return f"while it is off: {copy}, and name that file: {edit}"
    return f"let {disk.target} be a qcow2 or raw file of its own, its format named in <driver>: {edit}"


def _firmware(entry: SourceConfig, source: SourceDomain) -> SourceFinding:
    if not can_boot(source.arch):
        why, remedy = f"it is {source.arch}, and this machine is not", "clone it on a machine of its kind"
    elif source.efi and source.arch in WITH_BIOS:
        why, remedy = "it boots by UEFI, and a clone by a BIOS", "clone a machine that boots by a BIOS"
    elif source.kernel:
        why, remedy = (
            "it boots a kernel that lies on the host, and a clone the one on its disk",
            f"in {entry.called}: apt-get install grub-pc; then take <kernel> out: {_virsh(entry, 'edit')}",
        )
    else:
        kind = "BIOS" if source.arch in WITH_BIOS else "UEFI"
        return SourceFinding(name="firmware", status=OK, message=f"{kind}, with the boot loader on the disk")
    return SourceFinding(name="firmware", status=BAD, message=why, remedy=remedy)


def _agent(entry: SourceConfig, source: SourceDomain) -> SourceFinding:
    if source.is_off:
        return SourceFinding(name="agent", status=OK, message="not needed: the machine is off")
    if source.agent == "connected":
        return SourceFinding(
            name="agent", status=OK, message="QEMU's agent answers: file systems stand still at the copy"
        )
    has = "does not answer" if source.agent else "has no channel"
    channel = "" if source.agent else f"add <channel type='unix'> {AGENT_PORT}: {_virsh(entry, 'edit')}; "
    return SourceFinding(
        name="agent",
        status=WARN,
        message=f"QEMU's agent {has}: a copy of the running machine is as after a power cut (not quiesced)",
        remedy=f"{channel}in {entry.called}: apt-get install qemu-guest-agent; "
        f"or {_virsh(entry, 'shutdown')}",
    )


def _python(target: bytes | None, guest: str) -> SourceFinding:
    """``/usr/bin/python3`` is a link to the program with its version."""
    match = PYTHON.fullmatch(target) if target else None
    if target is None:
        return SourceFinding(
            name="python",
            status=BAD,
            message="/usr/bin/python3 is missing",
            remedy=f"{guest}apt-get install python3",
        )
    if match is None:
        return SourceFinding(name="python", status=WARN, message="/usr/bin/python3 does not tell its version")
    new = int(match[1]) >= PYTHON_MINOR_MIN
    return SourceFinding(
        name="python",
        status=OK if new else BAD,
        message=f"python 3.{int(match[1])}",
        remedy="" if new else f"{guest}upgrade it: Python 3.{PYTHON_MINOR_MIN} or newer is needed",
    )
