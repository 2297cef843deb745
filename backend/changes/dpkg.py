"""What dpkg and apt say of packages: their databases, parsed without trust, and the difference of two.

Sources: deb-control(5), dpkg(1), /var/log/dpkg.log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

from backend.models import ChangeVerb, PackageChange, SettingChange, SettingKind, wire_path

STATUS = b"/var/lib/dpkg/status"
EXTENDED = b"/var/lib/apt/extended_states"
LOG = b"/var/log/dpkg.log"
HOLD = "hold of "
INFO = b"/var/lib/dpkg/info/"
MERGED = (b"/bin/", b"/sbin/", b"/lib/", b"/lib32/", b"/lib64/", b"/libx32/")

_ABSENT = ("not-installed", "config-files")
# What each action ends with. dpkg writes other states on the way: a package that is configured is "unpacked"
# first, one that is removed "installed".
_CONFIGURED = frozenset({"installed", "triggers-awaited", "triggers-pending"})
_GONE = frozenset({"config-files", "not-installed"})
_ENDS = {
    "install": frozenset({"unpacked"}),
    "upgrade": frozenset({"unpacked"}),
    "configure": _CONFIGURED,
    "trigproc": _CONFIGURED,
    "remove": _GONE,
    "purge": frozenset({"not-installed"}),
}
_LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (\w+) (.*)", re.ASCII)
_TAIL_BYTES = 4 << 10
_ZONE_STEP_S = 900  # all zones of today
_WEST_S, _EAST_S = -12 * 3600, 14 * 3600
_LATE_S = 5  # between a line's time and the end of its writing
_UNKNOWN_ZONE = "dpkg's log was written to after its last line: its times are taken for UTC"
_OTHER_ZONE = "the guest's local time was shifted: which files packages' scripts made is a guess"


@dataclass(frozen=True)
class Package:
    """An installed package. ``state`` is dpkg's third word; ``conffiles`` maps path → MD5 as shipped."""

    name: str
    version: str
    arch: str
    state: str
    held: bool = False
    conffiles: dict[bytes, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """A package's script was running from ``start`` to ``end`` (epoch seconds)."""

    start: float
    end: float
    package: str


@dataclass(frozen=True)
class Log:
    """dpkg's log, and when it was last written to (epoch seconds), where that is known."""

    data: bytes
    written_at: float | None

    def east(self) -> int | None:
        """Seconds east of UTC of the guest's clock at the last line, which was written with that line; None
        where something else wrote to the log since, so that nobody knows."""
        lines = list(_lines(self.data[-_TAIL_BYTES:]))
        if not lines or self.written_at is None:
            return None
        local = lines[-1][0]
        east = round((local - self.written_at) / _ZONE_STEP_S) * _ZONE_STEP_S
        late = self.written_at - (local - east)
        return east if -1 <= late <= _LATE_S and _WEST_S <= east <= _EAST_S else None


def _stanzas(data: bytes) -> Iterator[dict[str, str]]:
    """Fields of each stanza, continuation lines joined with newlines."""
    for block in re.split(r"\n[ \t]*\n", data.decode("utf-8", "replace")):
        fields: dict[str, list[str]] = {}
        last = ""
        for line in block.split("\n"):
            if line[:1] in (" ", "\t"):
                if last:
                    fields[last].append(line.strip())
                continue
            last, separator, value = line.partition(":")
            last = last if separator else ""
            if last:
                fields[last] = [value.strip()]
        if fields:
            yield {name: "\n".join(lines) for name, lines in fields.items()}


def parse_status(data: bytes | None) -> dict[str, Package]:
    """Installed packages by name; a second architecture of one package as ``name:arch``."""
    found: dict[str, Package] = {}
    for fields in _stanzas(data or b""):
        name, state = fields.get("Package", ""), fields.get("Status", "").rpartition(" ")[2]
        if not name or not state or state in _ABSENT:
            continue
        arch = fields.get("Architecture", "")
        conffiles = {}
        for line in fields.get("Conffiles", "").split("\n"):
            words = line.split()
            if len(words) >= 2 and words[0].startswith("/"):
                conffiles[words[0].encode()] = words[1]
        key = f"{name}:{arch}" if name in found else name
        held = fields["Status"].startswith("hold ")
        found[key] = Package(name, fields.get("Version", ""), arch, state, held, conffiles)
    return found


def parse_auto(data: bytes | None) -> set[str]:
    """Names of packages that were pulled in and not asked for."""
    return {
        fields["Package"]
        for fields in _stanzas(data or b"")
        if fields.get("Auto-Installed") == "1" and "Package" in fields
    }


def package_changes(
    before: Mapping[str, Package], after: Mapping[str, Package], auto_before: set[str], auto_after: set[str]
) -> list[PackageChange]:
    """Added, removed, upgraded; ``metadata`` where only "asked for by name" changed."""
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        known = new or old
        if known is None:
            continue
        wanted = known.name not in (auto_after if new else auto_before)
        if old is None:
            verb = ChangeVerb.ADDED
        elif new is None:
            verb = ChangeVerb.REMOVED
        elif (old.version, old.state) != (new.version, new.state):
            verb = ChangeVerb.MODIFIED
        elif (old.name in auto_before) != (new.name in auto_after):
            verb = ChangeVerb.METADATA
        else:
            continue
        found.append(
            PackageChange(
                name=known.name,
                verb=verb,
                before_version=old.version if old else "",
                after_version=new.version if new else "",
                wanted=wanted,
                arch=known.arch,
            )
        )
    return found


def hold_changes(before: Mapping[str, Package], after: Mapping[str, Package]) -> list[SettingChange]:
    """Packages that are held at their version, or no longer."""
    old = {one.name for one in before.values() if one.held}
    new = {one.name for one in after.values() if one.held}
    return [
        SettingChange(
            kind=SettingKind.DPKG,
            name=f"{HOLD}{name}",
            verb=ChangeVerb.ADDED if name in new else ChangeVerb.REMOVED,
            before={"held": "yes"} if name in old else {},
            after={"held": "yes"} if name in new else {},
            paths=[wire_path(STATUS)],
        )
        for name in sorted(old ^ new)
    ]


def merged(path: bytes) -> bytes:
    """A path as it is on a system whose /bin, /lib and /sbin are links into /usr."""
    return b"/usr" + path if path.startswith(MERGED) else path


def info_name(path: bytes, suffix: bytes) -> str:
    """The package of a file under dpkg's info folder; empty when it is none of that kind."""
    if not path.startswith(INFO) or not path.endswith(suffix):
        return ""
    return path[len(INFO) : -len(suffix)].decode("utf-8", "replace").partition(":")[0]


def parse_sums(data: bytes) -> dict[bytes, str]:
    """Merged path → MD5."""
    found = {}
    for line in data.split(b"\n"):
        md5, separator, name = line.partition(b"  ")
        if separator:
            found[merged(b"/" + name)] = md5.decode("ascii", "replace")
    return found


def windows(before: Log, after: Log) -> tuple[list[Window], str]:
    """When packages' scripts ran, from the lines that dpkg's log gained, and a note where that is a guess.
    The log has whole seconds of the guest's local time; ``after.written_at`` ends the last window exactly."""
    gained = after.data
    if before.data and gained.startswith(before.data):
        gained = gained[len(before.data) :]
    lines = list(_lines(gained))
    last = after.east()
    first = before.east() if before.data else last
    easts = _easts([at for at, _, _ in lines], last or 0 if first is None else first, last or 0)
    begun: dict[str, tuple[float, str, str]] = {}  # package → when, action, the version that it brings
    found: list[Window] = []
    for (local, verb, words), east in zip(lines, easts, strict=True):
        at = local - east
        if verb in _ENDS:
            brings = words[-1] if verb in ("install", "upgrade") else ""
            begun[words[0].partition(":")[0]] = (at, verb, brings)
        elif verb == "status" and len(words) >= 2:
            package = words[1].partition(":")[0]
            start, action, brings = begun.get(package, (at, "", ""))
            if words[0] in _ENDS.get(action, ()) and brings in ("", words[-1]):
                del begun[package]
                found.append(Window(start, at + 1, package))
    written_at = after.written_at
    if found and written_at is not None and found[-1].start <= written_at < found[-1].end:
        found[-1] = Window(found[-1].start, written_at, found[-1].package)
    if not found:
        return [], ""
    if last is None:
        return found, _UNKNOWN_ZONE
    return found, _OTHER_ZONE if first not in (None, last) else ""


def _lines(log: bytes) -> Iterator[tuple[float, str, list[str]]]:
    """Of each line its time as if it were UTC (epoch seconds), its action and the words after it."""
    for line in log.decode("utf-8", "replace").split("\n"):
        match = _LOG_LINE.fullmatch(line)
        words = match[3].split() if match else []
        if match and words:
            try:
                at = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
            except ValueError:
                continue
            yield at, match[2], words


def _easts(ats: Sequence[float], first: int, last: int) -> list[int]:
    """The offset of each line where the first has one and the last another: it changed where the local time
    jumped back, which no clock does by itself, else in the longest pause."""
    if first == last or not ats:
        return [last] * len(ats)
    gaps = [(later - sooner, at) for at, (sooner, later) in enumerate(pairwise(ats), 1)]
    back = min(gaps, default=(0.0, 0))
    at = back[1] if back[0] < 0 else max(gaps, default=(0.0, 0))[1]
    return [first] * at + [last] * (len(ats) - at)
