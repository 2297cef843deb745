"""A fact that a file states, and the difference of two lists of facts. Pure.

A fact's text is a guest's: decoded without loss while it is compared, made JSON-safe, cut and without
passwords when it becomes a change.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from backend.models import ChangeVerb, SettingKind

MAX_FILE_BYTES = 256 << 10
MAX_LINES = 20_000
MAX_LINE_CHARS = 8_000
MAX_VALUE_CHARS = 1_000
_DIGEST_CHARS = 12


@dataclass(frozen=True, slots=True)
class Place:
    """One side of a changed path, as a parser sees it: a file's bytes, or a link's target."""

    path: bytes
    mode: int = 0o644
    data: bytes | None = None
    target: bytes | None = None
    declares: Mapping[str, str] = field(default_factory=dict)  # of a certificate or key

    @property
    def name(self) -> bytes:
        """The last part of the path."""
        return self.path.rpartition(b"/")[2]

    def lines(self, *, joined: bool = False) -> Iterator[str]:
        """The file's lines without surrounding space, empty ones left out. ``joined``: a final backslash
        continues a line."""
        held: list[str] = []
        for raw in (self.data or b"").split(b"\n"):
            line = text(raw.removesuffix(b"\r"))
            if joined and line.endswith("\\"):
                held.append(line[:-1])
                continue
            if line := _cut(" ".join([*held, line]).strip()):
                yield line
            held = []
        if line := _cut(" ".join(held).strip()):
            yield line


def _cut(line: str) -> str:
    """A line of a length that a parser may take its time with; the digest keeps two long lines apart."""
    if len(line) <= MAX_LINE_CHARS:
        return line
    digest = hashlib.sha256(line.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_CHARS]
    return f"{line[:MAX_LINE_CHARS]}… {digest}"


Stated = tuple[str, dict[str, str]]
"""A name, and values by name."""
Parse = Callable[[Place], Iterable[Stated]]


@dataclass(frozen=True)
class Reader:
    """How to read the files of one pattern. ``ordered``: which fact stands first has a meaning. ``links``:
    where a link leads is a fact too; otherwise it states nothing."""

    kind: SettingKind
    pattern: re.Pattern[bytes]
    parse: Parse
    ordered: bool = False
    links: bool = False


@dataclass(frozen=True, slots=True)
class Fact:
    """What one file states of one thing. ``label``: the name as it is written, where case does not count."""

    name: str
    values: Mapping[str, str]
    path: bytes
    label: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing of two points. A side is None where it is not there."""

    name: str
    before: Fact | None
    after: Fact | None

    @property
    def verb(self) -> ChangeVerb:
        """Added, removed or modified."""
        if self.before is None:
            return ChangeVerb.ADDED
        return ChangeVerb.REMOVED if self.after is None else ChangeVerb.MODIFIED


def text(data: bytes) -> str:
    """Bytes as text, without loss."""
    return data.decode("utf-8", "surrogateescape")


def unquoted(value: str) -> str:
    """Without one pair of quotes around it."""
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] in "\"'" and value[-1] == value[0] else value


def settle(before: Sequence[Fact], after: Sequence[Fact], *, ordered: bool) -> list[Difference]:
    """What differs. Equal facts cancel out, wherever they stand; what is left of a name is paired in order.
    ``ordered``: facts of one name that changed places are a difference too."""
    found = []
    olds, news = _by_name(before), _by_name(after)
    for name in sorted(olds.keys() | news.keys()):
        old, new = olds.get(name, []), news.get(name, [])
        left, right = _without(old, new), _without(new, old)
        found += [Difference(name, one, other) for one, other in zip_longest(left, right)]
        kept_old, kept_new = _kept(old, left), _kept(new, right)
        if ordered and kept_old != kept_new:
            found.append(
                Difference(
                    name,
                    Fact(name, {"order": "; ".join(kept_old)}, old[0].path),
                    Fact(name, {"order": "; ".join(kept_new)}, new[0].path),
                )
            )
    return found


def _by_name(facts: Sequence[Fact]) -> dict[str, list[Fact]]:
    found: dict[str, list[Fact]] = {}
    for fact in facts:
        found.setdefault(fact.name, []).append(fact)
    return found


def _key(fact: Fact) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(fact.values.items()))


def _without(facts: Sequence[Fact], others: Sequence[Fact]) -> list[Fact]:
    """The facts that ``others`` do not state as often."""
    counts: dict[tuple[tuple[str, str], ...], int] = {}
    for other in others:
        counts[_key(other)] = counts.get(_key(other), 0) + 1
    left = []
    for fact in facts:
        if counts.get(_key(fact), 0):
            counts[_key(fact)] -= 1
        else:
            left.append(fact)
    return left


def _kept(facts: Sequence[Fact], left: Sequence[Fact]) -> list[str]:
    gone = {id(fact) for fact in left}
    return [" ".join(fact.values.values()) for fact in facts if id(fact) not in gone]


# --- what may be shown -------------------------------------------------------------------------------------

_WORD = (
    r"(?:pass(?:word|wd|phrase)?|pgpassword|mysql_pwd|token|secret|api[_-]?key|access[_-]?key|credentials?)"
)
_VALUE = r"([^\s,;\"']+|\"[^\"]*(?:\"|\Z)|'[^']*(?:'|\Z))"  # to the end where that was cut off
_SECRETS = (
    # sudo's tag PASSWD: is no password.
    re.compile(
        rf"(?i)(?<![a-z])((?!(?-i:PASSWD:))(?:[a-z0-9]{{1,30}}[_.-]){{0,4}}{_WORD}\s{{0,9}}[=:]\s{{0,9}}){_VALUE}"
    ),
    re.compile(rf"(?i)(--?(?:[a-z0-9]{{1,30}}-){{0,4}}{_WORD}\s{{1,9}}){_VALUE}"),
    re.compile(r"(?i)(authorization:\s*(?:basic|bearer)\s+)([^\s\"']+)"),
    re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s/:@]{0,100}:)([^\s/@]+)(?=@)"),
    re.compile(r"()(\$(?:1|2[abxy]|5|6|7|y|gy|sha1|argon2id?|apr1)\$[./A-Za-z0-9$=,+]{20,})"),
    re.compile(r"()(gh[pousr]_[A-Za-z0-9]{36}|AKIA[0-9A-Z]{16}|xox[abpr]-[\w-]{20,}|glpat-[\w-]{20,})"),
)


class Teller:
    """Makes text fit to be stored and shown. ``key``: the installation's, for fingerprints."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def tell(self, value: str) -> str:
        """Without passwords and tokens, which become fingerprints; bytes that are not UTF-8 as ``\\xff``; a
        long value cut, with the digest of the whole."""
        beyond = len(value) - MAX_VALUE_CHARS
        digest = self._print(value) if beyond > 0 else ""
        value = value[: 2 * MAX_VALUE_CHARS]
        for pattern in _SECRETS:
            value = pattern.sub(lambda found: f"{found[1]}‹{self._print(found[2])}›", value)
        value = value[:MAX_VALUE_CHARS].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        value = value.replace("\0", "\\x00")
        return f"{value}… ({beyond} more characters, {digest})" if beyond > 0 else value

    def values(self, fact: Fact | None) -> dict[str, str]:
        """The values of a fact; none for None."""
        if fact is None:
            return {}
        return {self.tell(name): self.tell(value) for name, value in fact.values.items()}

    def _print(self, value: str) -> str:
        data = value.encode("utf-8", "surrogateescape")
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()[:_DIGEST_CHARS]
