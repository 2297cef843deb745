"""What runs by itself: cron jobs, and systemd units with their timers and drop-ins.

Sources: crontab(5), cron(8), run-parts(8), anacrontab(5), systemd.unit(5), systemd.syntax(7).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from backend.changes.settings.fact import Place, Reader, Stated, text
from backend.models import SettingKind

_SUFFIX = rb"\.(?:service|socket|timer|path|mount|automount|swap|target|slice)"
_FOLDERS = rb"(?:/etc|/usr/lib|/usr/local/lib|/lib)/systemd/(?:system|user)/"
_ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_FIELDS = re.compile(r"(@[a-z]+|(?:\S+\s+){4}\S+)\s+(.*)", re.DOTALL)
_EXECUTABLE = 0o111
_RUN_PARTS = re.compile(r"[A-Za-z0-9_-]+")


def unit(place: Place) -> Iterator[Stated]:
    """A unit file or drop-in: ``Section.Key`` to what is assigned, in order."""
    values: dict[str, list[str]] = {}
    section = ""
    for line in place.lines(joined=True):
        if line[0] in "#;":
            continue
        if line[0] == "[" and line[-1] == "]":
            section = line[1:-1]
            continue
        key, separator, value = line.partition("=")
        if separator:
            values.setdefault(f"{section}.{key.strip()}", []).append(value.strip())
    if values:
        yield _unit_name(place.path), {name: "; ".join(told) for name, told in values.items()}


def _unit_name(path: bytes) -> str:
    """``x.service``, or ``x.service limits.conf`` for a drop-in."""
    *_, folder, name = path.split(b"/")
    words = [folder.removesuffix(b".d"), name] if folder.endswith(b".d") else [name]
    shown = text(b" ".join(words))
    return f"{shown} of users" if b"/systemd/user/" in path else shown


def system_table(place: Place) -> Iterator[Stated]:
    """A crontab with a user in each line."""
    yield from _table(place, user=None)


def user_table(place: Place) -> Iterator[Stated]:
    """A crontab of the user it is named for."""
    yield from _table(place, user=text(place.name))


def _table(place: Place, user: str | None) -> Iterator[Stated]:
    settings: dict[str, str] = {}
    for line in place.lines():
        if line.startswith("#"):
            continue
        if match := _ASSIGNED.fullmatch(line):
            settings[match[1]] = match[2]
            continue
        if not (match := _FIELDS.fullmatch(line)):
            yield line, {"schedule": "not a cron line"}
            continue
        who, command = (user, match[2]) if user else _split(match[2])
        when = " ".join(match[1].split())
        yield command, {"schedule": when, "user": who or "", **settings}


def _split(rest: str) -> tuple[str, str]:
    who, _, command = rest.partition(" ")
    if "\t" in who:
        who, _, command = rest.partition("\t")
    return who, command.strip()


def script(place: Place) -> Iterator[Stated]:
    """A file of ``cron.daily`` and the like, which run-parts runs only when it is executable and its name
    holds nothing but letters, digits, ``_`` and ``-``."""
    if place.name == b".placeholder" or (place.data is None and place.target is None):
        return
    every = text(place.path.split(b"/")[2]).removeprefix("cron.")
    name = text(place.name)
    if not _RUN_PARTS.fullmatch(name):
        runs = "never: run-parts skips such a name"
    elif place.target is None and not place.mode & _EXECUTABLE:
        runs = "never: it is not executable"
    else:
        runs = every
    values = {"runs": runs}
    if place.target is not None:
        values["link"] = text(place.target)
    yield text(place.path), values


def anacron(place: Place) -> Iterator[Stated]:
    """``anacrontab``: period in days, delay in minutes, a name, a command."""
    for line in place.lines():
        words = line.split(None, 3)
        if line.startswith("#") or _ASSIGNED.fullmatch(line) or len(words) < 4:
            continue
        yield words[3], {"schedule": f"every {words[0]} days, {words[1]} minutes late", "name": words[2]}


def once(place: Place) -> Iterator[Stated]:
    """A job of at(1)."""
    if place.data is not None:
        yield text(place.path), {"runs": "once"}


def _reader(kind: SettingKind, pattern: bytes) -> Reader:
    return Reader(kind, re.compile(pattern, re.DOTALL), unit)


READERS = (
    _reader(SettingKind.DROP_IN, _FOLDERS + rb"[^/]+\.d/[^/]+\.conf"),
    _reader(SettingKind.TIMER, _FOLDERS + rb"[^/]+\.timer"),
    _reader(SettingKind.UNIT, _FOLDERS + rb"[^/]+" + _SUFFIX),
    Reader(SettingKind.CRON, re.compile(rb"/etc/crontab|/etc/cron\.d/[A-Za-z0-9_-]+"), system_table),
    Reader(SettingKind.CRON, re.compile(rb"/var/spool/cron/(?:crontabs/)?[^/]+"), user_table),
    Reader(
        SettingKind.CRON,
        re.compile(rb"/etc/cron\.(?:hourly|daily|weekly|monthly)/[^/]+", re.DOTALL),
        script,
        links=True,
    ),
    Reader(SettingKind.CRON, re.compile(rb"/etc/anacrontab"), anacron),
    Reader(SettingKind.CRON, re.compile(rb"/var/spool/(?:cron/atjobs|at)/[^/]+", re.DOTALL), once),
)
