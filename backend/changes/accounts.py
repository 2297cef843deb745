"""Users and groups of two points, from /etc/passwd, group and the masked shadow files. Never a hash.

A row counts for what glibc takes it for (its nss_files), which is more than useradd writes: four fields are
an account, and a uid may be written `` +00``. A row that glibc takes for none, and a second one of a name,
are told as strange. Sources: passwd(5), group(5), shadow(5), gshadow(5), subuid(5).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from backend.models import ChangeVerb, GroupChange, UserChange, wire_path

_WORD = re.compile(r"[\w-]+")
_MAKES_ACCOUNTS = re.compile(r"\b(?:adduser|useradd|addgroup|groupadd|systemd-sysusers|sysusers)\b")
CHANGED = "set, changed"
PASSWD, GROUP, SHADOW = "/etc/passwd", "/etc/group", "/etc/shadow"
_AGEING = ("at least", "at most", "warned", "inactive", "expires")  # shadow's fields from the fourth, in days
_USUAL_AGEING = ("0", "99999", "7", "", "")
_SPACE = " \t\v\f\r"
_NUMBER = re.compile(rf"[{_SPACE}]*([+-]?)0*([0-9]+)")
_RANGE = re.compile(r"([0-9]{1,10}):[0-9]{1,10}")
_FIRST_SUBORDINATE = 100_000  # login.defs(5), SUB_UID_MIN
_LONG_DIGITS = 20  # of the greatest unsigned long
_SHOWN_CHARS = 64
_SHOWN_ROWS = 5


@dataclass(frozen=True)
class Strange:
    """A row that no account tells: ``row`` is the whole of it, ``words`` say whose it is and what."""

    row: str
    words: str


@dataclass(frozen=True)
class Accounts:
    """Users and groups by name, as the words a change shows; ids to names for owners of files; by file the
    rows that are no account, or not the first of their name."""

    users: dict[str, dict[str, str]] = field(default_factory=dict)
    groups: dict[str, dict[str, str]] = field(default_factory=dict)
    user_names: dict[int, str] = field(default_factory=dict)
    group_names: dict[int, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)  # equal for equal passwords of one comparison
    group_tokens: dict[str, str] = field(default_factory=dict)
    strange: dict[str, list[Strange]] = field(default_factory=dict)


def parse_accounts(
    passwd: bytes | None, group: bytes | None, shadow: bytes | None, gshadow: bytes | None = None
) -> Accounts:
    """The accounts of one point; ``shadow`` and ``gshadow`` as the disk reader masks them."""
    found = Accounts(strange={PASSWD: [], GROUP: [], SHADOW: []})
    member_of = _groups(group, found)
    _group_shadows(gshadow, found)
    shadows = {row[0]: row for first, row in _rows(shadow, _password, found.strange[SHADOW]) if first}
    for first, (name, field_two, uid, gid, comment, home, shell, *_) in _rows(
        passwd, _account, found.strange[PASSWD]
    ):
        found.user_names.setdefault(int(uid), name)
        if not first:
            continue
        masked = (
            shadows.get(name, ["", "locked"])[1]
            if field_two == "x"
            else (f"set~{field_two}" if field_two else "none")
        )
        state, _, token = masked.partition("~")
        found.tokens[name] = token
        found.users[name] = {
            "uid": uid,
            "gid": gid,
            "home": home,
            "shell": shell,
            "comment": comment,
            "groups": ",".join(sorted(member_of.get(name, ()))),
            "password": state if state in ("none", "locked", "set") else "set",
        }
        if ageing := _ageing(shadows.get(name, ())):
            found.users[name]["ageing"] = ageing
    return found


def _groups(data: bytes | None, found: Accounts) -> dict[str, set[str]]:
    """User → groups. initgroups(3) takes the number of each row that names a member, so that he is in the
    group that has this number first, whatever the row calls it."""
    member_of: dict[str, set[str]] = {}
    for first, (name, _, gid, members, *_) in _rows(data, _group, found.strange[GROUP]):
        owner = found.group_names.setdefault(int(gid), name)
        names = sorted(filter(None, (member.lstrip(_SPACE) for member in members.split(","))))
        if first:
            found.groups[name] = {"gid": gid, "members": ",".join(names)}
        for member in names:
            member_of.setdefault(member, set()).update({owner, name} if first else {owner})
    return member_of


def _group_shadows(data: bytes | None, found: Accounts) -> None:
    """Who may add members to a group, and whether its password lets others in: told where it is so."""
    for line in (data or b"").decode("utf-8", "backslashreplace").split("\n"):
        name, password, admins, members, *_ = [*line.split(":"), "", "", ""]
        group = found.groups.get(name)
        if group is None or name in found.group_tokens:
            continue
        state, _, found.group_tokens[name] = password.partition("~")
        more = set(filter(None, members.split(","))).difference(group["members"].split(","))
        told = {"administrators": admins, "password": state if state == "set" else ""}
        told["more members by gshadow"] = ",".join(sorted(more))
        group |= {key: value for key, value in told.items() if value}


def _rows(
    data: bytes | None, read: Callable[[list[str]], list[str] | None], strange: list[Strange]
) -> Iterator[tuple[bool, list[str]]]:
    """Whether a row is the first of its name, and its fields as ``read`` gives them; it gives None for a row
    that glibc passes over. Adds to ``strange``."""
    names = set[str]()
    for raw in (data or b"").split(b"\n"):
        line = raw.partition(b"\0")[0].decode("utf-8", "backslashreplace").lstrip(_SPACE)
        if not line or line.startswith("#"):
            continue
        row = read(fields := line.split(":"))
        words = ""
        if fields[0].startswith(("+", "-")):
            row, words = None, "takes in accounts from elsewhere where nsswitch.conf says compat"
        elif row is None or not row[0]:
            row, words = None, "cannot be read, and is passed over"
        elif row[0] in names:
            words = f"is a second one of its name{_numbered(row)}, and the first counts"
        if words:
            name = wire_path(fields[0][:_SHOWN_CHARS].encode())
            strange.append(Strange(line, f"the row {name!r} {words}"))
        if row is not None:
            yield row[0] not in names, row
            names.add(row[0])


def _numbered(row: Sequence[str]) -> str:
    return f" ({row[2]})" if row[2] else ""


def _account(row: list[str]) -> list[str] | None:
    uid, gid = (_number(one) for one in (*row, "", "", "", "")[2:4])
    if uid is None or gid is None:
        return None
    return [*row[:2], str(uid), str(gid), *row[4:], *[""] * (7 - len(row))]


def _group(row: list[str]) -> list[str] | None:
    gid = _number(row[2]) if len(row) > 2 else None
    return None if gid is None else [*row[:2], str(gid), *row[3:], *[""] * (4 - len(row))]


def _password(row: list[str]) -> list[str] | None:
    """The fields from the third on are numbers, or empty for -1."""
    numbers = [_number(one) if one else 0xFFFF_FFFF for one in row[2:8]]
    if len(row) < 3 or row[2:] == [""] or None in numbers:
        return None
    return [*row[:2], *("" if number == 0xFFFF_FFFF else str(number) for number in numbers)]


def _number(text: str) -> int | None:
    """A number as glibc's strtou32 reads it; None where it reads none."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    value = int(match[2]) if len(match[2]) <= _LONG_DIGITS else 1 << 64
    if value < 1 << 64 and match[1] == "-":
        value = -value % (1 << 64)
    return min(value, 0xFFFF_FFFF)


