"""Whose a changed file is: a package's own content, what a package's scripts made, or somebody's work.

A file counts as a package's own only when its MD5 is the one that the package states. What scripts make is
best effort: it groups a list for a reader, and the residual compares it all the same.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from backend.changes.dpkg import Package, Window, info_name, merged, parse_sums
from backend.changes.rpm import Rpm
from backend.disks import Comparison, Content, Entry
from backend.models import Command, FileKind

COMMAND_SLACK_S = 0.5
MAX_COMMANDS = 20
MAX_SCRIPT_BYTES = 256 << 10
MAX_WINDOWS = 500  # of packages' scripts, looked through for one moment
_NS = 1_000_000_000

# Folders that many packages share: to lie in one of them says nothing.
_COMMON = frozenset(
    b"""
    / /etc /usr /var /opt /srv /root /home /usr/bin /usr/sbin /usr/lib /usr/share /usr/local
    /usr/lib/systemd /usr/lib/systemd/system /usr/share/doc /var/lib /var/cache /var/log /var/spool
    /var/backups
    /etc/default /etc/init.d /etc/systemd /etc/systemd/system /etc/cron.d /etc/cron.daily
    /etc/logrotate.d /etc/ufw /etc/ufw/applications.d /etc/profile.d /etc/pam.d /etc/sudoers.d
    /etc/sysctl.d /etc/apt /etc/ssh /etc/ssl /var/www
    """.split()
)
_ALTERNATIVES = b"/etc/alternatives/"
_STATE_FOLDERS = (b"/var/lib/", b"/var/cache/", b"/var/spool/")
_SCRIPTED = tuple(
    b"""
    /etc/ssl/certs/ /etc/ssl/private/ssl-cert /etc/alternatives/ /etc/shells /etc/mailcap /usr/share/mime/
    /usr/share/info/ /usr/share/perl /boot/
    """.split()
)
_PATH_WORD = re.compile(r"(?<![^\s'\"=:(])/[^\s'\"|&;<>()]+")
_RC_LINK = re.compile(rb"/etc/rc[0-6S]\.d/[SK]\d\d([^/]+)")
_WANTS = re.compile(rb"/etc/systemd/system/[^/]+\.(?:wants|requires)(?:/([^/]+))?")


@dataclass
class Ownership:
    """What the changed packages list, on one side."""

    owner: dict[bytes, str] = field(default_factory=dict)  # merged path → package
    md5: dict[bytes, str] = field(default_factory=dict)
    conffiles: dict[bytes, str] = field(default_factory=dict)
    sha256: dict[bytes, str] = field(default_factory=dict)  # of rpm

    def own(self, entry: Entry, content: Content | None) -> str:
        """The package whose own content stands at the path; empty when the content is not vouched for."""
        path = merged(entry.path)
        package = self.owner.get(path, "")
        if not package or entry.kind is not FileKind.FILE:
            return package
        if content is None:
            return ""
        stated = (self.md5.get(path), self.conffiles.get(path))
        vouched = content.md5 is not None and content.md5 in stated
        return package if vouched or (content.sha256 or "-") == self.sha256.get(path) else ""

    def add_rpms(self, packages: Iterable[Rpm]) -> None:
        """What the changed packages of rpm list."""
        for package in packages:
            for path, sha256 in package.files.items():
                self.owner.setdefault(merged(path), package.name)
                if sha256:
                    self.sha256[merged(path)] = sha256


def ownership(comparison: Comparison, status: Mapping[str, Package], *, after: bool) -> Ownership:
    """From dpkg's lists and sums that differ between the two points: those of changed packages."""
    found = Ownership()
    changed: set[str] = set()
    for pair in comparison.pairs:
        content = pair.after_content if after else pair.before_content
        if content is None or content.data is None:
            continue
        if package := info_name(pair.path, b".list"):
            changed.add(package)
            for line in filter(None, content.data.split(b"\n")):
                found.owner.setdefault(merged(line), package)
        elif info_name(pair.path, b".md5sums"):
            found.md5.update(parse_sums(content.data))
    for known in status.values():
        if known.name in changed:
            found.conffiles.update({merged(path): md5 for path, md5 in known.conffiles.items()})
    return found


