"""What changed settings, packages, units and accounts are told with: owner, noise, commands.

A file that noise hides may state something that nobody's machine does by itself: a host's name that a command
set, an address in ``/etc/hosts``. Such a setting is shown, and the residual compares it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from backend.changes import attribution, dpkg
from backend.changes.naming import working
from backend.changes.rpm import KEY_PACKAGE, Rpms
from backend.changes.settings import Found, Teller
from backend.changes.settings.repositories import ARCHITECTURE
from backend.disks import Pair
from backend.models import (
    Changes,
    ChangeVerb,
    Command,
    FileChange,
    GroupChange,
    SettingChange,
    SettingKind,
    UserChange,
    guest_path,
    wire_path,
)

_NS = 1_000_000_000
_HALF_NS = _NS // 2  # rpm knows whole seconds
_ACCOUNT_FILES = (b"/etc/passwd", b"/etc/shadow", b"/etc/group", b"/etc/gshadow")
_ON_ACCOUNTS = re.compile(
    r"\b(?:(?:user|group)(?:add|mod|del)|(?:add|del)(?:user|group)|gpasswd|chpasswd|newusers|ch(?:age|fn|sh)|vi(?:pw|gr)"
    r"|systemd-sysusers)\b|(?<!getent )(?<!/etc/)\bpasswd\b|/etc/(?:passwd|shadow|group|gshadow)\b"
)
_DPKG_WORDS = ("statoverride", "divert")
_ON_HOLDS = re.compile(r"\b(?:un)?hold\b|--set-selections|/var/lib/dpkg/status\b")
_OWN_KINDS = (
    SettingKind.HOSTNAME,
    SettingKind.HOSTS,
    SettingKind.RESOLVER,
    SettingKind.DPKG,
    SettingKind.TIME_ZONE,  # its hidden file tells the drift of a clock, too
)
_LOOPBACK = re.compile(r"127\.[0-9.]+|::1")
_LOCALHOST = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})


def short_and_whole(name: str) -> set[str]:
    """A machine's name, and its part before the first dot."""
    return {name, name.partition(".")[0]} - {""}


def _without_own_name(change: SettingChange, own: set[str]) -> bool:
    """Take the machine's own names out of a line of ``/etc/hosts``; whether more of a change is left.

    Only at the machine's own addresses is its name its identity: at another it leads elsewhere.
    """
    if not _LOOPBACK.fullmatch(change.name):
        return True
    before, after = (side.get("names", "").split() for side in (change.before, change.after))
    if own.union(_LOCALHOST).issuperset((*before, *after)):
        return False
    old, new = ([name for name in names if name not in own] for names in (before, after))
    if old == new:
        return False
    change.before, change.after = ({"names": " ".join(names)} if names else {} for names in (old, new))
    if not old or not new:
        change.verb = ChangeVerb.REMOVED if old else ChangeVerb.ADDED
    return True


