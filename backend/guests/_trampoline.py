"""The command lines that a guest's sshd is given. Pure text: no I/O, no interpreter but the guest's shell.

sshd hands a command line to root's login shell, itself the leader of a fresh session (session.c,
do_exec_no_pty). The shell tells its process id behind a random token, which no output can forge in time.
When that shell is bash, it is the ``bash -c`` that runs the command (``eval``: starting a second one costs an
emulated guest a tenth of a second); otherwise it becomes one by ``exec``. Nothing stands in between.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from backend.errors import InvalidValue, TooLarge

ARGUMENT_MAX_BYTES = 131_071  # Linux: MAX_ARG_STRLEN less the final NUL
INLINE_MAX_BYTES = 100_000  # a longer line is sent through standard input instead
NO_START = 125  # exit status when the user or the folder is not there, as env(1) has it
ROOT = "root"

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
# The shell reads passwd(5) by itself: two programs fewer to start than with getent(1) and env(1).
_AS_USER = (
    'while IFS=: read -r n _ u g _ h s && [ "$n" != {user} ]; do :; done </etc/passwd; '
    "[ \"$n\" = {user} ] || {{ echo 'fluid: the guest has no user {user}' >&2; exit {no_start}; }}; "
    '{enter}; export HOME="$h" SHELL="$s" USER={user} LOGNAME={user}; '
    'exec setpriv --reuid="$u" --regid="$g" --init-groups '
)
_ENTER_HOME = 'cd -- "$h" 2>/dev/null || cd /'  # many a service's user has a home that does not exist


@dataclass(frozen=True)
class Line:
    """What to send: the command line for sshd, and the bytes that go before the command's own input."""

    exec_line: str
    preamble: bytes = b""


def build(
    command: str,
    *,
    token: str,
    user: str = ROOT,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> Line:
    """The line that runs ``command`` in the guest's ``bash -c``, untouched.

    Raises:
        InvalidValue: a NUL byte, a strange user or variable name.
        TooLarge: more than one argument of a Linux program can hold (128 KiB).
    """
    _check(command, user, env or {}, cwd)
    inline = _assemble(shlex.quote(command), token, user, env or {}, cwd)
    raw = command.encode("utf-8")
    if len(inline.encode("utf-8")) <= INLINE_MAX_BYTES:
        return Line(inline)
    by_input = f"c=$(head -c {len(raw)}; echo .) || exit {NO_START}; " + _assemble(
        '"${c%.}"', token, user, env or {}, cwd, whole=False
    )
    if len(by_input.encode("utf-8")) > INLINE_MAX_BYTES:
        raise TooLarge(
            "the environment of the command is over 100,000 bytes", remedy="put it into a file in the guest"
        )
    return Line(by_input, raw)


def end_session(session: int, signal: str) -> str:
    """The line that sends ``signal`` to every process of a session, in passes until none is left.

    The session and not only the group: ``set -m`` gives each job a group of its own. A daemon that made a
    session of its own stays, as it does after a log-out.
    """
    kill = f"kill -{signal} -- -{session} 2>/dev/null; "
    scan = (
        "for t in 1 2 3 4 5; do n=0; for f in /proc/[0-9]*/stat; do l=; "
        'while IFS= read -r x; do l="$l$x "; done 2>/dev/null <"$f"; '
        'p=${f#/proc/}; p=${p%/stat}; set -f; set -- ${l##*) }; set +f; [ "$4" = ' + str(session) + " ] || "
        f'continue; [ "$1" = Z ] && continue; kill -{signal} "$p" 2>/dev/null && n=1; done; '
        '[ "$n" = 1 ] || break; done'
    )
    return kill + (scan if signal == "KILL" else scan.replace("1 2 3 4 5", "1"))


def _assemble(
    quoted: str, token: str, user: str, env: Mapping[str, str], cwd: str | None, *, whole: bool = True
) -> str:
    """``whole`` is False when ``quoted`` stands for text that may not be written twice."""
    tell = f"printf '%s %s\\n' {token} $$ >&2; "
    variables = " ".join(shlex.quote(f"{name}={value}") for name, value in env.items())
    shell = f"bash -c -- {quoted}"
    with_env = f"env {variables} {shell}" if variables else shell
    if user != ROOT:
        enter = f"cd -- {shlex.quote(cwd)} || exit {NO_START}" if cwd else _ENTER_HOME
        become = _AS_USER.format(user=user, no_start=NO_START, enter=enter)
        return f"{tell}{become}{with_env}"
    enter = f"cd -- {shlex.quote(cwd)} || exit {NO_START}; " if cwd else ""
    if variables or not whole:
        return f"{tell}{enter}exec {with_env}"
    return f'{tell}{enter}if [ -n "$BASH_VERSION" ]; then eval -- {quoted}; else exec {shell}; fi'


def _check(command: str, user: str, env: Mapping[str, str], cwd: str | None) -> None:
    if "\0" in command:
        raise InvalidValue("the command holds a NUL byte", remedy="send binary data through `stdin`")
    try:
        size = len(command.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InvalidValue(
            "the command is not valid Unicode (a lone surrogate)", remedy="send bytes through `stdin`"
        ) from error
    if size > ARGUMENT_MAX_BYTES:
        raise TooLarge(
            f"the command has {size} bytes, a guest takes {ARGUMENT_MAX_BYTES}",
            remedy="write it to a file in the guest and run the file",
        )
    if not _USER.fullmatch(user):
        raise InvalidValue(f"{user!r} is not a user name", remedy="name a user of the guest, such as root")
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            raise InvalidValue(
                f"{name!r} is not a variable's name", remedy="use letters, digits and _, no digit first"
            )
        if "\0" in value:
            raise InvalidValue(f"the value of {name} holds a NUL byte", remedy="encode it")
    if cwd is not None and ("\0" in cwd or not cwd.startswith("/")):
        raise InvalidValue(f"{cwd!r} is not an absolute folder", remedy="start `cwd` with /")