def unlinked(path: bytes, owned: Ownership) -> str:
    """The package whose unit or script a link led to that went with it."""
    if match := _RC_LINK.fullmatch(path):
        return owned.owner.get(b"/etc/init.d/" + match[1], "")
    match = _WANTS.fullmatch(path)
    return owned.owner.get(b"/usr/lib/systemd/system/" + match[1], "") if match and match[1] else ""


def scripts(comparison: Comparison) -> dict[str, str]:
    """Install scripts and sysusers files of changed packages, by package."""
    found: dict[str, str] = {}
    for pair in comparison.pairs:
        for suffix in (b".postinst", b".preinst"):
            package = info_name(pair.path, suffix)
            if package and pair.after_content is not None and pair.after_content.data is not None:
                if len(pair.after_content.data) > MAX_SCRIPT_BYTES:
                    continue  # no maintainer's: what it names is nobody's, and so is shown
                text = pair.after_content.data.decode("utf-8", "replace")
                found[package] = found.get(package, "") + "\n" + text
    return found


class Scripts:
    """Tells what packages' scripts and services made from what somebody did."""

    def __init__(
        self,
        owned: Ownership,
        comparison: Comparison,
        windows: Sequence[Window],
        commands: Sequence[Command],
    ) -> None:
        self._owned = owned
        self._texts = scripts(comparison)
        self._scripted: dict[bytes, str] = {}
        self._alternatives = {
            pair.path: pair.after.target
            for pair in comparison.pairs
            if pair.after is not None
            and pair.after.target is not None
            and pair.path.startswith(_ALTERNATIVES)
        }
        self._wanting: dict[bytes, list[str]] = {}
        for pair in comparison.pairs:
            if pair.after is not None and (match := _WANTS.fullmatch(pair.path)) and match[1]:
                unit = owned.owner.get(b"/usr/lib/systemd/system/" + match[1], "")
                self._wanting.setdefault(pair.path.rpartition(b"/")[0], []).append(unit)
        self._windows = sorted(windows, key=lambda window: window.start)
        self._window_starts = [window.start for window in self._windows]
        self._ends = list(accumulate((window.end for window in self._windows), max))  # the latest so far
        self._starts = sorted(command.started_at.timestamp() for command in commands)
        self._folders = {
            path: package for path, package in owned.owner.items() if path not in _COMMON and len(path) > 1
        }

    def made(self, entry: Entry) -> str:
        """The package whose script made what stands at a path; empty when none did."""
        path = merged(entry.path)
        running = self._running(entry.ctime_ns / _NS)
        # An alternative that somebody chose leads to a package's program, too.
        if (running or not path.startswith(_ALTERNATIVES)) and (found := self._link(path, entry)):
            return found
        if not running:
            return ""
        if folder := self._folder(path):
            return folder
        text = path.decode("utf-8", "replace")
        named = next((package for package in running if text in self._texts.get(package, "")), "")
        return named or (running[0] if path.startswith(_SCRIPTED) else "")

    def keeps(self, path: bytes) -> str:
        """The package whose service keeps its state around a path; empty when none does."""
        if not path.startswith(_STATE_FOLDERS):
            return ""
        return self._folder(path) or self._in_a_script(path)

    def brings(self, path: bytes) -> str:
        """The package that lists a folder or one around it, or whose scripts name it; empty for none."""
        path = merged(path)
        return self._owned.owner.get(path) or self._folder(path) or self._in_a_script(path)

    def surely_ran(self, at_ns: int | None) -> bool:
        """Whether packages' scripts ran at a moment, and no less than a second on, as dpkg's log tells."""
        return at_ns is not None and any(self._windows_at(at_ns / _NS, margin=1))

    def _folder(self, path: bytes) -> str:
        """The package that lists the nearest folder around a path, shared folders aside."""
        while (path := path.rpartition(b"/")[0]) and path not in _COMMON:
            if package := self._folders.get(path):
                return package
        return ""

    def _in_a_script(self, path: bytes) -> str:
        """The package whose scripts name a path or a folder around it: ``--home /var/lib/redis``."""
        while path and path not in _COMMON:
            if path not in self._scripted:
                word = re.compile(rf"(?<![\w./-]){re.escape(path.decode('utf-8', 'replace'))}(?![\w.-])")
                self._scripted[path] = next(
                    (name for name, text in self._texts.items() if word.search(text)), ""
                )
            if package := self._scripted[path]:
                return package
            path = path.rpartition(b"/")[0]
        return ""

    def _link(self, path: bytes, entry: Entry) -> str:
        """Links that Debian's helpers make: run levels, wanted units, alternatives."""
        owner = self._owned.owner
        if match := _RC_LINK.fullmatch(path):
            return owner.get(b"/etc/init.d/" + match[1], "")
        if match := _WANTS.fullmatch(path):
            if match[1] is None:  # the folder is a package's if all that is wanted in it is
                wanted = self._wanting.get(path, [""])
                return wanted[0] if all(wanted) else ""
            return owner.get(b"/usr/lib/systemd/system/" + match[1], "")
        if entry.target is None:
            return ""
        if path.startswith((_ALTERNATIVES, b"/etc/systemd/system/")):
            return owner.get(merged(entry.target), "")
        return owner.get(merged(self._alternatives.get(entry.target, b"")), "")

    def _running(self, at: float) -> list[str]:
        """The packages whose scripts may have run at ``at``, several as dpkg's log knows whole seconds; none
        where a later command of the agent had begun by then."""
        return [window.package for window in self._windows_at(at)]

    def _windows_at(self, at: float, margin: float = 0.0) -> Iterator[Window]:
        last = bisect.bisect_right(self._window_starts, at)
        first = bisect.bisect_left(self._ends, at, hi=last)  # all before it ended by then
        for window in self._windows[max(first, last - MAX_WINDOWS) : last]:
            if not window.start <= at <= window.end - margin:
                continue
            begun = bisect.bisect_right(self._starts, at + COMMAND_SLACK_S)
            if begun and self._starts[begun - 1] - COMMAND_SLACK_S > window.start:
                continue
            yield window


