"""Where in the folders of services' state, logs, caches and backups commands may have worked, by their words.

Rather too much than too little: what a command may have put there is somebody's work, and shown.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator

from backend.changes.attribution import Timeline
from backend.models import Command

MAX_PLACES = 50
"""Of one command; with more it may have worked anywhere."""
MAX_DEPTH = 12
MAX_CHARS = 512
_UNDER_ROOT = re.compile(r"(?:/|(?<![\w.-]))var/(?:lib|cache|spool)(?![\w.-])[^\s'\"|&;<>()]*")
_KEPT_ASIDE = re.compile(
    r"(?<![\w.$}/-])/(?:var/(?:log|cache|backups)|(?:root|home/[^/\s]{1,64})/\.cache)/[^\s'\"|&;<>()]*"
)
_CHOICE = re.compile(r"(.*?)\{([^{}]*,[^{}]*)\}(.*)", re.DOTALL)
_AROUND = re.compile(r"(?<![^\s'\"=:(])(?:/(?:var)?/?(?=$|[\s'\"|&;<>()*?{$])|~[a-z_])")
_EXPANDS = re.compile(r"[$`*?\[\]{}\\]")
_CLIMBS = re.compile(r"(?<![^\s/'\"=])\.\.(?![^\s/'\"])")
_STEP = re.compile(r"&&|\|\||;|\n|(?<![&>])&(?![&>])")
_SILENCED = re.compile(r"[12&]?>{1,2}\s*/dev/null|2>&1")
_WRITES = re.compile(r"[<>`]|\$\(|\s-(?:delete|exec|ok|fprint|fls)")
_READERS = re.compile(
    r"(?:\S*/)?(?:cat|cksum|cut|df|du|echo|file|find|getfacl|grep|head|ls|lsattr|md5sum|namei|od|printf|readlink"
    r"|realpath|sha256sum|sha512sum|sleep|stat|tail|test|tr|true|wc|zcat)"
)
_GOES = re.compile(r"[({\s]*cd\s+(?:--\s+)?['\"]?([^\s'\"]+)['\"]?")
_OUTLIVES = re.compile(r"(?<![&>])&(?=\s|$|\))|\b(?:nohup|setsid|disown|systemd-run|screen|tmux)\b")
_INSTALLS = re.compile(r"\b(?:apt|apt-get|aptitude|dpkg|dpkg-reconfigure|gdebi)\b")


class Naming:
    """The commands that name a place in a folder of state, around one or within one, and when they ran."""

    def __init__(self, commands: Iterable[Command]) -> None:
        here: dict[tuple[str, bool], list[Command]] = {}
        within: dict[tuple[str, bool], list[Command]] = {}
        for command in commands:
            places = set(named(command))
            places = {"/"} if len(places) > MAX_PLACES else places
            installs = _INSTALLS.search(command.command) is not None
            if places and _OUTLIVES.search(command.command):
                command = command.model_copy(update={"ended_at": None})
            for place in places:
                here.setdefault((place, installs), []).append(command)
            for folder in {folder for place in places for folder in _folders(place)}:
                within.setdefault((folder, installs), []).append(command)
        self._here = {key: Timeline(found) for key, found in here.items()}
        self._within = {key: Timeline(found) for key, found in within.items()}

    def at_work(self, path: str, at_ns: int | None, *, by_scripts: bool) -> bool:
        """Whether a command that names the path, a folder around it or something in it ran at a moment; or
        at any, where that is not known. ``by_scripts``: packages' scripts ran just then, so that a command
        that installs packages was busy with these."""
        for installs in (False,) if by_scripts else (False, True):
            found = [self._here.get((place, installs)) for place in (path, *_folders(path), "/var", "/")]
            found.append(self._within.get((path, installs)))
            if any(one is not None and (at_ns is None or one.at(at_ns)) for one in found):
                return True
        return False


def named(command: Command) -> Iterator[str]:
    """The files and folders of services' state that a command names, those aside that it only reads; ``/``
    where it may work around them all."""
    if command.metadata.get("kind") == "file":
        yield _bounded(command.command.partition(" ")[2])
        return
    steps = working(command.command)
    if all(step.startswith("cd ") for step in steps):
        return
    for step in (*steps, str(command.metadata.get("work_dir", ""))):
        for match in _UNDER_ROOT.finditer(step):
            yield from _places(step, match)
    if any(map(_CLIMBS.search, steps)):
        yield from ("/var/lib", "/var/cache", "/var/spool")
    if any(map(_AROUND.search, steps)):
        yield "/"


def folders_named(commands: Iterable[Command]) -> set[str]:
    """The folders of logs, caches and backups that commands name, or something in them, those aside that they
    only read. When is not asked: a folder's times are of what a service made in it last."""
    found: set[str] = set()
    for command in commands:
        for step in _where_it_stands(command):
            for match in _KEPT_ASIDE.finditer(" ".join(map(_chosen, step.split(" ")))):
                is_open = _EXPANDS.search(match[0])
                path = match[0][: is_open.start()].rpartition("/")[0] if is_open else match[0]
                path = _bounded(path)
                found |= {path, *_folders(path)}
    return found


