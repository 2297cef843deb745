"""Which part of a line of a file is a comment, a name or a string, by the file's kind. Pure.

A line is judged alone, by one pattern of ours that reads it once: an agent chooses these files, and the
patterns of a general highlighter can be made to run for ever.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import PurePosixPath

from fluid_tui.paint import Ink, Line, Mixed, Role, Run, plain

JUDGED_CHARS = 400
"""What is longer is nothing that a person reads: it stays as it is."""
STRING = r'(?P<string>"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\')'
HASH = r"(?:^|(?<=\s))#.*"
WORDS = (
    "if|then|elif|else|fi|for|while|until|do|done|case|esac|in|function|return|local|export|set|def|class|import|from|"
    "with|as|try|except|finally|raise|yield|lambda|and|or|not|is|None|True|False|const|let|var|new|switch|break|"
    "continue|struct|enum|static|void|int|char|bool|true|false|null|fn|func|type|package|use|pub|my|sub|async|await"
)
KINDS: dict[str, re.Pattern[str]] = {
    "settings": re.compile(
        rf"(?P<comment>^\s*;.*|{HASH})|{STRING}|(?P<head>^\s*\[[^\]]*\])|(?P<key>^[\s{{-]*[A-Za-z_][\w./-]*)"
    ),
    "script": re.compile(rf"(?P<comment>{HASH})|{STRING}|(?P<key>\b(?:{WORDS})\b)"),
    "code": re.compile(rf"(?P<comment>//.*|/\*.*)|{STRING}|(?P<key>\b(?:{WORDS})\b)"),
    "data": re.compile(r'(?P<key>"(?:[^"\\]|\\.)*"(?=\s*:))|' + STRING),
    "markup": re.compile(rf"(?P<comment><!--.*)|(?P<key></?[A-Za-z][\w:.-]*|/?>)|{STRING}"),
}
ROLES = {"comment": Role.MUTED, "string": Role.STRING, "key": Role.KEY, "head": Role.HEAD}
SUFFIXES = {
    suffix: kind
    for kind, suffixes in {
        "settings": "conf cfg cnf ini toml yaml yml env service timer socket mount target path slice link "
        "network netdev rules list sources repo preferences pref properties desktop nft j2 tf hcl",
        "script": "sh bash zsh ksh py pl rb awk sed mk cron ps1 exp tcl",
        "code": "c h cc cpp hpp js mjs ts go rs java kt php css scss sql lua proto",
        "data": "json jsonl",
        "markup": "html htm xml xhtml svg xsl plist",
    }.items()
    for suffix in suffixes.split()
}
PLAIN = frozenset({"txt", "md", "log", "pem", "crt", "key", "pub", "csv"})
PROGRAMS = (
    "/etc/init.d/",
    "/etc/cron.daily/",
    "/etc/cron.hourly/",
    "/etc/cron.weekly/",
    "/etc/cron.monthly/",
)


def kind_of(path: str) -> str:
    """The kind of a file by its path; empty for text that has none."""
    at = PurePosixPath(path)
    suffix = at.suffix.lstrip(".").lower()
    if suffix in SUFFIXES or suffix in PLAIN:
        return SUFFIXES.get(suffix, "")
    if at.name in ("Makefile", "Dockerfile", "Vagrantfile") or path.startswith(PROGRAMS) or "/bin/" in path:
        return "script"
    return "settings" if path.startswith("/etc/") or "/.config/" in path else ""


@lru_cache(2048)
def coloured(runs: Line, kind: str) -> Line:
    """The line with its parts in their colours; words that are marked as different stay so."""
    text = plain(runs)
    if kind not in KINDS or len(text) > JUDGED_CHARS:
        return runs
    inks: list[tuple[int, int, Role]] = [
        (found.start(), found.end(), ROLES[found.lastgroup])
        for found in KINDS[kind].finditer(text)
        if found.lastgroup
    ]
    made: list[Run] = []
    at = 0
    for words, role in runs:
        end = at + len(words)
        for start, stop, ink in inks:
            if stop <= at or start >= end:
                continue
            if start > at:
                made.append((text[at:start], role))
                at = start
            made.append((text[at : min(stop, end)], _mixed(role, ink)))
            at = min(stop, end)
        if at < end:
            made.append((text[at:end], role))
        at = end
    return tuple(made)


def _mixed(role: Ink, ink: Role) -> Ink:
    """An ink on the ground of a role."""
    if role is Role.TEXT:
        return ink
    return Mixed(role, ink) if role is Role.ADDED or role is Role.REMOVED else role
