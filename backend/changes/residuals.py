"""The sandbox against the rehearsal, both ways: what is missing, what is extra, what was made anew.

Pure. Compares where both ended, never when. What both sides hide as noise is left out; what one shows, the
other answers for even where it hides it.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from backend.file_rights import words as right_words
from backend.models import (
    Changes,
    FileChange,
    FileKind,
    FileState,
    GroupChange,
    PackageChange,
    ResidualRow,
    SettingChange,
    UnitChange,
    UserChange,
)

MISSING, EXTRA, REGENERATED = "missing", "extra", "regenerated"
_DECLARED = (
    "subject",
    "issuer",
    "names",
    "extensions",
    "key",
    "private_key",
    "public_key",
    "request",
    "self_signed",
    "certificates",
    "chain",
)
_TABLES = {"/etc/aliases.db": "/etc/aliases"}
_REHASHED = re.compile(r"[0-9a-f]{8}(\.[0-9]+)?")
_SYSTEM_IDS = range(100, 1000)
_NEXT_FREE = "of the system"
_NOTHING = "as in the source"
_GONE = "not there"

Thing = TypeVar("Thing", PackageChange, UnitChange, UserChange, GroupChange)


def residual(sandbox: Changes, rehearsal: Changes) -> list[ResidualRow]:
    """Rows of kind ``missing``, ``extra`` and ``regenerated``, by noun and name."""
    packages = _packages(sandbox.packages, rehearsal.packages)
    rows = [
        *_compare("package", *packages, _by(_package), _package),
        *_compare("unit", *_named(sandbox.units, rehearsal.units), _by(_unit), _unit),
        *_compare("user", *_named(_users(sandbox), _users(rehearsal)), _accounts, _account_words),
        *_compare("group", *_named(_groups(sandbox), _groups(rehearsal)), _accounts, _account_words),
    ]
    unlike = {row.name for row in rows if row.noun == "package"}
    other_version = {one.name for side in packages for label, one in side.items() if label in unlike}
    rows += _files(sandbox, rehearsal, other_version)
    rows += _settings(sandbox, rehearsal)
    return rows


def _compare(
    noun: str,
    mine: Mapping[str, Thing],
    theirs: Mapping[str, Thing],
    same: Callable[[Thing, Thing], bool],
    words: Callable[[Thing], object],
) -> list[ResidualRow]:
    rows: list[ResidualRow] = []
    for key in sorted(mine.keys() | theirs.keys()):
        one, other = mine.get(key), theirs.get(key)
        if one is not None and other is not None and same(one, other):
            continue
        rows += _rows(
            noun, key, str(words(one)) if one else _NOTHING, str(words(other)) if other else _NOTHING
        )
    return rows


def _named(sandbox: Iterable[Thing], rehearsal: Iterable[Thing]) -> tuple[dict[str, Thing], dict[str, Thing]]:
    """The changes of each side by name."""
    return {change.name: change for change in sandbox}, {change.name: change for change in rehearsal}


def _rows(noun: str, name: str, sandbox: str, rehearsal: str) -> list[ResidualRow]:
    """A row for what only one of the two has; two rows where both have it and differ."""
    rows = []
    if sandbox != _NOTHING:
        reason = "the playbook does not do it" if rehearsal == _NOTHING else "the playbook does it otherwise"
        rows.append(_row(MISSING, noun, name, reason, sandbox, rehearsal))
    if rehearsal != _NOTHING:
        reason = "the sandbox never had it" if sandbox == _NOTHING else "the sandbox has it otherwise"
        rows.append(_row(EXTRA, noun, name, reason, sandbox, rehearsal))
    return rows


def _row(kind: str, noun: str, name: str, reason: str, sandbox: str, rehearsal: str) -> ResidualRow:
    return ResidualRow(kind=kind, noun=noun, name=name, reason=reason, sandbox=sandbox, rehearsal=rehearsal)


# --- files -------------------------------------------------------------------------------------------------


def _files(sandbox: Changes, rehearsal: Changes, other_version: set[str]) -> list[ResidualRow]:
    mine, theirs = ({change.path: change for change in side.files} for side in (sandbox, rehearsal))
    shown = {change.path for changes in (sandbox, rehearsal) for change in changes.shown()}
    keys = _keys(sandbox), _keys(rehearsal)
    anew = {path for path in mine.keys() & theirs.keys() if _made_anew(mine[path], theirs[path], keys)}
    rows: list[ResidualRow] = []
    for path in sorted(shown):
        one, other = mine.get(path), theirs.get(path)
        packages = {change.package for change in (one, other) if change is not None}
        if packages <= other_version:
            continue  # the package's own row says it
        if one is None or other is None:
            if not _named_for(path, one or other, anew):
                rows += _rows("file", path, _file_words(one), _file_words(other))
        elif _file(one.after) != _file(other.after) or _unhashed(one.after):
            if path in anew:
                rows.append(_anew_row(path, one.after, other.after))
            elif source := _table_of(path, mine, theirs):
                words = _state_words(one.after), _state_words(other.after)
                reason = f"made of {source}, which is the same; it holds its own place on the disk"
                rows.append(_row(REGENERATED, "file", path, reason, *words))
            else:
                rows += _rows("file", path, _file_words(one), _file_words(other))
    return rows


def _table_of(path: str, mine: Mapping[str, FileChange], theirs: Mapping[str, FileChange]) -> str:
    """The text that a table was made of, where both sides have that text, and a table of the same size and
    owner: a Berkeley DB holds its file's number."""
    source = _TABLES.get(path, "")
    one, other, table, its_like = (
        change.after if (change := side.get(name)) else None
        for name in (source, path)
        for side in (mine, theirs)
    )
    if not (one and other and table and its_like) or _file(one) != _file(other) or _unhashed(one):
        return ""
    alike = _placed(table) == _placed(its_like) and table.size == its_like.size
    return source if alike else ""


