"""Settings that many files state and of which one counts: what counts, before and after.

sysctl takes the last of the files in the order of their names, a file in /etc before one of its name
elsewhere; sshd takes the first value that it meets. Files that did not change are read too, or the answer
would be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from backend.changes.settings import access, system
from backend.changes.settings.fact import Fact, Place, Reader, text

_SYSCTL_FOLDERS = (b"/etc/sysctl.d", b"/usr/local/lib/sysctl.d", b"/usr/lib/sysctl.d", b"/lib/sysctl.d")
_MAIN_AS = b"99-sysctl.conf"  # distributions link /etc/sysctl.conf to this name, which places it at boot
_SSHD_FOLDER = b"/etc/ssh/sshd_config.d"
_MAX_INCLUDED = 1_000
_MAX_PATTERNS = 20
_MAX_INCLUDES = 100

Places = Mapping[bytes, Place]


@dataclass(frozen=True)
class Layered:
    """``main`` stands beside the files of ``folders``; ``effective`` tells what counts of all of them."""

    reader: Reader
    main: bytes
    folders: tuple[bytes, ...]
    effective: Callable[[Places], list[Fact]]


def _sysctl(places: Places) -> list[Fact]:
    by_name: dict[bytes, bytes] = {}
    for folder in reversed(_SYSCTL_FOLDERS):
        for path in places:
            if path.rpartition(b"/")[0] == folder:
                by_name[path.rpartition(b"/")[2]] = path
    if system.SYSCTL_MAIN in places:
        by_name.setdefault(_MAIN_AS, system.SYSCTL_MAIN)
    order = [by_name[name] for name in sorted(by_name)]
    found: dict[str, Fact] = {}
    for path in order:
        for name, values in system.sysctl(places[path]):
            found[name] = Fact(name, values, path)
    return list(found.values())


def _sshd(places: Places) -> list[Fact]:
    found: dict[str, Fact] = {}
    words = list(_sshd_words(places))
    overridden = {
        name.removeprefix(access.MATCH_ALL).lower()
        for _, name, _ in words
        if name.startswith(access.MATCH_ALL)
    }
    for path, name, values in words:
        if name.lower() in overridden:
            continue
        name = name.removeprefix(access.MATCH_ALL)
        key = name.lower()
        if access.adds_up(name):
            key += "\0" + values["value"]
        found.setdefault(key, Fact(name, values, path))
    return [Fact(key.partition("\0")[0], fact.values, fact.path, fact.name) for key, fact in found.items()]


def _sshd_words(places: Places) -> Iterator[tuple[bytes, str, dict[str, str]]]:
    """Every word in the order in which the daemon meets them, included files in their place, each once: a
    second time says nothing new. An include of what is not read stands for itself."""
    if access.SSHD_MAIN not in places:
        return
    met = set[bytes]()
    values_met = set[str]()
    for name, values in access.sshd(places[access.SSHD_MAIN]):
        if name.lower() != "include":
            yield access.SSHD_MAIN, name, values
            continue
        if values["value"] in values_met:
            continue
        if len(values_met) == _MAX_INCLUDES:
            yield access.SSHD_MAIN, name, values
            continue
        values_met.add(values["value"])
        for path in _included(values["value"], places):
            if path in met:
                continue
            met.add(path)
            for inner, told in access.sshd(places[path]):
                yield path, inner, told
        unread = [one for one in _patterns(values["value"]) if not _is_read(one)]
        if unread:
            yield access.SSHD_MAIN, name, {"value": " ".join(unread)}


def _patterns(value: str) -> list[str]:
    return [one if one.startswith("/") else f"/etc/ssh/{one}" for one in value.split()]


def _is_read(pattern: str) -> bool:
    """Whether all that a pattern means is among the files of this setting."""
    folder, _, name = pattern.rpartition("/")
    return folder == text(_SSHD_FOLDER) and name.endswith(".conf")


def _included(value: str, places: Places) -> list[bytes]:
    patterns = _patterns(value)[:_MAX_PATTERNS]
    named = {text(path): path for path in places if path != access.SSHD_MAIN}
    found = [named[name] for one in patterns for name in sorted(named) if fnmatchcase(name, one)]
    return found[:_MAX_INCLUDED]


LAYERED = (
    Layered(system.SYSCTL, system.SYSCTL_MAIN, _SYSCTL_FOLDERS, _sysctl),
    Layered(access.SSHD, access.SSHD_MAIN, (_SSHD_FOLDER,), _sshd),
)
FOLDERS = tuple(folder for layered in LAYERED for folder in layered.folders)
MAINS = tuple(layered.main for layered in LAYERED)


def without_effect(layered: Layered, changed: Iterable[Place], effective: Iterable[Fact]) -> Iterator[str]:
    """A sentence for each setting of a changed file that another file overrules."""
    counts: dict[str, list[Fact]] = {}
    winning: dict[str, set[tuple[tuple[str, str], ...]]] = {}
    for fact in effective:
        counts.setdefault(fact.name.lower(), []).append(fact)
        winning.setdefault(fact.name.lower(), set()).add(tuple(sorted(fact.values.items())))
    for place in changed:
        for name, values in layered.reader.parse(place):
            winners = counts.get(name.lower(), [])
            says = tuple(sorted(values.items()))
            if winners and name.lower() != "include" and says not in winning[name.lower()]:
                yield (
                    f"{text(place.path)}: {name} {values['value']} has no effect, "
                    f"{text(winners[0].path)} says {winners[0].values['value']}"
                )