def strange_changes(before: Accounts, after: Accounts) -> dict[str, list[str]]:
    """File → sentences on its strange rows that came or went; a file without any is left out."""
    found = {}
    for file in sorted(before.strange.keys() | after.strange.keys()):
        old, new = before.strange.get(file, ()), after.strange.get(file, ())
        told = [
            *(f"{file}: {words}" for words in _more(new, old)),
            *(f"{file}: no longer so: {words}" for words in _more(old, new)),
        ]
        if len(told) > _SHOWN_ROWS:
            told[_SHOWN_ROWS:] = [f"{file}: and {len(told) - _SHOWN_ROWS} more of such rows"]
        if told:
            found[file] = told
    return found


def ids_changes(file: str, before: bytes | None, after: bytes | None, made: Collection[str]) -> list[str]:
    """Sentences on rows of subuid(5) that came or went otherwise than with their user: ``made`` came or
    went, and got a range above all users' own."""
    old, new = (
        Counter(line for line in (data or b"").decode("utf-8", "backslashreplace").split("\n") if line)
        for data in (before, after)
    )
    rows = [(row, "") for row in new - old] + [(row, "no longer so: ") for row in old - new]
    strange = [(row, words) for row, words in rows if not _is_usual(row, made)]
    told = [f"{file}: {words}{wire_path(row[:_SHOWN_CHARS].encode())}" for row, words in strange]
    more = len(told) - _SHOWN_ROWS
    return told[:_SHOWN_ROWS] + ([f"{file}: and {more} more of such rows"] if more > 0 else [])