def _named_for(path: str, change: FileChange | None, anew: Collection[str]) -> bool:
    """A link that openssl-rehash(1) names for the subject of a certificate that is told as made anew."""
    state = change.after if change is not None else None
    folder, _, name = path.rpartition("/")
    return (
        state is not None
        and state.kind is FileKind.LINK
        and _REHASHED.fullmatch(name) is not None
        and posixpath.normpath(posixpath.join(folder, state.target or "")) in anew
    )


def _file(state: FileState | None) -> tuple[object, ...]:
    if state is None:
        return ()
    return (*_placed(state), state.target, state.sha256, state.size, state.same_file)


def _placed(state: FileState) -> tuple[object, ...]:
    """Kind, mode, attributes, and owners by name: numbers may differ between machines."""
    owner, group = state.owner or str(state.uid), state.group or str(state.gid)
    return state.kind, state.mode, state.device, owner, group, tuple(sorted(state.xattrs.items()))


def _unhashed(state: FileState | None) -> bool:
    """A file too large to be hashed is never called equal."""
    return state is not None and state.kind is FileKind.FILE and state.sha256 is None


def _keys(changes: Changes) -> set[str]:
    """The public halves of the private keys among what changed."""
    states = (change.after for change in changes.files)
    return {_half(state) for state in states if state is not None and _is_key(state)} - {""}


def _made_anew(one: FileChange, other: FileChange, keys: tuple[set[str], set[str]]) -> bool:
    """Whether two keys, or two that belong to a key made anew on their own machine, declare the same. A key
    that somebody may log in with, and a certificate that is trusted, belong to none: their content counts.
    What one package's script makes on each machine may name the machine."""
    mine, theirs = one.after, other.after
    if mine is None or theirs is None or _placed(mine) != _placed(theirs):
        return False
    ours = all(
        bool(state.certificate) and (_is_key(state) or _half(state) in side)
        for state, side in zip((mine, theirs), keys, strict=True)
    )
    if one.package and one.package == other.package:
        return ours or mine.secret == theirs.secret != ""
    return ours and _declared(mine) == _declared(theirs)


def _is_key(state: FileState) -> bool:
    return "key" in state.secret


def _half(state: FileState) -> str:
    return (state.certificate or {}).get("public", "")


def _declared(state: FileState) -> dict[str, str]:
    facts = state.certificate or {}
    found = {name: facts[name] for name in _DECLARED if name in facts}
    if "not_before" in facts and "not_after" in facts:
        lasts = datetime.fromisoformat(facts["not_after"]) - datetime.fromisoformat(facts["not_before"])
        found["days"] = str(lasts.days)
    return found


def _anew_row(path: str, one: FileState | None, other: FileState | None) -> ResidualRow:
    return _row(
        REGENERATED,
        "file",
        path,
        "made anew on each machine, declares the same",
        _state_words(one),
        _state_words(other),
    )


def _file_words(change: FileChange | None) -> str:
    return _NOTHING if change is None else _state_words(change.after)


def _state_words(state: FileState | None) -> str:
    """A state in one line; a secret by what it declares, never by its fingerprint."""
    if state is None:
        return _GONE
    owner, group = state.owner or str(state.uid), state.group or str(state.gid)
    words = [state.kind.value, f"{state.mode:04o}", f"{owner}:{group}"]
    if state.target is not None:
        words.append(f"→ {state.target}")
    if state.certificate:
        words.append(", ".join(f"{name} {value}" for name, value in _declared(state).items()))
    elif state.secret:
        words.append(state.secret)
    elif state.kind is FileKind.FILE:
        words.append(f"{state.size} bytes")
        words.append(state.sha256[:12] if state.sha256 else "content not compared")
    words += [f"{name}={right_words(name, value)}" for name, value in sorted(state.xattrs.items())]
    words += [f"one file with {', '.join(state.same_file)}"] if state.same_file else []
    return " ".join(words)


# --- what files state ---------------------------------------------------------------------------------------


