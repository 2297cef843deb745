"""Passwords and tokens in ordinary configuration: found by the words around them, and taken out.

A file that is full of ``password =`` in its comments, its defaults and its documentation holds none; so a
name alone is never enough: the value must look like one, and the file like somebody's configuration. What is
left of the file can be shown. Pure; every pattern is linear in the length of a line, whatever that is.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

MASK = "‹secret›".encode()
MAX_HINTED_BYTES = 1 << 20  # of lines that are looked into: seconds, whatever a guest writes
MAX_JUDGED = 4 << 10  # of a value: a longer one of a secret's name is one, whatever it looks like

_HINTS = (
    b"pass", b"pw", b"secret", b"token", b"key", b"psk", b"credential", b"authtok", b"masterauth",
    b"identified", b"authorization", b"curl", b"://", b"eyj", b"sk_live_", b"hvs.", b'"auth"', b"stats auth",
    b"createuser", b"community", b"{plain}", b"{cleartext}",
)  # fmt: skip
"""In lower case: a line without any of them is not looked into."""
_FOREIGN = (
    b"/site-packages/", b"/dist-packages/", b"/node_modules/", b"/vendor/", b"/.git/", b"/share/doc/",
    b"/locale/", b"/i18n/", b"/examples/", b"/testdata/", b"/tests/", b"/.cargo/", b"/pkg/mod/",
)  # fmt: skip
"""Where others' programs lie."""
_SUFFIXES = (
    b".conf", b".cfg", b".cnf", b".ini", b".env", b".yaml", b".yml", b".json", b".toml", b".xml",
    b".properties", b".service", b".timer", b".sh", b".sql", b".rc", b".repo", b".netdev",
    b".nmconnection", b".config", b"config.php", b"settings.php", b"settings.py", b"config.py", b"config.js",
)  # fmt: skip
CODE, SCRIPT = "code", "script"
_CODE = (b".py", b".php", b".js", b".rb", b".pl")
_PLACES = (b"/etc/", b"/var/spool/cron/")
_SHIPPED = (b"/usr/", b"/lib", b"/boot/", b"/var/lib/dpkg/")
_OWN = b"/usr/local/"
_NOT_PASSWORDS = (b"/etc/nsswitch.conf", b"/etc/pam.conf", b"/etc/login.defs", b"/etc/services")
_PAM = b"/etc/pam.d/"

