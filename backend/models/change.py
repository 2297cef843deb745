"""What changed between two points: files with their content, and what the files mean.

A path is bytes in a guest. In these models, in JSON and in the database it is its **wire form**: text
in which each byte that is not UTF-8, each control character and each ``%`` stands as ``%XX``. The round
trip is exact.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from enum import StrEnum
from typing import Any
from urllib.parse import unquote_to_bytes

from pydantic import Field

from backend.models.base import Answer

_ESCAPED = re.compile(r"[\x00-\x1f\x7f-\x9f%\udc80-\udcff]")


def wire_path(path: bytes) -> str:
    """The wire form of a guest's path."""
    return _ESCAPED.sub(
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogateescape")),
        path.decode("utf-8", "surrogateescape"),
    )


def guest_path(wire: str) -> bytes:
    """The guest's bytes of a wire path."""
    return unquote_to_bytes(wire)


FROM_DISK, FROM_GUEST = "disk", "guest"
"""Where a manifest or a difference was read: outside the guest, or by its own word."""

_OF_ONE_RUN: dict[str, Any] = {
    "id": True,
    "sandbox_id": True,
    "created_at": True,
    "took_s": True,
    "files": {"__all__": {"before": {"mtime"}, "after": {"mtime"}}},
}
"""What another run of the same would have otherwise, and no reader judges."""

_HOW = {FROM_DISK: "read from the disk", FROM_GUEST: "read by asking the guest: root there could lie"}


def how_read(read_from: str) -> str:
    """In the words that every reader is shown."""
    return _HOW.get(read_from, "read in a way that this version does not know")


def by_whom(read_from: str) -> str:
    """After a figure: ``on the disk``, or that it is the guest's word."""
    return "on the disk" if read_from == FROM_DISK else "by the guest's own word"


class ChangeVerb(StrEnum):
    ADDED = "added"
    REMOVED = "removed"
    MODIFIED = "modified"
    METADATA = "metadata"  # owner, mode, xattrs or the other names of the same file only


class FileKind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    CHARACTER = "character device"
    BLOCK = "block device"
    FIFO = "fifo"
    SOCKET = "socket"


class FileState(Answer):
    """One side of a change. ``text`` only for UTF-8 files under the limit that hold no secret, or none but
    passwords among other words: ``‹secret›`` stands for each."""

    kind: FileKind
    mode: int  # permission bits, 0o7777
    uid: int
    gid: int
    owner: str = ""
    group: str = ""
    size: int = 0
    device: str = ""  # of a device: its numbers, as in "8:1"
    links: int = 1  # hard links
    same_file: list[str] = Field(default_factory=list)  # the first other names of it, where any changed
    mtime: datetime | None = None
    target: str | None = None  # of a link
    xattrs: dict[str, str] = Field(default_factory=dict)  # name → hex
    sha256: str | None = None  # of a regular file; for a secret an HMAC under the installation key
    text: str | None = None
    encoding: str = ""  # "utf-8", or the one that `decoded` was read in; empty for what is no text
    decoded: str | None = None  # of a text that is not UTF-8: what a reader sees; its bytes are in the blob
    blob: bool = False  # the content is in the blob store under `sha256`
    secret: str = ""  # why the content is withheld: "private key", "password hashes"
    certificate: dict[str, str] | None = None  # subject, issuer, not_after, key type and size


class FileChange(Answer):
    path: str  # wire form
    verb: ChangeVerb
    before: FileState | None = None
    after: FileState | None = None
    renamed_from: str = ""  # of an added one: the removed path that it was; the removed one has `renamed_to`
    renamed_to: str = ""
    package: str = ""  # the package that owns the path, when the content is the package's own
    hidden: str = ""  # the rule of the noise profile that hides it
    commands: list[str] = Field(default_factory=list)  # ids of the commands that were running


class PackageChange(Answer):
    name: str
    verb: ChangeVerb
    before_version: str = ""
    after_version: str = ""
    wanted: bool = False  # asked for by name; otherwise pulled in
    arch: str = ""
    commands: list[str] = Field(default_factory=list)


class UnitState(Answer):
    enabled: bool = False
    masked: bool = False
    defined: bool = False


class UnitChange(Answer):
    """A systemd unit: service, timer, socket, mount …"""

    name: str
    verb: ChangeVerb
    before: UnitState = Field(default_factory=UnitState)
    after: UnitState = Field(default_factory=UnitState)
    package: str = ""
    commands: list[str] = Field(default_factory=list)


class UserChange(Answer):
    name: str
    verb: ChangeVerb
    before: dict[str, str] = Field(default_factory=dict)  # uid, gid, home, shell, comment, groups, password
    after: dict[str, str] = Field(default_factory=dict)
    package: str = ""  # made by this package's scripts
    commands: list[str] = Field(default_factory=list)


class GroupChange(Answer):
    name: str
    verb: ChangeVerb
    before: dict[str, str] = Field(default_factory=dict)  # gid, members
    after: dict[str, str] = Field(default_factory=dict)
    package: str = ""
    commands: list[str] = Field(default_factory=list)