def _settings(sandbox: Changes, rehearsal: Changes) -> list[ResidualRow]:
    """What a file states that noise hides; of all others the file itself is compared."""
    hidden = {change.path for changes in (sandbox, rehearsal) for change in changes.files if change.hidden}
    hidden -= {change.path for changes in (sandbox, rehearsal) for change in changes.shown()}
    sides = [
        [one for one in changes.settings if hidden.issuperset(one.paths)] for changes in (sandbox, rehearsal)
    ]
    rows: list[ResidualRow] = []
    named: list[dict[tuple[str, str], list[SettingChange]]] = [defaultdict(list), defaultdict(list)]
    for by_name, side in zip(named, sides, strict=True):
        for change in side:
            by_name[change.kind, change.name].append(change)
    for kind, name in sorted({(one.kind, one.name) for side in sides for one in side if not one.hidden}):
        alike = [by_name.get((kind, name), []) for by_name in named]
        shown = [[_stated(one) for one in side if not one.hidden] for side in alike]
        # What one side takes for the machine's own counts where the other side means it.
        quiet = [{_stated(one) for one in side if one.hidden} for side in alike]
        ends = [sorted([*shown[at], *(quiet[at].intersection(shown[1 - at]))]) for at in (0, 1)]
        if ends[0] != ends[1]:
            one, other = ("; ".join(end) or _NOTHING for end in ends)
            rows += _rows(kind.value, name, one, other)
    return rows


def _stated(change: SettingChange) -> str:
    """Where a setting ended."""
    return ", ".join(f"{name} {value}" for name, value in sorted(change.after.items())) or _GONE


# --- the other nouns ---------------------------------------------------------------------------------------


def _packages(
    sandbox: Sequence[PackageChange], rehearsal: Sequence[PackageChange]
) -> tuple[dict[str, PackageChange], dict[str, PackageChange]]:
    """The changes of each side by name; with the architecture where a name has several, and with the version
    where one side changed several (kernels stand beside each other)."""
    arches: dict[str, set[str]] = defaultdict(set)
    for one in (*sandbox, *rehearsal):
        arches[one.name].add(one.arch)
    counts = (Counter((one.name, one.arch) for one in side) for side in (sandbox, rehearsal))
    several = {key for count in counts for key, times in count.items() if times > 1}

    def label(one: PackageChange) -> str:
        version = one.after_version or one.before_version
        words = [one.name, version] if (one.name, one.arch) in several else [one.name]
        return " ".join([*words, f"({one.arch})"] if len(arches[one.name]) > 1 else words)

    return {label(one): one for one in sandbox}, {label(one): one for one in rehearsal}


def _package(change: PackageChange) -> str:
    if not change.after_version:
        return _GONE
    return f"{change.after_version} {'asked for' if change.wanted else 'pulled in'}"


def _unit(change: UnitChange) -> str:
    state = change.after
    words = ["enabled" if state.enabled else "not enabled"]
    words += ["masked"] if state.masked else []
    return " ".join(words) if state.defined or state.enabled or state.masked else _GONE


def _by(words: Callable[[Thing], str]) -> Callable[[Thing, Thing], bool]:
    return lambda one, other: words(one) == words(other)


def _accounts(one: UserChange | GroupChange, other: UserChange | GroupChange) -> bool:
    """Whether both ended alike in all that one of them changed: where a roll back leads, a target's account
    may have more than the twin's. A package's script takes the next free number, which means nothing."""
    if bool(one.package) != bool(other.package):
        return False
    names = {name for change in (one, other) for side in (change.before, change.after) for name in side}
    return not any(
        one.after.get(name) != other.after.get(name) and (_is_moved(one, name) or _is_moved(other, name))
        for name in names - ({"uid", "gid"} if one.package else set())
    )


def _users(changes: Changes) -> list[UserChange]:
    """The users, of new system accounts without the number that the machine chose; groups by their names."""
    names = {one.after["gid"]: one.name for one in changes.groups if _is_new_of_system(one, "gid")}
    found = []
    for user in changes.users:
        after = dict(user.after)
        if _is_new_of_system(user, "uid"):
            after["uid"] = _NEXT_FREE
        if after.get("gid") in names:
            after["gid"] = f"of {names[after['gid']]}"
        found.append(user.model_copy(update={"after": after}))
    return found


def _groups(changes: Changes) -> list[GroupChange]:
    return [
        one.model_copy(update={"after": {**one.after, "gid": _NEXT_FREE}})
        if _is_new_of_system(one, "gid")
        else one
        for one in changes.groups
    ]


def _is_new_of_system(change: UserChange | GroupChange, number: str) -> bool:
    """Made in the range that login.defs(5) leaves to the machine; root and its kin are below."""
    value = change.after.get(number, "")
    return not change.before and value.isdigit() and int(value) in _SYSTEM_IDS


def _is_moved(change: UserChange | GroupChange, name: str) -> bool:
    return change.before.get(name) != change.after.get(name)


def _account_words(change: UserChange | GroupChange) -> str:
    return ", ".join(f"{name} {value}" for name, value in change.after.items() if value) or _GONE