_COMMENTS = (b"#", b";", b"//", b"--", b"*", b"<!--", b"dnl ", b"rem ", b"REM ")
_NO_COMMENT = re.compile(rb"\*(?:/\d+)?[ \t]+[\d*]|//[\w.-]+/")  # a cron line, //host/share
_QUOTED = rb"\"(?:[^\"\\\n]++|\\.)*+\"|'(?:[^'\\\n]++|\\.)*+'"
_ASSIGNED = re.compile(
    rb"(?<![\w$])([A-Za-z_][\w.-]{0,60}+)[\"']?(\s*)(=>|:=|[:=])(\s*)(" + _QUOTED + rb"|[^\s\"',;#}\])&]+)"
)
_REMARK = re.compile(rb"(?<!\s)\s+[#;]")
_CLOSING = re.compile(rb"[ \t\r,}\]\"']*")
_ELEMENT = re.compile(rb"<([A-Za-z][\w.:-]*)>([^<>\n]+)</\1>")
_DEFINED = re.compile(rb"define\(\s*[\"'](\w+)[\"']\s*,\s*(" + _QUOTED + rb")")
_NAMED_VALUE = re.compile(
    rb"(?i)\bname[\"']?\s*[:=]\s*[\"']?([A-Za-z_][\w.-]*)[\"']?,?\s{0,200}[\"']?value[\"']?\s*[:=]\s*("
    + _QUOTED
    + rb"|[^\s\"',}]+)"
)
_SPACED = re.compile(
    rb"(?im)^[ \t]*(requirepass|masterauth|bindpw|rootpw|ldap_default_authtok|password|passphrase|auth_pass"
    rb"|authpass|secret|psk)[ \t]+(" + _QUOTED + rb"|[^\s;\"']+)[ \t]*(?:;[ \t]*)?\r?$"
)
_OPTION = re.compile(
    rb"(?i)(?<![\w-])--?(?:[a-z0-9]+-){0,4}(password|passwd|pass|passphrase|token|secret|api-key)[ \t]+("
    + _QUOTED
    + rb"|[^\s\"'-][^\s\"']*)"
)
_SURE = tuple(
    re.compile(pattern)
    for pattern in (
        rb"(?i)\b(?:identified\s+(?:with\s+\S+\s+)?by|password)\s+'([^'\n]+)'",
        rb"(?i)\bauthorization[\"']?(?:\s*[:=])?\s*[\"']?(?:basic|bearer|token)\s+([A-Za-z0-9._~+/=-]{8,})",
        rb"(?i)\bcurl(?:\s[^\n]{0,200}?)?\s(?:-u|--user)[ =][\"']?[\w.@-]{1,60}:([^\s\"']+)",
        rb"(?i)\binsecure-password\s+(\S+)",
        rb"(?i)\bstats\s+auth\s+[^\s:]{1,60}:(\S+)",
        rb"(?i)\bmachine\s+\S{1,200}\s+login\s+\S{1,200}\s+password\s+(\S+)",
        rb"(?i)\bcreateuser\s+\S{1,60}\s+(?:md5|sha(?:-\d+)?)\s+\"?([^\s\"]+)",
        rb"(?i)\bcreateuser\s[^\n]{1,200}\s(?:des|aes(?:-\d+)?)\s+\"?([^\s\"]+)",
        rb"(?i)^\s*(?:ro|rw)community6?\s+(?!public\s)(\S+)",
        rb"(?i)\{(?:plain|cleartext)\}([^\s:]+)",
        rb"\"auth\"\s*:\s*\"([A-Za-z0-9+/=]{8,})\"",
        rb"(?i)[a-z0-9+.-]://[^\s/:@\"'<>]{0,100}:([^\s/@\"'<>]+)@",
        rb"(?<![\w-])((?=[\w-]*?eyJ)[\w-]{13,}+\.eyJ[\w-]{10,}+\.[\w-]{10,}+)",
        rb"\b(sk_live_[A-Za-z0-9]{16,}|hvs\.[\w-]{20,})",
    )
)
_CAMEL = re.compile(rb"(?<=[a-z0-9])(?=[A-Z])")
_PASSWORD_NAME = re.compile(
    rb"(?:.*(?:password|passwd|passphrase)|(?:.*_)?(?:pass|pwd|pw)|.*_?(?:dbpass|dbpwd|bindpw|rootpw|requirepass"
    rb"|masterauth|authpass|userpass|smtppass|psk|authtok))"
)
_TOKEN_NAME = re.compile(
    rb"(?:.*_)?(?:token|authtoken|secret|clientsecret|api_?key|access_?key|secret_?key|private_?key|preshared_?key"
    rb"|shared_?key|auth_?key|encryption_?key|signing_?key|client_?key_?data|credentials?)(?:_base)?"
)
_NO_NAME = re.compile(rb".*(?:nopasswd|no_password|no_pass|bypass)|_?old_?pwd|pwd")
_SHORT_NAMES = (b"pass", b"pw")
_PLAIN = frozenset(
    b"""
    yes no true false on off none null nil undefined unset empty optional required requisite sufficient
    include prompt ask interactive password passwd pass secret token user username userpassword example
    changeme change_me change-me replaceme replace_me todo tbd file files compat systemd sss ldap winbind nis
    db dns md5 sha1 sha256 sha512 scram-sha-256 plain plaintext crypt bcrypt argon2 text string str
    hidden input default disabled enabled any all self bearer basic digest xoauth2 login env stdin keyring
    """.split()
)
_VARIABLE = re.compile(
    rb"\A(?:\$|%[({A-Z]|@.*@\Z|<.*>\Z|\[.*\]\Z|__.*__\Z|\{\{|\{%|!|ENC\[|vault:|env:|file:|https?://|\$ANSIBLE_VAULT)"
    rb"|\$[({]|\{\{|<%|`|getenv|environ"
)
_PATH = re.compile(
    rb"(?:~|\.{1,2})?/(?:etc|run|var|root|home|opt|usr|srv|dev|tmp|mnt|proc|secrets?)(?:/|\Z)|\.{1,2}/|~/"
)
_STAND_IN = re.compile(rb"(?i)your[_ -]?.*|[*x.-]+|<.*|.*\.\.\.|.* pass(?:word|phrase).*")


class Unsearched(Exception):
    """There is more to look into than :data:`MAX_HINTED_BYTES`: nobody knows what the rest holds."""


def masked(path: bytes, data: bytes) -> bytes | None:
    """The content with ``‹secret›`` for each password; None where there is none, or it is not looked at.
    Raises :class:`Unsearched`."""
    if not _is_configuration(path, data) or not _hinted(data):
        return None
    spans = sorted(set(_spans(data, form=_form(path, data))))
    if not spans:
        return None
    parts: list[bytes] = []
    at = 0
    for start, end in spans:
        if start >= at:
            parts += [data[at:start], MASK]
        at = max(at, end)
    return b"".join([*parts, data[at:]])


def _is_configuration(path: bytes, data: bytes) -> bool:
    if b"\0" in data or any(place in path for place in _FOREIGN):
        return False
    if path in _NOT_PASSWORDS or path.startswith(_PAM):
        return False
    if path.startswith(_PLACES):
        return True
    if path.startswith(_SHIPPED) and not path.startswith(_OWN):
        return False
    name = path.rpartition(b"/")[2]
    named = name.endswith(_SUFFIXES) or name.startswith(b".") or path.endswith(b"/.kube/config")
    return named or data.startswith((b"#!", b"#cloud-config"))


