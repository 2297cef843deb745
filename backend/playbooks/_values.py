"""Rule P5, the value side: what an argument of each kind may be. Pure predicates, no I/O."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass

MAX_TEXT = 16_384
NOT_OF_THE_DISK = ("/proc", "/sys", "/dev", "/run", "/var/run", "/var/lock")

_OWNER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?|[0-9]{1,10}")
# dnf takes a name that ends so for a file, whose signature it does not look at.
_PACKAGE = re.compile(
    r"(?!.*\.(?:rpm|deb)\Z)"
    r"[A-Za-z0-9][A-Za-z0-9+._-]{0,127}(:[a-z0-9-]{1,20})?(=[A-Za-z0-9.+:~-]{1,64})?(/[a-z0-9-]{1,40})?"
)
# One that starts with '-' is an option to systemctl: -Hroot@host has it log in there.
_UNIT = re.compile(r"(?!-)[A-Za-z0-9:_.\\-]{1,200}(@[A-Za-z0-9:_.\\-]{0,100})?")
# pip takes what holds a slash, or ends as an archive, for one in its folder: /tmp, where anybody writes.
_NO_ARCHIVE = r"(?i:(?!.*\.(?:whl|zip|tar|tar\.[a-z0-9]+|t[a-z]z|tbz2?)\Z))"
_PYTHON_PACKAGE = re.compile(_NO_ARCHIVE + r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PYTHON_VERSION = re.compile(_NO_ARCHIVE + r"[0-9][A-Za-z0-9.!+_-]{0,63}")
_MODE = re.compile(r"0?[0-7]{3,4}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_CRON_FIELD = re.compile(r"[0-9A-Za-z*/,-]{1,60}")
_DOTTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,127}")


@dataclass(frozen=True)
class Kind:
    """What an argument may be. ``many``: one or a list. ``fact``/``secret``: may come from one."""

    word: str
    holds: Callable[[object], bool]
    many: bool = False
    fact: bool = False
    secret: bool = False


def is_path(value: object) -> bool:
    """Absolute, normalised, not the root, and literal: Ansible expands ``$`` in every path on the target."""
    return (
        isinstance(value, str)
        and value.startswith("/")
        and not value.startswith("//")
        and value != "/"
        and posixpath.normpath(value) == value
        and "$" not in value
        and len(value) < 4096
        and not _CONTROL.search(value)
        and "\n" not in value
    )


def is_written(value: object) -> bool:
    """A path where a task may write: what is not of the disk has other names for all that is."""
    return is_path(value) and not f"{value}/".startswith(tuple(f"{folder}/" for folder in NOT_OF_THE_DISK))


def is_home(value: object) -> bool:
    """A home may lie where nothing is kept, as /dev/null and /run/x, but has no other name for a folder."""
    return is_path(value) and not f"{value}/".startswith(("/proc/", "/sys/"))


def is_guard(value: object) -> bool:
    """A path for ``creates``: a pattern there would match something else than was meant."""
    return is_path(value) and not re.search(r"[*?\[\]]", str(value))


def is_text(value: object) -> bool:
    return not isinstance(value, bool) and _fits(str(value))


def is_line(value: object) -> bool:
    return isinstance(value, str) and _fits(value) and "\n" not in value


def _fits(value: str) -> bool:
    return len(value) <= MAX_TEXT and not _CONTROL.search(value)


def _pattern(regex: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and regex.fullmatch(value) is not None


def _is_apt_line(value: object) -> bool:
    """A ``deb`` line. ``trusted`` and ``allow-insecure`` would switch signatures off, and apt reads them
    through quotes and %XX, too (ParseQuoteWord)."""
    line = str(value)
    hidden = any(sign in line for sign in ("trusted", "insecure", '"', "%"))
    return is_line(value) and line.startswith(("deb ", "deb-src ")) and not hidden


def is_link_target(value: object) -> bool:
    """Any text that the target's own ``expanduser`` and ``expandvars`` leave alone."""
    return is_line(value) and bool(value) and "$" not in str(value) and not str(value).startswith("~")


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 - 1


def whole(low: int, high: int) -> Kind:
    """A whole number in a range."""
    return Kind(
        f"a whole number from {low} to {high}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
    )


def choice(*words: str) -> Kind:
    """One of a few words."""
    return Kind("one of " + ", ".join(words), lambda value: value in words)


def only(value: bool) -> Kind:
    """A switch that may stand one way only."""
    return Kind(str(value).lower(), lambda given: given is value)


def several(kind: Kind) -> Kind:
    """One of the kind, or a list of them."""
    return Kind(kind.word, kind.holds, many=True, fact=kind.fact, secret=kind.secret)


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
PATH = Kind("an absolute, normalised path without '$'", is_path)
WRITTEN = Kind(f"{PATH.word}, outside of {', '.join(NOT_OF_THE_DISK)}", is_written)
HOME = Kind(f"{PATH.word}, outside of /proc and /sys", is_home)
GUARD = Kind("an absolute, normalised path without '$', '*', '?' or '['", is_guard)
LINK_TARGET = Kind("the target of a link, without '$'", is_link_target)
MODE = Kind('a quoted octal mode such as "0644"', _pattern(_MODE))
OWNER = Kind("a user or group name, or a quoted number", _pattern(_OWNER))
ID = Kind("a user or group number", _is_id)
PACKAGE = Kind("a package name (no file, no URL, no pattern)", _pattern(_PACKAGE))
PACKAGE_OR_ALL = Kind(f"{PACKAGE.word}, or '*' for all", lambda value: value == "*" or PACKAGE.holds(value))
PYTHON_PACKAGE = Kind("the name of a package of Python (no file, no URL)", _pattern(_PYTHON_PACKAGE))
PYTHON_VERSION = Kind("a version that begins with a digit", _pattern(_PYTHON_VERSION))
GROUPS = Kind("the names of groups, or '' for none", lambda value: value == "" or OWNER.holds(value))
UNIT = Kind("the name of a systemd unit", _pattern(_UNIT))
TEXT = Kind("text without control characters", is_text, fact=True)
LINE = Kind("one line of text", is_line, fact=True)
WORD = Kind("a word of letters, digits and ._:/+-", _pattern(_DOTTED))
FILE_NAME = Kind("a plain file name", _pattern(_FILE_NAME))
CRON_FIELD = Kind("a field of a cron line", _pattern(_CRON_FIELD))
APT_LINE = Kind("a 'deb ' line without trusted=, allow-insecure=, quotes and %", _is_apt_line)
SECRET = Kind("a declared secret", lambda value: False, secret=True)
LOCKED = Kind("a declared secret, '!' or '*'", lambda value: value in ("!", "*", "!!"), secret=True)
SECRET_LINE = Kind("one line of text or a declared secret", is_line, fact=True, secret=True)
