"""What the guest itself says of all that a diff shows, by stat, sha256sum, readlink, its python3's listxattr
and ioctl, getent and passwd: a second opinion on the disk reader, which no playbook made of the same reading
gives.

The guest looks at its disk by a mount of its own, without what is mounted over it. Names go on standard input
with NUL after each, and answers come back in base64: a name may be any bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import shlex
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backend.client.blocking import FluidSandbox
from backend.errors import Unavailable
from backend.models import Changes, FileKind, FileState, guest_path, wire_path

ALONE = ("unshare", "--mount", "sh", "-c", 'mount --bind / /mnt && cd /mnt && exec "$0" "$@"')
EACH = ("xargs", "-0", "-r")
STAT = (*EACH, "stat", r"--printf=%n\0%f\0%u\0%g\0%U\0%G\0%s\0%h\0%t:%T\0")
SUMS = (*EACH, "sha256sum", "-z", "--")
TARGETS = (*EACH, "readlink", "-z", "--")
XATTRS = (
    "python3",
    "-IS",
    "-c",
    r"""
import fcntl, os, stat, struct, sys
LETTERS = {0x8: "S", 0x10: "i", 0x20: "a", 0x40: "d", 0x80: "A", 0x4000: "j", 0x10000: "D"}
def chattr(path):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        flags, = struct.unpack_from("I", fcntl.ioctl(fd, 0x80086601, bytes(8)))  # FS_IOC_GETFLAGS
    except OSError:
        flags = 0
    os.close(fd)
    return "".join(letter for flag, letter in LETTERS.items() if flags & flag)
for path in filter(None, sys.stdin.buffer.read().split(b"\0")):
    if stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFREG, stat.S_IFDIR) and (set_by := chattr(path)):
        value = set_by.encode().hex().encode()
        sys.stdout.buffer.write(b"\0".join((path, b"chattr", value, b"")))
    for name in os.listxattr(path, follow_symlinks=False):
        value = os.getxattr(path, name, follow_symlinks=False)
        sys.stdout.buffer.write(b"\0".join((path, os.fsencode(name), value.hex().encode(), b"")))
""",
)
ACCOUNTS = r"{ getent passwd; printf '\0'; getent group; printf '\0'; passwd --status --all; } | base64 -w0"
OF_THOSE_THAT_ARE_THERE = 123  # xargs(1): some are not
PATHS_AT_ONCE = 1_000  # their answer stays below the limit of a command's output
ASK_S = 600
SHOWN = 20
KINDS = {
    stat.S_IFREG: FileKind.FILE,
    stat.S_IFDIR: FileKind.DIRECTORY,
    stat.S_IFLNK: FileKind.LINK,
    stat.S_IFCHR: FileKind.CHARACTER,
    stat.S_IFBLK: FileKind.BLOCK,
    stat.S_IFIFO: FileKind.FIFO,
    stat.S_IFSOCK: FileKind.SOCKET,
}
PASSWORDS = {"P": "set", "L": "locked", "NP": "none"}  # passwd(1), --status

Fields = dict[str, str]
"""What there is to say of a file or an account, by name: ``mode`` → ``0644``."""


@dataclass(frozen=True)
class Told:
    """The guest's word: of the paths that are there, and of all accounts, by name."""

    files: dict[bytes, Fields]
    users: dict[str, Fields]
    groups: dict[str, Fields]


def ask(box: FluidSandbox, changes: Changes) -> Told:
    """Ask a guest that is still as it was at the later point for all that the diff shows.

    Raises:
        Unavailable: it says nothing, too much, or what is no answer.
    """
    paths = [guest_path(change.path) for change in changes.shown()]
    files: dict[bytes, Fields] = {}
    try:
        for at in range(0, len(paths), PATHS_AT_ONCE):
            files |= _files(box, paths[at : at + PATHS_AT_ONCE])
        return Told(files, *_accounts(_answer(box, ACCOUNTS)))
    except (ValueError, LookupError) as error:
        raise Unavailable(f"the guest told of its files what nobody can read: {error}") from error


def differences(changes: Changes, told: Told, key: bytes) -> list[str]:
    """What the diff shows otherwise than the guest, a sentence each. ``key``: of the fingerprints."""
    found = list(_file_differences(changes, told, key))
    for noun, accounts, guest in (
        ("user", changes.users, told.users),
        ("group", changes.groups, told.groups),
    ):
        for account in accounts:
            after = {name: value for name, value in account.after.items() if name != "ageing"}
            if "password" in after:
                after["password"] = after["password"].partition(",")[0]  # "set, changed"
            found += _compared(f"{noun} {account.name}", after, guest.get(account.name, {}))
    more = [f"and {len(found) - SHOWN} more differences of the diff and the guest"]
    return found[:SHOWN] + more * (len(found) > SHOWN)


def _file_differences(changes: Changes, told: Told, key: bytes) -> Iterator[str]:
    for change in changes.shown():
        seen = dict(told.files.get(guest_path(change.path), {}))
        if change.after is not None and change.after.secret and "sha256" in seen:
            seen["sha256"] = hmac.new(key, seen["sha256"].encode(), hashlib.sha256).hexdigest()
        yield from _compared(change.path, _fields(change.after), seen)


