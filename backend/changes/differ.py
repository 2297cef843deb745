"""The diff of two points: what the disk reader found, given its meaning, its owner and its place."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from backend.changes import accounts, attribution, bounds, dpkg, rpm, settings, told, units
from backend.changes.blobs import BlobStore
from backend.changes.naming import Naming, folders_named
from backend.changes.noise import (
    BACKUPS,
    CACHES,
    HOST_KEYS,
    LOGS,
    RIGHTS,
    SERVICE_STATE,
    Attribute,
    NoiseProfile,
    differing,
    gives_rights,
)
from backend.changes.renames import renames
from backend.changes.semantic import Semantics, short_and_whole
from backend.changes.states import StateMaker, verb
from backend.changes.told import Told
from backend.disks import Comparison, ContentLimits, DiskReader, Entry, Pair, Side, named
from backend.disks.elsewhere import DATA
from backend.disks.hardlinks import shared
from backend.disks.links import leads_to
from backend.errors import DiskUnreadable
from backend.models import (
    FROM_GUEST,
    Changes,
    ChangeVerb,
    Command,
    FileChange,
    FileKind,
    PackageChange,
    SettingKind,
    UnitChange,
    new_id,
    now,
    wire_path,
)

PASSWD, GROUP, SHADOW, GSHADOW = b"/etc/passwd", b"/etc/group", b"/etc/shadow", b"/etc/gshadow"
SUBORDINATE = (b"/etc/subuid", b"/etc/subgid")
_ACCOUNT_FILES = (PASSWD, GROUP, SHADOW, GSHADOW, *SUBORDINATE)
HOSTNAME = b"/etc/hostname"
_HOST_KEY = b"/etc/ssh/ssh_host_"
_TOLD = frozenset({PASSWD, GROUP, SHADOW, GSHADOW, HOSTNAME, b"/etc/hosts", b"/etc/resolv.conf"})
_KEPT_ASIDE = (LOGS, CACHES, BACKUPS)
_MADE = Attribute.ADDED | Attribute.TYPE | RIGHTS
MAX_NOTES = 50
TYPED_S = 60
"""How long what somebody typed into a terminal may go on."""
_RAN = "while commands ran that do not name them"
_TYPED = "when somebody had typed into a terminal"
LIMITS = ContentLimits(
    opaque=(b"/var/cache/", b"/var/lib/apt/", b"/var/log/", b"/tmp/", b"/var/tmp/"),  # noise hides them
    whole=(*_ACCOUNT_FILES, dpkg.STATUS, dpkg.EXTENDED, dpkg.LOG, HOSTNAME),
    listed=units.FOLDERS + settings.FOLDERS,
)
_USUAL_STATE = "installed"

Point: TypeAlias = "Sequence[Path] | Told"
"""A moment: frozen layers, base first; or what the guest told where they cannot be read."""

Found: TypeAlias = tuple[Comparison, dict[bytes, bytes | None], rpm.Rpms]
"""What differs, the whole files that it is understood with, and what rpm knows."""


class Differ:
    """Makes :class:`Changes` from two points."""

    def __init__(
        self, reader: DiskReader, blobs: BlobStore, fingerprint_key: bytes, noise: NoiseProfile
    ) -> None:
        self._reader, self._blobs, self._key, self._noise = reader, blobs, fingerprint_key, noise

    async def diff(
        self,
        sandbox_id: str,
        from_snapshot: str,
        to_snapshot: str,
        before: Point,
        after: Point,
        *,
        quiesced: bool,
        commands: Sequence[Command] = (),
        typed: Sequence[tuple[float, float]] = (),
        made_before: bool = False,
        named: Collection[bytes] = (),
    ) -> Changes:
        """What changed from ``before`` to ``after``. ``made_before``: the machine had its own name at the
        first point, so that whatever names change was meant. ``named``: paths that a playbook writes, which
        are never noise nor a package's own, nor is where the links of either point lead them (with a final
        slash also the link at the end); below one with a final ``/**`` another owner or mode is none either.
        ``typed``: from when to when somebody typed into a terminal. What
        a guest told was never frozen, whatever is said.

        Raises:
            DiskUnreadable: also when one of the two was read from the disk and the other told by the guest.
        """
        started = time.monotonic()
        changes = Changes(
            id=new_id("CHG"),
            sandbox_id=sandbox_id,
            from_snapshot=from_snapshot,
            to_snapshot=to_snapshot,
            created_at=now(),
            quiesced=quiesced,
        )
        if isinstance(before, Told) and isinstance(after, Told):
            found = await self._told(changes, before, after)
        elif isinstance(before, Told) or isinstance(after, Told):
            raise DiskUnreadable(
                "one point was read from the disk and the other told by the guest, which are not compared: "
                "what the guest leaves out would look like a change",
                remedy="make a new snapshot, and compare from there",
            )
        else:
            found = await self._read(changes, before, after)
        if found:
            trees = {path[:-2] for path in named if path.endswith(b"/**")}
            places = [
                await self._places(one, before, after)
                for one in ({path for path in named if not path.endswith(b"/**")}, trees)
            ]
            work = (*found, self._noise, self._blobs, self._key, commands, typed, *places)
            await asyncio.to_thread(_interpret, changes, *work, made_before=made_before)
        changes.took_s = round(time.monotonic() - started, 3)
        return changes

    async def _read(self, changes: Changes, before: Sequence[Path], after: Sequence[Path]) -> Found | None:
        comparison = await self._reader.compare(before, after, contents=LIMITS)
        if not changes.quiesced:
            changes.notes.append("not quiesced: read as after a power cut, unwritten data is missing")
        if lost := [one for one in comparison.elsewhere if one.role == DATA]:
            told = ", ".join(map(named, lost))
            changes.notes.append(f"other partitions are not looked into, changes there are not told: {told}")
        if not comparison.pairs:
            return None
        read: dict[bytes, bytes | None] = {}
        if paths := await asyncio.to_thread(settings.context, comparison):
            read = await self._reader.read(after, paths, settings.MAX_FILE_BYTES)
        return comparison, read, await rpm.read(self._reader, comparison, before, after)

    async def _places(self, paths: Collection[bytes], *points: Point) -> set[bytes]:
        """The paths, and where they lead at each moment."""
        found = {path.rstrip(b"/") for path in paths}
        for point in points:
            found |= await self._led(point, sorted(paths))
        return found

    async def _led(self, point: Point, paths: Sequence[bytes]) -> set[bytes]:
        """Where names come to by the links of the whole tree at one moment."""
        if not paths:
            return set()
        if not isinstance(point, Told):
            return set(await self._reader.led(point, paths))
        nodes = point.nodes
        return {leads_to(path, lambda at: nodes[at].target if at in nodes else None) for path in paths}

    async def _told(self, changes: Changes, before: Told, after: Told) -> Found | None:
        changes.read_from, changes.quiesced = FROM_GUEST, False
        changes.notes.append("told by the guest while it ran: root there could lie, and hide anything")
        comparison, notes = await asyncio.to_thread(told.compare, before, after, LIMITS)
        changes.notes += [*notes, "a guest is not asked for what chattr(1) sets, nor for gshadow(5)"]
        if not comparison.pairs:
            return None
        paths = await asyncio.to_thread(settings.context, comparison)
        return comparison, after.read(paths), rpm.untold(comparison)


def _interpret(changes: Changes, *work: Any, made_before: bool) -> None:
    """What a guest wrote is parsed here from the first byte on, in a thread of its own."""
    _Interpretation(*work).fill(changes, made_before=made_before)


class _Interpretation:
    """One comparison on its way to a :class:`Changes`."""

    def __init__(
        self,
        comparison: Comparison,
        read: dict[bytes, bytes | None],
        rpms: rpm.Rpms,
        noise: NoiseProfile,
        blobs: BlobStore,
        key: bytes,
        commands: Sequence[Command],
        typed: Sequence[tuple[float, float]],
        named: set[bytes],
        trees: set[bytes],
    ) -> None:
        comparison, self._unread = bounds.bounded(comparison, _ACCOUNT_FILES)
        self._comparison, self._read, self._noise = comparison, read, noise
        self._trees = tuple(tree + b"/" for tree in trees)
        self._named = named - _TOLD  # of those the accounts and settings tell all
        self._commands = attribution.Timeline(commands)
        self._rpms = rpms
        self._teller = settings.Teller(key)
        self._before, self._after = _accounts(comparison.before), _accounts(comparison.after)
        self._old = StateMaker(self._before, blobs, key)
        self._new = StateMaker(self._after, blobs, key)
        self._status_before = dpkg.parse_status(comparison.before.whole.get(dpkg.STATUS))
        self._status = dpkg.parse_status(comparison.after.whole.get(dpkg.STATUS))
        self._owned_before = attribution.ownership(comparison, self._status_before, after=False)
        self._owned = attribution.ownership(comparison, self._status, after=True)
        self._owned_before.add_rpms(rpms.before)
        self._owned.add_rpms(rpms.after)
        self._ran, note = self._windows()
        self._scripts = attribution.Scripts(self._owned, comparison, self._ran, commands)
        self._naming = Naming(commands)
        self._folders_named = folders_named(commands)
        self._typed = typed
        self._left_out: Counter[tuple[str, str]] = Counter()  # by package and folder
        self._meanwhile: Counter[tuple[str, str, str]] = Counter()  # of these, what may be somebody's work
        pairs = comparison.pairs
        self._names = shared(_linked(pair.before for pair in pairs), _linked(pair.after for pair in pairs))
        self._by_name = 0  # removed files whose commands are those that name them
        self._notes = dict.fromkeys([*self._unread.values(), *([note] if note else [])])  # each once

    def _windows(self) -> tuple[list[dpkg.Window], str]:
        pair = next((pair for pair in self._comparison.pairs if pair.path == dpkg.LOG), None)
        logs = (
            dpkg.Log(side.whole.get(dpkg.LOG) or b"", entry.mtime_ns / 1e9 if entry else None)
            for side, entry in (
                (self._comparison.before, pair and pair.before),
                (self._comparison.after, pair and pair.after),
            )
        )
        return dpkg.windows(*logs)

    def fill(self, changes: Changes, *, made_before: bool) -> None:
        """Everything but the head of ``changes``. Blocking: it writes blobs."""
        changes.files = [self._file(pair) for pair in self._comparison.pairs]
        self._renames({change.path: change for change in changes.files})
        changes.packages = self._packages()
        changes.units = self._units(changes.files)
        changes.masked = units.masked(self._comparison.after.listed)
        changes.started = units.started(self._comparison.after.listed)
        makers = attribution.scripts(self._comparison) | {one.name: one.scripts for one in self._rpms.after}
        changes.users = accounts.user_changes(self._before, self._after, makers)
        changes.groups = accounts.group_changes(self._before, self._after, makers)
        self._settings(changes, None if made_before else self._hostnames())
        self._show_strange(changes)
        changes.hidden = dict(Counter(change.hidden for change in changes.files if change.hidden))
        changes.notes += list(self._notes)[:MAX_NOTES]
        if len(self._notes) > MAX_NOTES:
            changes.notes.append(f"and {len(self._notes) - MAX_NOTES} more notes")
        left_out = list(self._left_out_words())
        changes.notes += left_out[:MAX_NOTES]
        if len(left_out) > MAX_NOTES:
            changes.notes.append(f"and {len(left_out) - MAX_NOTES} more services' state")

    def _renames(self, files: dict[str, FileChange]) -> None:
        for new, old in renames(self._comparison.pairs).items():
            to, of = wire_path(new), wire_path(old)
            files[to].renamed_from, files[of].renamed_to = of, to

    def _settings(self, changes: Changes, own: set[str] | None) -> None:
        """What the files mean, and who did all that is told. ``own``: names that the machine may have got
        when it was made."""
        notes: list[str] = []
        semantics = Semantics(self._comparison.pairs, changes.files, self._commands)
        found = settings.find(self._comparison, self._read, notes)
        changes.settings = semantics.settings(found, self._teller, own)
        changes.settings += semantics.holds(dpkg.hold_changes(self._status_before, self._status))
        changes.settings += semantics.keys(self._rpms, self._teller)
        self._show_meant(changes)
        semantics.attribute(changes, {one.name: one.installed_at for one in self._rpms.after})
        self._attribute_removed(changes)
        for note in notes:
            self._note(self._teller.tell(note))

    def _attribute_removed(self, changes: Changes) -> None:
        """A package that is gone has no file that tells when; dpkg's log does. Of files that went at an
        unknown time it is said how their commands were found."""
        ended = {window.package: (window.start + window.end) / 2 for window in self._ran}
        for package in changes.packages:
            if package.verb is ChangeVerb.REMOVED and not package.commands and package.name in ended:
                package.commands = self._commands.at(int(ended[package.name] * 1e9))
        if self._by_name:
            self._note(
                f"{self._by_name} removed files: when is not known, the commands are those that name them"
            )

    def _hostnames(self) -> set[str]:
        """The machine's names before and after, whole and short."""
        found: set[str] = set()
        for side in (self._comparison.before, self._comparison.after):
            for line in (side.whole.get(HOSTNAME) or b"").decode("utf-8", "surrogateescape").split():
                found |= short_and_whole(line)
        return found

    def _show_meant(self, changes: Changes) -> None:
        """The whole of a file that noise hides, and in which all that changed was meant."""
        paths = {
            path
            for one in changes.settings
            if one.kind is SettingKind.RESOLVER and not one.hidden
            for path in one.paths
        }
        self._show(changes, paths)

    def _show_strange(self, changes: Changes) -> None:
        """A file of accounts whose new rows no account tells: they may be one to some program, and what is
        told of accounts does not hold them. And who got ids that no useradd gives. One that was not read."""
        strange = accounts.strange_changes(self._before, self._after)
        made = {user.name for user in changes.users if ChangeVerb.MODIFIED is not user.verb}
        for path in SUBORDINATE:
            sides = [side.whole.get(path) for side in (self._comparison.before, self._comparison.after)]
            if told := accounts.ids_changes(wire_path(path), sides[0], sides[1], made):
                strange[wire_path(path)] = told
        unread = {wire_path(path) for path in self._unread if path in (*_ACCOUNT_FILES, dpkg.STATUS)}
        self._show(changes, strange.keys() | unread)
        first = [*self._unread.values(), *(note for notes in strange.values() for note in notes)]
        self._notes = dict.fromkeys(first) | self._notes

    def _show(self, changes: Changes, paths: Container[str]) -> None:
        """The whole of files that noise hides."""
        for pair, change in zip(self._comparison.pairs, changes.files, strict=True):
            if change.hidden and change.path in paths:
                change.hidden = ""
                self._keep(pair, change)

    def _file(self, pair: Pair) -> FileChange:
        before = self._old.state(pair.before, pair.before_content, self._names[0].get(pair.path, ()))
        after = self._new.state(pair.after, pair.after_content, self._names[1].get(pair.path, ()))
        what = verb(before, after, same_content=pair.same_content)
        change = FileChange(path=wire_path(pair.path), verb=what, before=before, after=after)
        if pair.path in self._named or (pair.path.startswith(self._trees) and differing(change) & RIGHTS):
            if listed := self._package(pair)[1]:
                self._note_changed(pair, listed)
            self._keep(pair, change)
            return change
        change.hidden = self._noise.hides(change)
        if change.hidden in _KEPT_ASIDE and self._is_made_folder(pair, change):
            change.hidden = ""
        if change.hidden:
            self._note_host_key(pair, change)
            return change
        change.package, listed = self._package(pair)
        if not change.package:
            counts = gives_rights(change) or settings.states(pair.path) or self._configures(pair.path)
            if not counts and (keeper := self._keeper(pair)):
                change.hidden = SERVICE_STATE
                self._leave_out(pair, keeper)
                return change
            if listed:
                self._note_changed(pair, listed)
            elif pair.after is not None:
                change.package = self._scripts.made(pair.after)
        self._keep(pair, change)
        return change

    def _is_made_folder(self, pair: Pair, change: FileChange) -> bool:
        """Whether somebody made a folder of logs, caches or backups, or gave it to another: what writes there
        needs it. What is in it is noise all the same."""
        if pair.after is None or pair.after.kind is not FileKind.DIRECTORY or not differing(change) & _MADE:
            return False
        is_named = change.path in self._folders_named
        return is_named and not (self._scripts.brings(pair.path) or self._scripts.made(pair.after))

    def _keeper(self, pair: Pair) -> str:
        """The package whose service keeps its state at the path; empty where a command may have worked."""
        keeper = self._scripts.keeps(pair.path)
        if not keeper:
            return ""
        at_ns = _moment(pair)
        by_scripts = self._scripts.surely_ran(at_ns)
        return "" if self._naming.at_work(wire_path(pair.path), at_ns, by_scripts=by_scripts) else keeper

    def _leave_out(self, pair: Pair, keeper: str) -> None:
        folder = wire_path(b"/".join(pair.path.split(b"/")[:4]))
        self._left_out[keeper, folder] += 1
        at_ns = _moment(pair)
        if at_ns is None:
            return
        if self._commands.at(at_ns):
            self._meanwhile[keeper, folder, _RAN] += 1
        elif any(first <= at_ns / 1e9 <= last + TYPED_S for first, last in self._typed):
            self._meanwhile[keeper, folder, _TYPED] += 1

    def _left_out_words(self) -> Iterator[str]:
        """What nobody sees unless he asks for it, in words: of a service, and how much of it is in doubt."""
        for (keeper, folder), count in sorted(self._left_out.items()):
            told = f"{SERVICE_STATE} of {keeper} is left out: {count} files in {folder}"
            for words in (_RAN, _TYPED):
                if meanwhile := self._meanwhile[keeper, folder, words]:
                    told += f", {meanwhile} of them changed {words}"
            yield told

    def _keep(self, pair: Pair, change: FileChange) -> None:
        """The contents, and who was running."""
        if (at_ns := _moment(pair)) is not None:
            change.commands = self._commands.at(at_ns)
        else:
            change.commands = self._commands.naming(change.path)
            self._by_name += bool(change.commands)
        self._old.keep(change.before, pair.before_content)
        self._new.keep(change.after, pair.after_content)
        for content in (pair.before_content, pair.after_content):
            if content is not None and content.withheld.startswith(("over ", "too many")):
                unknown = content.sha256 is None and change.verb is ChangeVerb.MODIFIED
                words = "may have changed, too large to hash" if unknown else "is not kept"
                self._note(f"{change.path}: its content {words} ({content.withheld})")

    def _package(self, pair: Pair) -> tuple[str, str]:
        """The package whose own content stands at the path, and the one that lists it; empty for none."""
        if pair.after is None:
            gone = pair.before
            package = self._owned_before.own(gone, pair.before_content) if gone is not None else ""
            package = package or attribution.unlinked(pair.path, self._owned_before)
            return package, package
        if package := self._owned.own(pair.after, pair.after_content):
            return package, package
        return "", self._owned.owner.get(dpkg.merged(pair.path), "")

    def _configures(self, path: bytes) -> bool:
        """Whether a package calls the file its configuration."""
        return dpkg.merged(path) in self._owned.conffiles

    def _note_changed(self, pair: Pair, package: str) -> None:
        if pair.after is not None and pair.after.kind is FileKind.FILE:
            what = "configuration file" if self._configures(pair.path) else "file"
            path = wire_path(pair.path)
            self._note(f"{path}: a {what} of {package}, changed since that was installed")

    def _note_host_key(self, pair: Pair, change: FileChange) -> None:
        """Each machine has keys of its own, which no playbook brings; that they were made anew is said."""
        is_key = change.hidden == HOST_KEYS and pair.path.startswith(_HOST_KEY)
        ran = self._commands.at(pair.after.ctime_ns) if is_key and pair.after is not None else []
        if ran:
            self._note(f"{HOST_KEYS}: {change.path} was made anew while {', '.join(ran)} ran")

    def _note(self, text: str) -> None:
        self._notes[text] = None

    def _packages(self) -> list[PackageChange]:
        before, after = self._comparison.before.whole, self._comparison.after.whole
        for package in self._status.values():
            if package.state != _USUAL_STATE:
                self._note(f"package {package.name} is {package.state}")
        if self._rpms.note:
            self._note(self._rpms.note)
        found = dpkg.package_changes(
            self._status_before,
            self._status,
            dpkg.parse_auto(before.get(dpkg.EXTENDED)),
            dpkg.parse_auto(after.get(dpkg.EXTENDED)),
        )
        return found + rpm.package_changes(self._rpms)

    def _units(self, files: Sequence[FileChange]) -> list[UnitChange]:
        touched: set[bytes] = set()
        owners: dict[bytes, str] = {}
        for pair, change in zip(self._comparison.pairs, files, strict=True):
            if unit := units.unit_of(pair.path):
                touched |= set() if change.verb is ChangeVerb.METADATA else {unit}
                if change.package:
                    owners[unit] = change.package  # a link that its script made
        for path, package in (self._owned_before.owner | self._owned.owner).items():
            if unit := units.unit_of(path):
                owners[unit] = package
        return units.unit_changes(
            units.unit_states(self._comparison.before.listed),
            units.unit_states(self._comparison.after.listed),
            touched,
            owners,
        )


def _moment(pair: Pair) -> int | None:
    """When a file became what it is, or went, where that is known."""
    return pair.went_ns if pair.after is None else pair.after.ctime_ns


def _linked(entries: Iterable[Entry | None]) -> Iterator[tuple[bytes, tuple[int, ...]]]:
    """Those that may have other names, and what tells files apart."""
    for entry in entries:
        if entry is not None and entry.links > 1 and entry.kind is not FileKind.DIRECTORY:
            yield entry.path, (entry.inode, entry.links, entry.size, entry.mtime_ns, entry.ctime_ns)


def _accounts(side: Side) -> accounts.Accounts:
    return accounts.parse_accounts(*map(side.whole.get, (PASSWD, GROUP, SHADOW, GSHADOW)))
