"""Users and groups of two points, from /etc/passwd, group and the masked shadow. Never a hash.

Source: passwd(5), group(5), shadow(5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.models import ChangeVerb, GroupChange, UserChange

_MAKES_ACCOUNTS = re.compile(r"\b(?:adduser|useradd|addgroup|groupadd|systemd-sysusers|sysusers)\b")
CHANGED = "set, changed"
_AGEING = ("at least", "at most", "warned", "inactive", "expires")  # shadow's fields from the fourth, in days
_USUAL_AGEING = ("0", "99999", "7", "", "")


@dataclass(frozen=True)
class Accounts:
    """Users and groups by name, as the words a change shows; ids to names for owners of files."""

    users: dict[str, dict[str, str]] = field(default_factory=dict)
    groups: dict[str, dict[str, str]] = field(default_factory=dict)
    user_names: dict[int, str] = field(default_factory=dict)
    group_names: dict[int, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)  # equal for equal passwords of one comparison


def _rows(data: bytes | None, columns: int) -> list[list[str]]:
    lines = (data or b"").decode("utf-8", "replace").splitlines()
    rows = [line.split(":") for line in lines if not line.startswith(("+", "-", "#"))]
    return [row for row in rows if len(row) >= columns and row[0]]


def parse_accounts(passwd: bytes | None, group: bytes | None, shadow: bytes | None) -> Accounts:
    """The accounts of one point; ``shadow`` as the disk reader masks it."""
    found = Accounts()
    member_of: dict[str, list[str]] = {}
    for name, _, gid, members, *_ in _rows(group, 4):
        if gid.isdigit():
            found.group_names.setdefault(int(gid), name)
        names = sorted(filter(None, members.split(",")))
        found.groups[name] = {"gid": gid, "members": ",".join(names)}
        for member in names:
            member_of.setdefault(member, []).append(name)
    shadows = {row[0]: row for row in _rows(shadow, 2)}
    for name, field_two, uid, gid, comment, home, shell, *_ in _rows(passwd, 7):
        if uid.isdigit():
            found.user_names.setdefault(int(uid), name)
        masked = (
            shadows.get(name, ["", "locked"])[1] if field_two == "x" else ("set" if field_two else "none")
        )
        state, _, token = masked.partition("~")
        found.tokens[name] = token
        found.users[name] = {
            "uid": uid,
            "gid": gid,
            "home": home,
            "shell": shell,
            "comment": comment,
            "groups": ",".join(sorted(member_of.get(name, []))),
            "password": state if state in ("none", "locked", "set") else "set",
        }
        if ageing := _ageing(shadows.get(name, ())):
            found.users[name]["ageing"] = ageing
    return found


def _ageing(row: Sequence[str]) -> str:
    """What differs from the usual rules for a password's age, as in ``at most 90``."""
    told = zip(_AGEING, row[3:8], _USUAL_AGEING, strict=False)
    return ", ".join(f"{words} {value}" for words, value, usual in told if value not in ("", usual))


def user_changes(before: Accounts, after: Accounts, makers: Mapping[str, str]) -> list[UserChange]:
    """``makers``: package → its scripts, to tell who made an account."""
    found = []
    for name in sorted(before.users.keys() | after.users.keys()):
        old, new = dict(before.users.get(name, {})), dict(after.users.get(name, {}))
        if old and new and old["password"] == new["password"] == "set":  # noqa: S105
            new["password"] = "set" if before.tokens[name] == after.tokens[name] else CHANGED
        if old != new:
            package = _maker(name, makers) if not old else ""
            found.append(UserChange(name=name, verb=_verb(old, new), before=old, after=new, package=package))
    return found


def group_changes(before: Accounts, after: Accounts, makers: Mapping[str, str]) -> list[GroupChange]:
    """As :func:`user_changes`."""
    found = []
    for name in sorted(before.groups.keys() | after.groups.keys()):
        old, new = before.groups.get(name, {}), after.groups.get(name, {})
        if old != new:
            package = _maker(name, makers) if not old else ""
            found.append(GroupChange(name=name, verb=_verb(old, new), before=old, after=new, package=package))
    return found


def _verb(old: Mapping[str, str], new: Mapping[str, str]) -> ChangeVerb:
    if not old:
        return ChangeVerb.ADDED
    return ChangeVerb.MODIFIED if new else ChangeVerb.REMOVED


def _maker(name: str, makers: Mapping[str, str]) -> str:
    """The fresh package whose scripts make accounts and name this one; empty when none or several do."""
    word = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
    found = {
        package
        for package, script in makers.items()
        if _MAKES_ACCOUNTS.search(script) and word.search(script)
    }
    return found.pop() if len(found) == 1 else ""