class Semantics:
    """The pairs and files of one comparison, by path, and who changed them."""

    def __init__(
        self, pairs: Sequence[Pair], files: Sequence[FileChange], commands: attribution.Timeline
    ) -> None:
        self._pairs = {pair.path: pair for pair in pairs}
        self._files = {guest_path(change.path): change for change in files}
        self._commands = commands
        self._texts = {command.id: command.command for command in commands.commands}

    def ran(self, paths: Iterable[bytes]) -> list[str]:
        """The ids of the commands that ran when one of the paths was changed; each once."""
        found: dict[str, None] = {}
        for path in paths:
            pair = self._pairs.get(path)
            if pair is not None and pair.after is not None:
                found |= dict.fromkeys(self._commands.at(pair.after.ctime_ns))
        return list(found)[: attribution.MAX_COMMANDS]

    def settings(
        self, found: Iterable[Found], teller: Teller, hostnames: set[str] | None
    ) -> list[SettingChange]:
        """Each difference with the files that state it. ``hostnames``: the machine's, before and after; None
        when it had its own before."""
        changes = []
        own = None if hostnames is None else set(hostnames)
        for kind, one in ((each.kind, each.difference) for each in found):
            sides = [side for side in (one.before, one.after) if side is not None]
            paths = list(dict.fromkeys(side.path for side in sides))
            # Of a layered setting the winner may be a file that did not change.
            files = [self._files[path] for path in reversed(paths) if path in self._files]
            change = SettingChange(
                kind=kind,
                name=teller.tell(next((side.label for side in reversed(sides) if side.label), one.name)),
                verb=one.verb,
                before=teller.values(one.before),
                after=teller.values(one.after),
                paths=[wire_path(path) for path in paths],
                package=files[0].package if files else "",
                hidden=files[0].hidden if files else "",
                commands=self.ran(paths),
            )
            if change.hidden and kind in _OWN_KINDS and self._meant(change, own):
                change.hidden = ""
                if own and kind is SettingKind.HOSTNAME:  # somebody chose it: /etc/hosts may say it too
                    own -= short_and_whole(change.after.get("value", ""))
            changes.append(change)
        return changes

    def _meant(self, change: SettingChange, own: set[str] | None) -> bool:
        """Whether somebody did it, and not the making of the machine."""
        if change.kind is SettingKind.TIME_ZONE or change.name.startswith(ARCHITECTURE):
            return True  # which no machine and no package does by itself
        if change.kind is SettingKind.DPKG:
            # What packages' scripts write there comes with the packages.
            return any(word in self._texts.get(id, "") for id in change.commands for word in _DPKG_WORDS)
        if own is None:
            return True
        if change.kind is SettingKind.HOSTS:
            return _without_own_name(change, own)
        if change.kind is SettingKind.HOSTNAME:
            return any("hostname" in self._texts.get(id, "") for id in change.commands)
        return bool(change.commands)

    def keys(self, rpms: Rpms, teller: Teller) -> list[SettingChange]:
        """Keys that rpm believes, which it keeps as packages."""
        found = []
        for side, verb in ((rpms.before, ChangeVerb.REMOVED), (rpms.after, ChangeVerb.ADDED)):
            for one in side:
                if one.name != KEY_PACKAGE:
                    continue
                values = {"owner": teller.tell(one.summary)}
                change = SettingChange(
                    kind=SettingKind.SOURCE_KEY, name=f"rpm key {teller.tell(one.version)}", verb=verb
                )
                if verb is ChangeVerb.ADDED:
                    change.after = values
                    change.commands = self._commands.at(one.installed_at * _NS + _HALF_NS)
                else:
                    change.before = values
                found.append(change)
        return found

    def holds(self, found: list[SettingChange]) -> list[SettingChange]:
        """Holds with the commands that hold packages and name this one; else who ran when dpkg's database was
        written last, which tells the last change only."""
        if not found:
            return found
        on_holds = [one for one in self._since((dpkg.STATUS,)) if _ON_HOLDS.search(one.command)]
        for change in found:
            word = re.compile(rf"(?<![\w.+-]){re.escape(change.name.removeprefix(dpkg.HOLD))}(?![\w.+-])")
            named = [one.id for one in on_holds if word.search(one.command)]
            change.commands = named[: attribution.MAX_COMMANDS] or self.ran((dpkg.STATUS,))
        return found

    def attribute(self, changes: Changes, installed_at: Mapping[str, int]) -> None:
        """Add the commands to packages, units and accounts. The account files tell the last change only.
        ``installed_at``: rpm's word, in seconds."""
        for package in changes.packages:
            if package.name in installed_at:
                package.commands = self._commands.at(installed_at[package.name] * _NS + _HALF_NS)
                continue
            name = package.name.encode()
            package.commands = self.ran(
                b"/var/lib/dpkg/info/" + stem + b".list"
                for stem in (name, name + b":" + package.arch.encode())
            )
        units = self._by_unit()
        for unit in changes.units:
            unit.commands = self.ran(units.get(guest_path(unit.name), ()))
        by_package = {package.name: package.commands for package in changes.packages}
        accounts: list[UserChange | GroupChange] = [*changes.users, *changes.groups]
        for account in accounts:
            account.commands = by_package.get(account.package) or self._account(account)

    def _account(self, account: UserChange | GroupChange) -> list[str]:
        """The commands that work on accounts and name this one; else who made its home; else the one command
        that there was. The account files tell the last change only, which may be another account's."""
        word = re.compile(rf"(?<![\w.-]){re.escape(account.name)}(?![\w.-])")
        if named := [one.id for one in self._on_accounts if word.search(one.command)]:
            return named[: attribution.MAX_COMMANDS]
        home = account.after.get("home", "").encode("utf-8", "surrogateescape")
        made = self._pairs.get(home)
        if made is not None and made.before is None and not account.before:
            return self.ran((home,))
        if not self._meanwhile:  # one that began before the first point and went on
            return self.ran(_ACCOUNT_FILES)
        return [one.id for one in self._meanwhile] if len(self._meanwhile) == 1 else []

    @cached_property
    def _on_accounts(self) -> list[Command]:
        return [one for one in self._meanwhile if any(map(_ON_ACCOUNTS.search, working(one.command)))]

    @cached_property
    def _meanwhile(self) -> list[Command]:
        """The commands that began between the last change of an account file at the first point and its last
        change at the second."""
        return self._since(_ACCOUNT_FILES)

    def _since(self, paths: Iterable[bytes]) -> list[Command]:
        """The commands that began between the last change of the files at the two points."""
        pairs = [self._pairs[path] for path in paths if path in self._pairs]
        return self._commands.begun(
            [
                (pair.before.ctime_ns if pair.before else 0, pair.after.ctime_ns)
                for pair in pairs
                if pair.after
            ]
        )

    def _by_unit(self) -> dict[bytes, list[bytes]]:
        """Changed paths of each unit: its file, drop-ins, links that want it."""
        found: dict[bytes, list[bytes]] = {}
        for path in self._pairs:
            if b"/systemd/system/" not in path:
                continue
            *_, folder, name = path.split(b"/")
            unit = folder.removesuffix(b".d") if folder.endswith(b".d") else name
            found.setdefault(unit, []).append(path)
        return found