class Timeline:
    """Commands, and who was running at a moment: 5,000 changes ask it of 10,000 commands."""

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = commands
        edges: list[tuple[float, int, int]] = []  # when, 0 as it begins and 1 after it ended, which
        for place, command in enumerate(commands):
            start = command.started_at.timestamp() - COMMAND_SLACK_S
            end = command.ended_at.timestamp() + COMMAND_SLACK_S if command.ended_at else math.inf
            edges += [(start, 0, place), (max(start, end), 1, place)]
        edges.sort()
        self._edges = [edge[:2] for edge in edges]
        self._running: list[tuple[int, ...]] = [()]  # the first ones, after each edge
        active: list[int] = []
        for _, is_end, place in edges:
            if is_end:
                del active[bisect.bisect_left(active, place)]
            else:
                bisect.insort(active, place)
            self._running.append(tuple(active[:MAX_COMMANDS]))

    def at(self, at_ns: int) -> list[str]:
        """The ids of the commands that ran at a moment, in order, the first :data:`MAX_COMMANDS`."""
        passed = bisect.bisect_left(self._edges, (at_ns / _NS, 1))
        return [self.commands[place].id for place in self._running[passed]]

    def begun(self, spans: Collection[tuple[int, int]]) -> list[Command]:
        """The commands that began within one of the spans, in nanoseconds since the epoch."""
        slack_ns = int(COMMAND_SLACK_S * _NS)
        begins = [(command, int(command.started_at.timestamp() * _NS)) for command in self.commands]
        return [
            command
            for command, at_ns in begins
            if any(first < at_ns <= last + slack_ns for first, last in spans)
        ]

    def naming(self, wire: str) -> list[str]:
        """The ids of the commands that have a path among their words, whenever they ran."""
        return list(self._named.get(wire, ()))[:MAX_COMMANDS]

    @cached_property
    def _named(self) -> dict[str, dict[str, None]]:
        found: dict[str, dict[str, None]] = {}
        for command in self.commands:
            for word in _PATH_WORD.findall(command.command):
                found.setdefault(word.rstrip("/"), {})[command.id] = None
        return found