class SettingKind(StrEnum):
    """What a :class:`SettingChange` is about, in the words a reader sees."""

    UNIT = "unit"
    TIMER = "timer"
    DROP_IN = "drop-in"
    CRON = "cron job"
    SUDO = "sudo rule"
    SSHD = "ssh daemon"
    LOGIN_KEY = "login key"
    SYSCTL = "kernel parameter"
    MODULE = "kernel module"
    MOUNT = "mount"
    HOSTNAME = "host name"
    HOSTS = "hosts entry"
    RESOLVER = "resolver"
    FIREWALL = "firewall rule"
    SOURCE = "package source"
    SOURCE_KEY = "package key"
    APT = "apt setting"
    DPKG = "dpkg override"
    CERTIFICATE = "certificate"
    PRIVATE_KEY = "private key"
    ALTERNATIVE = "alternative"
    LOCALE = "locale"
    TIME_ZONE = "time zone"


class SettingChange(Answer):
    """Something that a file states, by what it means: a cron job, a firewall rule, a mount …

    A view of ``files``, which hold the same changes as text. ``before`` and ``after`` are the values by name,
    empty where the thing was or is not there. Passwords and tokens in them are fingerprints.
    """

    kind: SettingKind
    name: str
    verb: ChangeVerb
    before: dict[str, str] = Field(default_factory=dict)
    after: dict[str, str] = Field(default_factory=dict)
    paths: list[str] = Field(default_factory=list)  # wire form, of the files that state it
    package: str = ""  # the package whose content or scripts state it
    hidden: str = ""  # the rule of the noise profile that hides it
    commands: list[str] = Field(default_factory=list)


class RunningKind(StrEnum):
    PORT = "port"  # that a program listens on
    UNIT = "unit"  # of systemd


class RunningState(Answer):
    """What a guest said at one moment of what listens and runs in it: nothing vouches for it. None: it did
    not say, and ``notes`` tell why."""

    ports: dict[str, str] | None = None  # "tcp 0.0.0.0:443" → its programs; empty: it did not say which
    units: dict[str, str] | None = None  # "nginx.service" → running | listening | waiting | failed
    notes: list[str] = Field(default_factory=list)


class RunningChange(Answer):
    """A port, by its programs, or a unit, by its state. None: it was, or is, not there."""

    kind: RunningKind
    name: str
    verb: ChangeVerb
    before: str | None = None
    after: str | None = None

    @property
    def is_bad(self) -> bool:
        """Whether it is a unit that has failed."""
        return self.kind is RunningKind.UNIT and self.after == "failed"


class RunningChanges(Answer):
    """What listened and ran at two points. The guest told it itself, also where the files were read from the
    disk. None: it was not asked then."""

    read_from: str = FROM_GUEST
    before: RunningState | None = None
    after: RunningState | None = None
    changes: list[RunningChange] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    def same(self) -> dict[str, str]:
        """What listens and runs as it did: "tcp 0.0.0.0:22" → "sshd"."""
        found: dict[str, str] = {}
        if self.before and self.after:
            for old, new in (
                (self.before.ports, self.after.ports),
                (self.before.units, self.after.units),
            ):
                found |= {name: told for name, told in (new or {}).items() if name in (old or {})}
        changed = {one.name for one in self.changes}
        return {name: told for name, told in found.items() if name not in changed}


class Changes(Answer):
    """The difference of two points of one sandbox, or of two of one source. ``files`` is sorted by path and
    holds hidden ones too."""

    id: str
    sandbox_id: str
    from_snapshot: str
    to_snapshot: str
    to_sandbox: str = ""  # the id of another one, that the later point is of
    created_at: datetime
    read_from: str = FROM_DISK  # or FROM_GUEST: nothing vouches for it
    quiesced: bool = True
    files: list[FileChange] = Field(default_factory=list)
    packages: list[PackageChange] = Field(default_factory=list)
    units: list[UnitChange] = Field(default_factory=list)
    masked: list[str] = Field(default_factory=list)  # units that nothing can start at the later point
    started: list[str] = Field(default_factory=list)  # units that the machine starts by itself at that point
    users: list[UserChange] = Field(default_factory=list)
    groups: list[GroupChange] = Field(default_factory=list)
    settings: list[SettingChange] = Field(default_factory=list)  # by kind and name
    running: RunningChanges | None = None  # None: of an older version, or of what cannot be asked
    hidden: dict[str, int] = Field(default_factory=dict)  # noise rule → how many it hides
    notes: list[str] = Field(default_factory=list)
    took_s: float = 0.0

    def sha256(self) -> str:
        """Of all that it says: each path, text, owner, setting and note, and contents by their own hashes;
        not of when and on which machine it was made. What is as if left out does not count: a field that a
        later version adds leaves the hash of an earlier one's as it was."""
        said = self.model_dump(exclude=_OF_ONE_RUN, exclude_defaults=True)
        text = json.dumps(said, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def shown(self) -> list[FileChange]:
        """The files that no noise rule hides."""
        return [change for change in self.files if not change.hidden]

    def listed(self) -> list[FileChange]:
        """The shown files as a reader counts them: a renamed one once, where it is now."""
        shown = self.shown()
        paths = {change.path for change in shown}
        return [change for change in shown if change.renamed_to not in paths]

    def stated(self) -> list[SettingChange]:
        """The settings that count although noise hides the files that state them: no row of ``shown`` tells
        them."""
        told = {change.path for change in self.shown()}
        return [one for one in self.settings if not one.hidden and told.isdisjoint(one.paths)]