def _form(path: bytes, data: bytes) -> str:
    """In a program's text only what stands in quotes is a value; in a shell's a value ends at a space."""
    if path.endswith(_CODE):
        return CODE
    return SCRIPT if data.startswith(b"#!") else ""


def _hinted(data: bytes) -> bool:
    lower = data.lower()
    return any(word in lower for word in _HINTS)


def _spans(data: bytes, *, form: str) -> Iterator[tuple[int, int]]:
    """Where the values are, quotes not included. Comments are nobody's configuration."""
    at = hinted = 0
    for line in data.split(b"\n"):
        if _hinted(line) and not _is_comment(line.lstrip()):
            hinted += len(line) + 1
            if hinted > MAX_HINTED_BYTES:
                raise Unsearched
            for start, end in _in_line(line, form):
                yield at + start, at + end
        at += len(line) + 1
    if b"value" not in data and b"VALUE" not in data:
        return
    for match in _NAMED_VALUE.finditer(data):
        if _is_secret(match[1], match[2]):
            yield _inside(data, *match.span(2))


def _is_comment(line: bytes) -> bool:
    return line.startswith(_COMMENTS) and not _NO_COMMENT.match(line)


def _in_line(line: bytes, form: str) -> Iterator[tuple[int, int]]:
    yield from _assigned(line, form)
    for pattern in (_ELEMENT, _DEFINED, _SPACED, _OPTION):
        for match in pattern.finditer(line):
            if _is_secret(match[1], match[2]):
                yield _inside(line, *match.span(2))
    for pattern in _SURE:
        for match in pattern.finditer(line):
            if _is_value(match[1]):
                yield match.span(1)


def _assigned(line: bytes, form: str, *, inside: bool = False) -> Iterator[tuple[int, int]]:
    """``inside``: of quotes, as in ``Environment="A=b"``."""
    stops = [*(found.start() for found in _REMARK.finditer(line)), len(line.rstrip())]
    past = 0
    for match in _ASSIGNED.finditer(line):
        start, end = match.span(5)
        if start < past:
            continue
        quoted = line[start : start + 1] in (b'"', b"'")
        if not quoted:
            end = -1 if form == CODE else _unquoted_end(line, match, form, stops)
        if end > start and _is_secret(match[1], line[start : min(end, start + MAX_JUDGED + 1)]):
            yield _inside(line, start, end)
            past = end
        elif quoted and not inside:
            within = line[start + 1 : end - 1]
            for first, last in _assigned(within, form, inside=True):
                yield start + 1 + first, start + 1 + last


def _unquoted_end(line: bytes, match: re.Match[bytes], form: str, stops: Sequence[int]) -> int:
    """Where a value without quotes ends; -1 for words of a sentence. ``stops``: where remarks begin, and the
    line's last word ends.

    ``A = two words`` is one value, ``A=b command`` is a shell's, and ``word: more words`` is prose."""
    end = match.end(5)
    whole = stops[bisect_left(stops, end)]
    if match[3] == b"=" and match[2] and match[4] and form != SCRIPT:
        return whole
    closing = _CLOSING.match(line, end, whole)
    if match[3] == b":" and closing and closing.end() < whole:
        return -1
    return end


def _inside(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Without the quotes around it."""
    quoted = (
        end - start > 1
        and data[start : start + 1] in (b'"', b"'")
        and data[end - 1 : end] == data[start : start + 1]
    )
    return (start + 1, end - 1) if quoted else (start, end)


def _is_secret(name: bytes, value: bytes) -> bool:
    start, end = _inside(value, 0, len(value))
    word = re.sub(rb"[.-]+", b"_", _CAMEL.sub(b"_", name)).lower()
    if _NO_NAME.fullmatch(word):
        return False
    if word in _SHORT_NAMES and value[start:end].isalpha():
        return False  # pass=late
    if len(value) > MAX_JUDGED:
        return any(name.fullmatch(word) for name in (_PASSWORD_NAME, _TOKEN_NAME))
    if _PASSWORD_NAME.fullmatch(word):
        return _is_value(value[start:end])
    return _TOKEN_NAME.fullmatch(word) is not None and _is_token(value[start:end])


def _is_value(value: bytes) -> bool:
    """Whether it may be a password: not a switch, a path, a variable, or a word that stands for one."""
    return (
        len(value) > 2
        and b"(" not in value
        and value.strip() == value
        and value.lower() not in _PLAIN
        and not _VARIABLE.search(value)
        and not _PATH.match(value)
        and not _STAND_IN.fullmatch(value)
    )


def _is_token(value: bytes) -> bool:
    """Whether it may be a token: long, without spaces, and no plain word."""
    if len(value) < 8 or b" " in value or not _is_value(value):
        return False
    digits, letters = re.search(rb"[0-9]", value), re.search(rb"[A-Za-z]", value)
    mixed = re.search(rb"[a-z]", value) and re.search(rb"[A-Z]", value) and len(value) >= 16
    return bool((digits and letters) or mixed)
