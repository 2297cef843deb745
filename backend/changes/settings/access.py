"""Who may log in and who may become root: sudo rules, the SSH daemon, authorised keys.

Sources: sudoers(5), sshd_config(5), sshd(8).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

from backend.changes.settings.fact import Place, Reader, Stated, text
from backend.models import SettingKind

_ALIAS = re.compile(r"(?:User|Runas|Host|Cmnd|Cmd)_Alias\b")
_INCLUDE = re.compile(r"[@#]include(?:dir)?\s+(.*)")
_QUOTED_LIST = re.compile(r"(?:\"[^\"]*\"?|[^,\"])+")
_WHO = re.compile(r"((?:\\.|\"[^\"]*\"|[^\s,\\\"]|,\s*)+)\s*(.*)", re.DOTALL)
_KEY_TYPE = re.compile(r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[A-Za-z0-9@.-]+")
MATCH_ALL = "Match all: "  # holds for everybody, and overrides what stands above it
_SSHD_WORD = re.compile(r"\s*\"?([A-Za-z][A-Za-z0-9]*)\"?(?:\s*=\s*|\s+)(.*)")
_SSHD_ARGUMENT = re.compile(r"(?:\"[^\"]*\"?|'[^']*'?|\\.?|[^\s\"'\\])+")
_SSHD_QUOTE = re.compile(r"\"([^\"]*)\"|'([^']*)'|\\([\"'\\ ])")
_SSHD_WHOLE = frozenset(  # the rest of the line is theirs, as it is
    ("authorizedkeyscommand", "authorizedprincipalscommand", "forcecommand", "subsystem", "versionaddendum")
)
# sshd adds up what these say; of all other words the first counts.
_ADDED_UP = frozenset((
    "acceptenv", "allowgroups", "allowusers", "denygroups", "denyusers", "hostkey", "hostcertificate",
    "include", "listenaddress", "port", "permitlisten", "permitopen", "setenv", "subsystem",
))  # fmt: skip


def sudoers(place: Place) -> Iterator[Stated]:
    """Rules by who may, defaults, aliases. A file of ``sudoers.d`` that sudo skips says so."""
    skipped = place.path.startswith(b"/etc/sudoers.d/") and (b"." in place.name or place.name.endswith(b"~"))
    ignored = {"ignored": "sudo skips a file of such a name"} if skipped else {}
    for line in place.lines(joined=True):
        for name, values in _sudo_line(line):
            yield name, values | ignored


def _sudo_line(line: str) -> Iterator[Stated]:
    if match := _INCLUDE.fullmatch(line):
        yield "include", {"path": match[1]}
        return
    line = re.sub(r"(?<![\\#])#(?![0-9]).*", "", line).strip()
    if not line:
        return
    if line.startswith("Defaults"):
        scope, *setting = line.split(None, 1)
        for one in _QUOTED_LIST.findall("".join(setting)):
            yield scope, {"sets": one.strip()}
    elif match := _ALIAS.match(line):
        for one in line[match.end() :].split(":"):
            name, _, means = one.partition("=")
            yield f"{match[0]} {name.strip()}", {"means": " ".join(means.split())}
    elif match := _WHO.fullmatch(line):
        yield match[1], {"may": " ".join(match[2].split())}


def sshd(place: Place) -> Iterator[Stated]:
    """Words of one file in their order; those below a ``Match`` carry it in their name."""
    below = ""
    for line in place.lines():
        if line.startswith("#") or not (match := _SSHD_WORD.fullmatch(line)):
            continue
        word, value = match[1], " ".join(match[2].split())
        if word.lower() == "match":
            below = MATCH_ALL if value.lower() == "all" else f"Match {value}: "
            continue
        if word.lower() not in _SSHD_WHOLE:
            value = _arguments(match[2])
        yield f"{below}{word}", {"value": value}


def _arguments(value: str) -> str:
    """The words without their quotes, up to a remark."""
    words = []
    for found in _SSHD_ARGUMENT.finditer(value):
        if found[0].startswith("#"):
            break
        words.append(_SSHD_QUOTE.sub(lambda one: one[1] or one[2] or one[3] or "", found[0]))
    return " ".join(words)


def adds_up(name: str) -> bool:
    """Whether the daemon takes all values of a word and not the first."""
    return name.rpartition(": ")[2].lower() in _ADDED_UP


def login_keys(place: Place) -> Iterator[Stated]:
    """Who may log in with which key: by fingerprint, as ``ssh-keygen -l`` tells it."""
    user = _account(place.path)
    for line in place.lines():
        if line.startswith("#"):
            continue
        options, kind, blob, comment = _key_line(line)
        if not kind:
            yield f"{user}: not a key", {"line": line}
            continue
        values = {"type": kind, "comment": comment}
        yield f"{user} {_fingerprint(blob)}", values | ({"options": options} if options else {})


def _account(path: bytes) -> str:
    home = path.rpartition(b"/.ssh/")[0]
    return text(home.rpartition(b"/")[2] or home)


def _key_line(line: str) -> tuple[str, str, str, str]:
    """Options, type, key, comment; an empty type where there is no key."""
    options, rest = "", line
    if not _KEY_TYPE.match(line):
        options, rest = _options(line)
    kind, blob, comment, *_ = [*rest.split(None, 2), "", "", ""]
    if not _KEY_TYPE.fullmatch(kind) or not blob:
        return "", "", "", ""
    return options, kind, blob, comment.strip()


def _options(line: str) -> tuple[str, str]:
    """The options of a key, up to the first space that is not quoted, and what follows."""
    quoted = escaped = False
    for at, char in enumerate(line):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif char in " \t" and not quoted:
            return line[:at], line[at:].strip()
    return "", ""


def _fingerprint(blob: str) -> str:
    try:
        data = base64.b64decode(blob.encode("ascii", "replace"), validate=True)
    except (binascii.Error, ValueError):
        return "of a damaged key"
    return "SHA256:" + base64.b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


SSHD_MAIN = b"/etc/ssh/sshd_config"
SSHD = Reader(SettingKind.SSHD, re.compile(rb"/etc/ssh/sshd_config(?:\.d/[^/]+\.conf)?", re.DOTALL), sshd)
READERS = (
    Reader(SettingKind.SUDO, re.compile(rb"/etc/sudoers(?:\.d/[^/]+)?", re.DOTALL), sudoers, ordered=True),
    Reader(SettingKind.LOGIN_KEY, re.compile(rb"/.*/\.ssh/authorized_keys2?", re.DOTALL), login_keys),
)
