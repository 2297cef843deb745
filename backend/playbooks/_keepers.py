"""What a command line changes in a service that keeps its data itself: a database, a directory, a queue.

Pure. Tells the service and, of SQL, the kind of statement. Words that are not known (a file, a pipe) are of
no kind: they may be any.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from backend.playbooks._shell import SimpleCommand, simple_commands

SQLITE = "sqlite"
_DEPTH = 4
_SHELLS = frozenset({"sh", "bash", "dash", "ksh", "zsh", "source", "."})
_WRAPPERS = frozenset({
    "su", "sudo", "runuser", "env", "nice", "ionice", "timeout", "nohup", "time", "setsid", "setpriv", "gosu",
    "chroot", "flock", "xargs", "docker", "podman",
})  # fmt: skip
_CONTAINERS = frozenset({"docker", "podman"})
_BEFORE_NAMES = frozenset({"-u", "--user", "-g", "--group", "-", "-l"})
_KEYWORDS = frozenset({"if", "then", "elif", "else", "while", "until", "do", "!", "{", "(", "time", "exec"})
_NO_CALLS = frozenset({
    "apt", "apt-get", "aptitude", "dnf", "yum", "dpkg", "rpm", "systemctl", "service", "which", "command",
    "man",
})  # fmt: skip
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_ASKS = frozenset({"--help", "--version", "-V", "-?"})
_LISTS = frozenset({"-l", "--list"})  # of a client
_TOLD = frozenset({"echo", "printf"})

_SQL = (
    (
        "roles",
        r"\b(?:create|alter|drop)\s+(?:role|user|group)\b|\b(?:grant|revoke|reassign)\b|\bset\s+password\b",
    ),
    ("databases", r"\b(?:create|alter|drop)\s+(?:database|schema)\b"),
    (
        "contents",
        r"\b(?:create|alter|drop)\b(?!\s+(?:role|user|group|database|schema)\b)"
        r"|\b(?:insert|update|delete|truncate|copy|load|import|merge|replace\s+into)\b",
    ),
    ("", r"(?:\\ir?|\bsource|\\\.)\s+\S"),
)
_JAVASCRIPT = (
    (
        "",
        r"(?:insert|update|delete|remove|drop|create|replace|rename|bulkWrite|findAndModify|findOneAnd|grant|revoke)"
        r"(?:[A-Z]\w{0,30})?\(|\brs\.(?:initiate|reconfig)\(",
    ),
)
_REDIS = (
    r"(?i:set|get(?:set|del|ex)|m?set(?:n?x|range|bit)?|psetex|append|(?:in|de)cr(?:by|byfloat)?|del|unlink|expire\w*"
    r"|pexpire\w*|persist|rename(?:nx)?|move|copy|restore|h(?:m?set|setnx|del|incrby\w*)|[lr]p(?:ush|op)x?|lset|linsert"
    r"|lrem|ltrim|s(?:add|rem|move|pop)|z(?:add|rem\w*|incrby)|x(?:add|del|trim|group)|geoadd|pfadd|flush(?:all|db)"
    r"|setuser|deluser|eval(?:sha)?|--pipe|--eval)"
)
_PDBEDIT = r"-[A-Za-z]*[axrmizCP]\w*|--(?:create|delete|modify|import|machine|value)(?:=.*)?"
_SAMBA = (
    r"(?:add|create|delete|provision|set\w*|addmembers|removemembers|enable|disable|rename|move|join|demote)"
)
_RABBIT = (
    r"(?:add|delete|set|clear|change|import|purge|force|join|rename|update|enable|disable|forget)_\w+|reset"
)


@dataclass(frozen=True)
class Kept:
    """A change of what ``keeper`` keeps. ``kind``: of an SQL statement; ``file``: of SQLite."""

    keeper: str
    kind: str = ""
    file: str = ""


@dataclass(frozen=True)
class _Client:
    """Reads statements from an option, a file, or its standard input."""

    keeper: str
    says: str  # the option before a statement
    reads: str  # the option before a file of them
    statements: tuple[tuple[str, str], ...] = _SQL


@dataclass(frozen=True)
class _Verbs:
    """Changes something by one of its words; without ``words`` by being called."""

    keeper: str
    words: str = ""
    kind: str = ""
    reads: bool = False  # also from its standard input


_PSQL = _Client(
    "postgresql", r"-[AEHSXabenqstwWxz01]*c.*|--command\b.*", r"-[AEHSXabenqstwWxz01]*f.*|--file\b.*"
)
_MYSQL = _Client("mariadb", r"-[BEHNXfnqrstvw]*e.*|--(?:execute|init-command)\b.*", "")
_MONGO = _Client("mongodb", r"--eval\b.*", r"-f|--file\b.*|.*\.js", _JAVASCRIPT)
_PROGRAMS: dict[str, _Client | _Verbs] = {
    "psql": _PSQL,
    "createuser": _Verbs("postgresql", kind="roles"),
    "dropuser": _Verbs("postgresql", kind="roles"),
    "createdb": _Verbs("postgresql", kind="databases"),
    "dropdb": _Verbs("postgresql", kind="databases"),
    "pg_restore": _Verbs("postgresql"),
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
    "mysqladmin": _Verbs("mariadb", "create|drop|password"),
    "mariadb-admin": _Verbs("mariadb", "create|drop|password"),
    "mysqlimport": _Verbs("mariadb", kind="contents"),
    "mariadb-import": _Verbs("mariadb", kind="contents"),
    "mysql_secure_installation": _Verbs("mariadb"),
    "mariadb-secure-installation": _Verbs("mariadb"),
    "mongo": _MONGO,
    "mongosh": _MONGO,
    "mongoimport": _Verbs("mongodb"),
    "mongorestore": _Verbs("mongodb"),
    "redis-cli": _Verbs("redis", _REDIS, reads=True),
    "valkey-cli": _Verbs("redis", _REDIS, reads=True),
    "rabbitmqctl": _Verbs("rabbitmq", _RABBIT),
    "rabbitmqadmin": _Verbs("rabbitmq", "declare|delete|import|publish|purge"),
    "smbpasswd": _Verbs("samba"),
    "pdbedit": _Verbs("samba", _PDBEDIT),
    "samba-tool": _Verbs("samba", _SAMBA),
    **{
        name: _Verbs("ldap")
        for name in (
            "ldapadd",
            "ldapmodify",
            "ldapdelete",
            "ldapmodrdn",
            "ldappasswd",
            "slapadd",
            "slapmodify",
        )
    },
    "sqlite3": _Client(SQLITE, "", ""),
}


class _Text:
    """Words of a command line. They may be long, and of many calls: what is looked for is looked for once."""

    def __init__(self, whole: str) -> None:
        self._whole = whole
        self._found: dict[object, set[str]] = {}
        self.here = "<<" in whole

    def said(self, statements: tuple[tuple[str, str], ...]) -> set[str]:
        """The kinds of the statements in it."""
        if statements not in self._found:
            flags = re.IGNORECASE if statements is _SQL else 0
            found = {kind for kind, pattern in statements if re.search(pattern, self._whole, flags)}
            self._found[statements] = found
        return self._found[statements]

    def words(self, pattern: str) -> set[str]:
        """The words that match as a whole."""
        if pattern not in self._found:
            words = re.split(r"[\s'\"]+", self._whole)
            self._found[pattern] = {word for word in words if re.fullmatch(pattern, word)}
        return self._found[pattern]


_NOTHING = _Text("")


@dataclass(frozen=True)
class _Call:
    """One call of a program, and what is known of its standard input: None for words that are not."""

    argv: Sequence[str]
    text: _Text  # that it stands in
    command: SimpleCommand
    given: _Text | None
    redirected: bool


Scripts = Callable[[str, str], Iterable[Kept]]
"""What a script changes, by its name and the folder that was worked in; nothing where it is not known."""


def kept_by(text: str, scripts: Scripts = lambda name, folder: (), *, alone: bool = False) -> set[Kept]:
    """What ``text`` changes, with the scripts that it runs. ``alone``: nothing stands on its standard input;
    else nobody noted what does."""
    return set(_changes(text, scripts, _NOTHING if alone else None, False, _DEPTH))


def _changes(
    line: str, scripts: Scripts, given: _Text | None, redirected: bool, depth: int
) -> Iterator[Kept]:
    fed_by, text = "", _Text(line)
    for one in simple_commands(line) if depth else ():
        piped = one.argv[-1].endswith("|")
        words = [word for word in _without_prefix(one.argv) if word != "|"]
        if words:
            own = _redirects(one, text, fed_by)
            known = _given(one, text, fed_by) if own else given
            call = _Call(words, text, one, known, own or redirected)
            yield from _inside(call, scripts, depth)
        fed_by = _program(words[0]) if piped and words else ""


def _redirects(one: SimpleCommand, text: _Text, fed_by: str) -> bool:
    return bool(fed_by) or (not one.simple and (text.here or _from_a_file(one)))


def _given(one: SimpleCommand, text: _Text, fed_by: str) -> _Text | None:
    """What a command reads by its own redirection or pipe."""
    if _from_a_file(one) and not one.simple:
        return None
    return text if text.here or fed_by in _TOLD else None


def _from_a_file(one: SimpleCommand) -> bool:
    return any(word.startswith("<") for word in one.argv)


def _inside(call: _Call, scripts: Scripts, depth: int) -> Iterator[Kept]:
    """What a command changes by itself, by a program that it runs, or by a script."""
    first, words, folder = _program(call.argv[0]), call.argv, call.command.folder
    if first in _PROGRAMS:
        yield from _changed(call)
    elif first in _SHELLS or (first in _WRAPPERS and not (first in _CONTAINERS and "exec" not in words)):
        for at, word in enumerate(words[1:], 1):
            if words[at - 1] in _BEFORE_NAMES or (first == "su" and words[at - 1] != "-c"):
                continue
            if " " in word.strip():
                yield from _changes(word, scripts, call.given, call.redirected, depth - 1)
            elif _program(word) in _PROGRAMS and first in _WRAPPERS:
                yield from _changed(replace(call, argv=words[at:]))
                return
            elif _program(word) in _NO_CALLS:
                return
            else:
                yield from scripts(word, folder)
    elif "/" in words[0]:
        yield from scripts(words[0], folder)


def _without_prefix(argv: Sequence[str]) -> Sequence[str]:
    at = 0
    while at < len(argv) and (argv[at] in _KEYWORDS or _ASSIGNMENT.match(argv[at])):
        at += 1
    return argv[at:]


def _program(word: str) -> str:
    return word.rpartition("/")[2].strip("(){}|")


def _changed(call: _Call) -> Iterator[Kept]:
    how, words = _PROGRAMS[_program(call.argv[0])], call.argv[1:]
    if _ASKS.intersection(words):
        return
    if isinstance(how, _Verbs):
        named = not how.words or any(re.fullmatch(how.words, word) for word in words)
        read = how.reads and call.redirected and (call.given is None or call.given.words(how.words))
        if named or read:
            yield Kept(how.keeper, how.kind)
    elif how.keeper == SQLITE:
        yield from _of_sqlite(call)
    elif not _LISTS.intersection(words):
        for kind in _kinds(how, call):
            yield Kept(how.keeper, kind)


def _kinds(how: _Client, call: _Call) -> set[str]:
    """The kinds of the statements of a call; the empty one where they are not known."""
    words = call.argv[1:]
    if any(re.fullmatch(how.says, word, re.DOTALL) for word in words):
        hidden = not call.command.simple and any(word.startswith(("$", "`")) for word in words)
        return _said(call, words).said(how.statements) | ({""} if hidden else set())
    if call.given is None or any(re.fullmatch(how.reads, word) for word in words):
        return {""}
    return call.given.said(how.statements)


def _said(call: _Call, words: Sequence[str]) -> _Text:
    """The words; all that stand with them where a shell would have changed them."""
    return _Text(" ".join(words)) if call.command.simple else call.text


def _of_sqlite(call: _Call) -> Iterator[Kept]:
    """The file is the first word that is no option; options with a value of their own are rare."""
    names = [word for word in call.argv[1:] if not word.startswith(("-", "<"))]
    if not names:
        return
    known = _said(call, names[1:]) if len(names) > 1 else call.given
    if known is None or known.said(_SQL) or known.words(r"\.(?:import|read|restore)"):
        yield Kept(SQLITE, file=posixpath.normpath(posixpath.join(call.command.folder, names[0])))
