"""What a task's comment shows of the command it comes from. A playbook is exported, and somebody commits it.

What a command writes (a here document, the words of ``echo``) is a file's content and is never shown; a line
with anything that may be a secret is not shown at all. Pure; every pattern is linear in the length of a line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from backend.disks.passwords import masked
from backend.playbooks._shell import command_lines, simple_commands
from backend.secret_marks import KEY_MARKS, PASSWORD_HASH, TOKEN

WITHHELD = "(a command that names a secret)"
_MAX_LINE = 4096
_AS_CONFIGURATION = b"/etc/a"  # where every line is looked at
_SENSITIVE = re.compile(
    r"pass|secret|token|credential|chpasswd|BEGIN |bearer|authorization|identified\s+by|api[_-]?key"
    r"|(?<![a-z])(?:pw|pwd|psk|pin|auth[a-z_]*|[a-z0-9_]*key|[a-z0-9_]*cred)s?[\"']?\s*[:=]"
    r"|://[^\s/]*:[^\s/]*@",
    re.IGNORECASE,
)
_WORD = r"(?:'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|[^\s'\"\\|;&<>()])+"
_WRITTEN = re.compile(rf"(?<![\w-])(?P<how>echo|printf)(?:[ \t]+{_WORD})+|(?P<here><<<)[ \t]*{_WORD}")
# Programs with an option whose value is a secret, as a word of its own or joined to it.
_OPTIONS = re.compile(
    r"\b(?:curl|wget|docker|podman|smbclient|svn|mongo\w*|ldap\w+|lftp)\b.*\s(?:-[A-Za-z]*[uUpPwW]|--(?:proxy-)?user)"
    r"[ =]?\S*"
    r"|\b(?:mysql\w*|mariadb\w*|7z|7za|ipmitool|zip)\b.*\s-[pP]\S"
    r"|\b(?:user|group)(?:add|mod)\b.*\s-[A-Za-z]*p"
    r"|\b(?:redis-cli)\b.*\s-a\b|\b(?:ssh-keygen)\b.*\s-[A-Za-z]*[NP]\s*(?!''|\"\")\S"
    r"|\b(?:rabbitmqctl|htdigest|kadmin\S*|wpa_\w+|nmcli|net-snmp-create\S*|cryptsetup|pdbedit|ipa)\b"
)
_CRYPT = re.compile(r"\$[0-9a-z]{1,10}\$[./A-Za-z0-9$=,+-]{4}")  # crypt(5), of any length
_RANDOM = re.compile(
    r"(?<![A-Za-z0-9])(?:[0-9a-fA-F]{16,}|[a-z0-9]{20,}|[A-Z0-9]{20,}|[A-Za-z0-9_+-]{20,}|[A-Za-z0-9+/]{16,}={1,2})"
    r"(?![A-Za-z0-9])"
)


def origin(text: str, words: Sequence[str]) -> tuple[str, bool]:
    """The one command that names one of ``words``, else the one line, else the first line, all without what
    they write; and whether it names one."""
    lines = command_lines(text)
    named = next((line for word in words for line in lines if word in line), "")
    calls = simple_commands(named)
    simple = [call for call in calls if call.simple and any(word in call.argv for word in words)]
    whole = named or lines[0]
    if len(calls) > 1 and simple:
        shown = shlex.join(simple[0].argv)
    else:
        shown = whole
        shown += " …" if "<<" in shown or (not named and text.strip() != shown) else ""
    if len(shown) > _MAX_LINE:
        return WITHHELD, bool(named)
    shown = _WRITTEN.sub(lambda found: f"{found['how'] or found['here']} …", shown)
    return WITHHELD if names_a_secret(shown) else "$ " + shown, bool(named)


def names_a_secret(line: str) -> bool:
    """Whether a command may hold a password, a key or a token. Rather once too often."""
    if _SENSITIVE.search(line) or _OPTIONS.search(line) or _CRYPT.search(line):
        return True
    raw = line.encode("utf-8", "replace")
    if any(mark in raw for mark in KEY_MARKS) or TOKEN.search(raw) or PASSWORD_HASH.search(raw):
        return True
    return masked(_AS_CONFIGURATION, raw) is not None or any(map(_is_random, _RANDOM.findall(line)))


def _is_random(word: str) -> bool:
    """Letters and digits as nobody types them: of both cases, or without a sign between."""
    digits, low, high = (re.search(kind, word) for kind in ("[0-9]", "[a-z]", "[A-Z]"))
    plain = word.rstrip("=").isalnum()
    return bool(digits and (low or high) and (plain or (low and high))) or word.endswith("=")