def _is_usual(row: str, made: Collection[str]) -> bool:
    name, _, ids = row.partition(":")
    match = _RANGE.fullmatch(ids)
    return name in made and match is not None and int(match[1]) >= _FIRST_SUBORDINATE


def _more(rows: Sequence[Strange], others: Sequence[Strange]) -> list[str]:
    """The words of the rows that ``others`` do not hold as often."""
    left = Counter(rows) - Counter(others)
    return [one.words for one, count in left.items() for _ in range(count)]


def _ageing(row: Sequence[str]) -> str:
    """What differs from the usual rules for a password's age, as in ``at most 90``."""
    told = zip(_AGEING, row[3:8], _USUAL_AGEING, strict=False)
    return ", ".join(f"{words} {value}" for words, value, usual in told if value not in ("", usual))


def user_changes(before: Accounts, after: Accounts, makers: Mapping[str, str]) -> list[UserChange]:
    """``makers``: package → its scripts, to tell who made an account."""
    found, words = [], _words(makers)
    for name in sorted(before.users.keys() | after.users.keys()):
        old, new = dict(before.users.get(name, {})), dict(after.users.get(name, {}))
        if old and new and old["password"] == new["password"] == "set":  # noqa: S105
            new["password"] = "set" if before.tokens[name] == after.tokens[name] else CHANGED
        if old != new:
            package = _maker(name, words) if not old else ""
            found.append(UserChange(name=name, verb=_verb(old, new), before=old, after=new, package=package))
    return found


def group_changes(before: Accounts, after: Accounts, makers: Mapping[str, str]) -> list[GroupChange]:
    """As :func:`user_changes`."""
    found, words = [], _words(makers)
    for name in sorted(before.groups.keys() | after.groups.keys()):
        old, new = dict(before.groups.get(name, {})), dict(after.groups.get(name, {}))
        if old.get("password") == new.get("password") == "set":
            same = before.group_tokens[name] == after.group_tokens[name]
            new["password"] = "set" if same else CHANGED
        if old != new:
            package = _maker(name, words) if not old else ""
            found.append(GroupChange(name=name, verb=_verb(old, new), before=old, after=new, package=package))
    return found


def _words(makers: Mapping[str, str]) -> dict[str, set[str]]:
    """The words of the scripts that make accounts, each with its packages: a guest may have as many accounts
    as it likes. An account whose name is no such word is nobody's, and so is shown."""
    found: dict[str, set[str]] = {}
    for package, script in makers.items():
        if _MAKES_ACCOUNTS.search(script):
            for word in _WORD.findall(script):
                found.setdefault(word, set()).add(package)
    return found


def _verb(old: Mapping[str, str], new: Mapping[str, str]) -> ChangeVerb:
    if not old:
        return ChangeVerb.ADDED
    return ChangeVerb.MODIFIED if new else ChangeVerb.REMOVED


def _maker(name: str, makers: Mapping[str, set[str]]) -> str:
    """The fresh package whose scripts make accounts and name this one, of several the one of its name."""
    found = set(makers.get(name, ()))
    return found.pop() if len(found) == 1 else name if name in found else ""