def _compared(name: str, diff: Fields, guest: Fields) -> Iterator[str]:
    if not diff or not guest:
        if diff or guest:
            there, gone = ("diff", "guest") if diff else ("guest", "diff")
            yield f"{name}: in the {there} it is there, in the {gone} it is not"
        return
    for field in sorted(diff.keys() | guest.keys()):
        ours, theirs = diff.get(field, "none"), guest.get(field, "none")
        if ours != theirs:
            yield f"{name}: {field} is {ours!r} in the diff, {theirs!r} in the guest"


def _fields(state: FileState | None) -> Fields:
    """A state of the diff, with the names and in the words of :func:`_stated`."""
    if state is None:
        return {}
    found = {
        "kind": str(state.kind),
        "mode": f"{state.mode:04o}",
        "owner": f"{state.uid} {state.owner}",
        "group": f"{state.gid} {state.group}",
    }
    if state.kind is not FileKind.DIRECTORY:
        found["links"] = str(state.links)
    if state.kind is FileKind.FILE:
        found |= {"size": str(state.size), "sha256": state.sha256 or ""}
    if state.device:
        found["device"] = state.device
    if state.target is not None:
        found["target"] = state.target
    return found | {f"attribute {name}": value for name, value in state.xattrs.items()}


# --- asking -----------------------------------------------------------------------------------------------


def _files(box: FluidSandbox, paths: Sequence[bytes]) -> dict[bytes, Fields]:
    files = _stated(_asked(box, STAT, paths, some_are_gone=True))

    def those(kind: FileKind) -> list[bytes]:
        return [path for path, fields in files.items() if fields["kind"] == kind]

    links, regular = those(FileKind.LINK), those(FileKind.FILE)
    for path, target in zip(links, _asked(box, TARGETS, links), strict=True):
        files[path]["target"] = wire_path(target)
    for path, line in zip(regular, _asked(box, SUMS, regular), strict=True):
        files[path]["sha256"] = line.partition(b" ")[0].decode()
    for name, attribute, value in _rows(_asked(box, XATTRS, list(files)), 3):
        files[name[1:]][f"attribute {wire_path(attribute)}"] = value.decode()
    return files


def _asked(
    box: FluidSandbox, command: Sequence[str], paths: Sequence[bytes], *, some_are_gone: bool = False
) -> list[bytes]:
    """The answer's fields. The paths are from the root of the guest's disk."""
    if not paths:
        return []
    names = b"".join(b"." + path + b"\0" for path in paths)
    line = f"set -o pipefail; {shlex.join((*ALONE, *command))} | base64 -w0"
    allowed = (0, OF_THOSE_THAT_ARE_THERE) if some_are_gone else (0,)
    return _answer(box, line, names, allowed).split(b"\0")[:-1]


def _answer(
    box: FluidSandbox, line: str, names: bytes | None = None, allowed: Sequence[int | None] = (0,)
) -> bytes:
    done = box.run(line, stdin=names, timeout=ASK_S)
    if done.exit_code not in allowed or done.truncated:
        why = (
            "it says too much" if done.truncated else f"it ended with {done.exit_code}: {done.stderr[-300:]}"
        )
        raise Unavailable(f"the guest does not tell of its files: {why}")
    return base64.b64decode(done.stdout, validate=True)


def _stated(answer: Sequence[bytes]) -> dict[bytes, Fields]:
    """What :data:`STAT` printed, by path."""
    found = {}
    for name, *words in _rows(answer, 9):
        mode, uid, gid, owner, group, size, links, device = (word.decode() for word in words)
        kind = KINDS[stat.S_IFMT(int(mode, 16))]
        fields = {
            "kind": str(kind),
            "mode": f"{stat.S_IMODE(int(mode, 16)):04o}",
            "owner": f"{uid} {_known(owner)}",
            "group": f"{gid} {_known(group)}",
        }
        if kind is not FileKind.DIRECTORY:
            fields["links"] = links
        if kind is FileKind.FILE:
            fields["size"] = size
        if kind in (FileKind.CHARACTER, FileKind.BLOCK):
            fields["device"] = ":".join(str(int(number, 16)) for number in device.split(":"))
        found[name[1:]] = fields
    return found


def _known(name: str) -> str:
    return "" if name == "UNKNOWN" else name  # stat(1) of an id without a name


def _rows(answer: Sequence[bytes], columns: int) -> Iterator[tuple[bytes, ...]]:
    return zip(*[iter(answer)] * columns, strict=True)


def _accounts(answer: bytes) -> tuple[dict[str, Fields], dict[str, Fields]]:
    """Users and groups of what :data:`ACCOUNTS` printed, in the words of a change."""
    parts = answer.decode("utf-8", "replace").split("\0")
    passwd, group, status = ([line for line in part.split("\n") if line] for part in parts)
    states = {name: PASSWORDS[state] for name, state, *_ in map(str.split, status)}
    groups = {
        name: {"gid": gid, "members": ",".join(sorted(filter(None, members.split(","))))}
        for name, _, gid, members in (line.split(":") for line in group)
    }
    users = {}
    for name, _, uid, gid, comment, home, shell in (line.split(":") for line in passwd):
        member_of = sorted(one for one, of in groups.items() if name in of["members"].split(","))
        users[name] = {
            "uid": uid,
            "gid": gid,
            "home": home,
            "shell": shell,
            "comment": comment,
            "groups": ",".join(member_of),
            "password": states.get(name, ""),
        }
    return users, groups