def _where_it_stands(command: Command) -> Iterator[str]:
    """Its steps; those that stand in a folder of logs, caches or backups with their words as paths there
    too."""
    if command.metadata.get("kind") == "file":
        yield command.command.partition(" ")[2]
        return
    folder = str(command.metadata.get("work_dir", ""))
    for step in working(command.command):
        if goes := _GOES.fullmatch(step):
            folder = posixpath.join(folder, goes[1])
            continue
        yield step
        if len(folder) <= MAX_CHARS and _KEPT_ASIDE.match(f"{folder}/"):
            words = (word.strip("'\"") for word in step.split())
            yield " ".join(f"{folder}/{word}" for word in words if word[:1] not in ("/", "-", ""))


def _chosen(word: str) -> str:
    """``a{b,c}d`` as ``abd acd``."""
    match = _CHOICE.fullmatch(word) if len(word) <= MAX_CHARS else None
    return " ".join(match[1] + one + match[3] for one in match[2].split(",")) if match else word


def working(text: str) -> list[str]:
    """The simple commands and pipes of a command, without those that only read."""
    steps = [step.strip() for step in _STEP.split(text.replace("\\\n", " "))]
    return [step for step in steps if step and not _only_reads(step)]


def _places(step: str, match: re.Match[str]) -> Iterator[str]:
    """The path of a word, cut where only a shell knows how it goes on; in a list, its parts too."""
    path = "/" + match[0].lstrip("/")
    is_open = step[match.start() - 1 : match.start()] in ("'", '"') and step[match.end() :][:1].isspace()
    if is_open or _EXPANDS.search(path):
        path = _EXPANDS.split(path, maxsplit=1)[0].rpartition("/")[0]
    yield _bounded(path)
    parts = re.split("[,:]", match[0]) if re.search("[,:]", path) else []
    for part in parts:
        if inner := _UNDER_ROOT.search(part):
            yield from _places(part, inner)


def _bounded(path: str) -> str:
    """The path, or a folder around it that is not too far down."""
    is_long = len(path) > MAX_CHARS
    path = path[:MAX_CHARS].rpartition("/")[0] if is_long else path
    return "/".join(posixpath.normpath(path).split("/")[: MAX_DEPTH + 1]) or "/"


def _only_reads(step: str) -> bool:
    """Whether a pipe of simple commands writes nothing, as far as their names tell."""
    step = _SILENCED.sub(" ", step)
    programs = [part.split() for part in step.split("|")]
    return not _WRITES.search(step) and all(
        words and _READERS.fullmatch(words[0]) is not None for words in programs
    )


def _folders(path: str) -> Iterator[str]:
    """The folders around a path, up to ``/var/lib`` and its like."""
    while (path := posixpath.dirname(path)) not in ("/", "/var", ""):
        yield path
