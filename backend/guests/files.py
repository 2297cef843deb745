"""Files in a guest over SFTP: names are bytes, writes are whole or not at all, sizes are bounded.

Each path is resolved in the guest first and shown to ``check``, which may refuse it. Root in the guest can
swap a link after that: the check is a guard rail, as DESIGN §7.9 says, and the VM is the wall.
"""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import re
import secrets
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import asyncssh

from backend.errors import (
    Conflict,
    FileNotFoundInGuest,
    GuestDown,
    GuestFull,
    InvalidValue,
    TimedOut,
    TooLarge,
    WrongState,
)
from backend.guests.commands import GuestCommands
from backend.guests.connection import Guest, GuestConnections
from backend.models import FileKind, FileState, wire_path

FILE_LIMIT_BYTES = 16 * 1024**2
FILE_TIMEOUT_S = 60.0
LIST_MAX_ENTRIES = 10_000
PATH_MAX_BYTES = 4096  # Linux: PATH_MAX
UNSIZED_READ_BYTES = 65_536  # files of /proc say that they are empty
UNSIZED_TIMEOUT_S = 10.0
DEFAULT_MODE = 0o644

Check = Callable[[bytes], None]
"""Given the resolved path; raises PolicyDenied to refuse it."""

_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_KINDS = {
    stat.S_IFREG: FileKind.FILE,
    stat.S_IFDIR: FileKind.DIRECTORY,
    stat.S_IFLNK: FileKind.LINK,
    stat.S_IFCHR: FileKind.CHARACTER,
    stat.S_IFBLK: FileKind.BLOCK,
    stat.S_IFIFO: FileKind.FIFO,
    stat.S_IFSOCK: FileKind.SOCKET,
}


def _allow(path: bytes) -> None:
    """The check of a caller that has none."""


class GuestFiles:
    """Reads and changes files over the kept connections."""

    def __init__(
        self,
        connections: GuestConnections,
        commands: GuestCommands,
        *,
        limit_bytes: int = FILE_LIMIT_BYTES,
    ) -> None:
        self._connections = connections
        self._commands = commands
        self._limit = limit_bytes

    async def read(
        self,
        guest: Guest,
        path: bytes,
        *,
        offset: int = 0,
        length: int | None = None,
        check: Check = _allow,
    ) -> bytes:
        """``length`` bytes of a regular file from ``offset``; to its end without ``length``.

        Raises:
            FileNotFoundInGuest, TooLarge, InvalidValue (a folder, a device, a file of /proc whose reader has
            to wait), GuestDown, TimedOut.
        """
        async with self._sftp(guest, path) as sftp:
            real = await _resolve(sftp, path)
            check(real)
            return await self._read(guest, sftp, real, offset, length)

    async def write(
        self,
        guest: Guest,
        path: bytes,
        data: bytes,
        *,
        mode: int | None = None,
        owner: str | None = None,
        check: Check = _allow,
    ) -> FileState:
        """Replace the file through a temporary one beside it. A link is followed.

        Args:
            mode: permission bits; an existing file keeps its own, a new one gets 0644.
            owner: ``user`` or ``user:group`` of the guest; an existing file keeps its own.
        """
        if len(data) > self._limit:
            raise TooLarge(f"{len(data)} bytes are over the limit of {self._limit}", remedy="send less")
        if owner is not None and not _OWNER.fullmatch(owner):
            raise InvalidValue(f"{owner!r} is not an owner", remedy="write user or user:group")
        async with self._sftp(guest, path) as sftp:
            real = await _resolve(sftp, path)
            check(real)
            await self._replace(guest, sftp, real, data, mode, owner)
            return _state(await sftp.lstat(real))

    async def edit(
        self,
        guest: Guest,
        path: bytes,
        *,
        old: bytes,
        new: bytes,
        all: bool = False,
        check: Check = _allow,
    ) -> FileState:
        """Replace ``old``, which must be there exactly once unless ``all``.

        Raises:
            Conflict: it is not there, or more than once; the file is untouched.
        """
        if not old:
            raise InvalidValue("the text to replace is empty", remedy="name the exact text")
        async with self._sftp(guest, path) as sftp:
            real = await _resolve(sftp, path)
            check(real)
            before = await self._read(guest, sftp, real, 0, None)
            count = before.count(old)
            if count == 0 or (count > 1 and not all):
                raise Conflict(
                    f"the text is {count} times in {wire_path(path)}",
                    remedy="read the file again" if not count else "give more of its surroundings, or `all`",
                )
            after = before.replace(old, new)
            if len(after) > self._limit:
                raise TooLarge(f"the result is over the limit of {self._limit} bytes", remedy="change less")
            await self._replace(guest, sftp, real, after, None, None)
            return _state(await sftp.lstat(real))

    async def list(self, guest: Guest, path: bytes, *, check: Check = _allow) -> dict[bytes, FileState]:
        """The entries of a folder by their full path (the folder's own path as it was asked), sorted.

        Raises:
            TooLarge: over 10,000 entries.
        """
        async with self._sftp(guest, path) as sftp:
            real = await _resolve(sftp, path)
            check(real)
            found: dict[bytes, FileState] = {}
            async for entry in sftp.scandir(real):
                name = entry.filename if isinstance(entry.filename, bytes) else entry.filename.encode()
                if name in (b".", b".."):
                    continue
                if len(found) >= LIST_MAX_ENTRIES:
                    raise TooLarge(
                        f"{wire_path(path)} has over {LIST_MAX_ENTRIES} entries", remedy="use find"
                    )
                full = posixpath.join(path, name)
                found[full] = await _with_target(sftp, full, entry.attrs)
            return dict(sorted(found.items()))

    async def stat(self, guest: Guest, path: bytes, *, check: Check = _allow) -> FileState:
        """What stands at ``path``; a link is told as a link."""
        async with self._sftp(guest, path) as sftp:
            real = await _resolve_parent(sftp, path)
            check(real)
            return await _with_target(sftp, real, await sftp.lstat(real))

    async def copy(self, guest: Guest, source: bytes, target: bytes, *, check: Check = _allow) -> FileState:
        """Copy a file or a folder inside the guest with modes, owners, times and extended attributes."""
        async with self._sftp(guest, source) as sftp:
            there = await _resolve_parent(sftp, source)
            here = await _resolve(sftp, target)
            check(await _resolve(sftp, source))
            check(here)
            await sftp.lstat(there)
        await self._tool(guest, "cp -a -T --", there, here)
        return await self.stat(guest, here)

    async def delete(
        self, guest: Guest, path: bytes, *, recursive: bool = False, check: Check = _allow
    ) -> None:
        """Delete a file, a link (not what it points to) or a folder, empty unless ``recursive``."""
        async with self._sftp(guest, path) as sftp:
            real = await _resolve_parent(sftp, path)
            check(real)
            if real == b"/":
                raise InvalidValue("/ cannot be deleted", remedy="name something below it")
            is_folder = stat.S_ISDIR((await sftp.lstat(real)).permissions or 0)
            if not is_folder:
                await sftp.remove(real)
            elif not recursive:
                await sftp.rmdir(real)
        if is_folder and recursive:
            await self._tool(guest, "rm -r --one-file-system --", real)

    # --- one step each ---------------------------------------------------------------------------------

    async def _read(
        self, guest: Guest, sftp: asyncssh.SFTPClient, real: bytes, offset: int, length: int | None
    ) -> bytes:
        found = await sftp.stat(real)
        if not stat.S_ISREG(found.permissions or 0):
            kind = _KINDS.get(stat.S_IFMT(found.permissions or 0), "something else")
            raise InvalidValue(f"{wire_path(real)} is no file but a {kind}", remedy="name a regular file")
        if not found.size:
            return await self._read_unsized(guest, real, offset, length)
        size = max(found.size - offset, 0)
        wanted = size if length is None else min(length, size)
        if wanted > self._limit:
            raise TooLarge(
                f"{wire_path(real)} has {found.size} bytes, the limit is {self._limit}",
                remedy="read a range of it",
            )
        if not wanted:
            return b""
        async with sftp.open(real, "rb") as file:
            data = await file.read(wanted, offset)
        return data if isinstance(data, bytes) else data.encode()

    async def _read_unsized(self, guest: Guest, real: bytes, offset: int, length: int | None) -> bytes:
        """A file that says it is empty: it is, or the kernel makes it as it is read. Some of those wait for
        something to tell (/proc/kmsg), and OpenSSH's file server would wait with them and serve nobody."""
        count = min(length or UNSIZED_READ_BYTES, UNSIZED_READ_BYTES)
        done = await self._commands.run(
            guest,
            "LC_ALL=C xargs -0 -I {} dd if={} status=none iflag=nonblock,fullblock,skip_bytes,count_bytes"
            f" bs={UNSIZED_READ_BYTES} skip={offset} count={count}",
            stdin=real,
            timeout_s=UNSIZED_TIMEOUT_S,
            limit_bytes=UNSIZED_READ_BYTES,
        )
        words = done.stderr.decode("utf-8", "replace").strip()[:500]
        if done.timed_out or os.strerror(errno.EAGAIN) in words:
            raise InvalidValue(
                f"{wire_path(real)} is made by the kernel as it is read, and its reader waits",
                remedy="read it by a command with a time limit",
            )
        if done.exit_code != 0:
            raise WrongState(f"the guest refused: {words}", remedy="look at the path with `stat`")
        return done.stdout

    async def _replace(
        self,
        guest: Guest,
        sftp: asyncssh.SFTPClient,
        real: bytes,
        data: bytes,
        mode: int | None,
        owner: str | None,
    ) -> None:
        attrs = await _attrs_for(sftp, real, mode)
        folder, name = posixpath.split(real)
        temporary = posixpath.join(folder, b".%.180s.fluid-%s" % (name, secrets.token_hex(4).encode()))
        try:
            async with sftp.open(temporary, "xb", asyncssh.SFTPAttrs(permissions=0o600)) as file:
                await file.write(data)
                await file.fsync()
            await sftp.setstat(temporary, attrs)
            if owner is not None:
                await self._tool(guest, f"chown -- {owner}", temporary)
                await sftp.setstat(temporary, asyncssh.SFTPAttrs(permissions=attrs.permissions))
            await sftp.posix_rename(temporary, real)
        except BaseException:
            with suppress(OSError, asyncssh.Error):
                await asyncio.shield(sftp.remove(temporary))
            raise

    async def _tool(self, guest: Guest, tool: str, *paths: bytes) -> None:
        """Run a tool on paths; they travel as bytes through xargs, so that no name is ever quoted."""
        done = await self._commands.run(
            guest, f"LC_ALL=C xargs -0 {tool}", stdin=b"\0".join(paths), timeout_s=FILE_TIMEOUT_S
        )
        if done.timed_out:
            raise TimedOut(f"`{tool}` took over {FILE_TIMEOUT_S:.0f} s", remedy="run it as a command")
        if done.exit_code != 0:
            words = done.stderr.decode("utf-8", "replace").strip()[:500]
            raise WrongState(f"the guest refused: {words}", remedy="look at the path with `stat`")

    @asynccontextmanager
    async def _sftp(self, guest: Guest, path: bytes) -> AsyncIterator[asyncssh.SFTPClient]:
        """The file client, with a time limit and its errors told in our words."""
        if not path.startswith(b"/") or b"\0" in path or len(path) > PATH_MAX_BYTES:
            raise InvalidValue(f"{wire_path(path)!r} is not an absolute path", remedy="start it with /")
        sftp: asyncssh.SFTPClient | None = None
        try:
            async with asyncio.timeout(FILE_TIMEOUT_S):
                sftp = await self._connections.sftp(guest)
                yield sftp
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
            raise FileNotFoundInGuest(
                f"{guest.words} has no {wire_path(path)}", remedy="list the folder above it"
            ) from error
        except asyncssh.SFTPNoSpaceOnFilesystem as error:
            raise GuestFull(
                f"the disk of {guest.words} is full", remedy="delete something in the guest"
            ) from error
        except (asyncssh.SFTPNoConnection, asyncssh.SFTPConnectionLost) as error:
            raise _gone(guest) from error
        except asyncssh.SFTPError as error:
            raise WrongState(
                f"{guest.words} refuses {wire_path(path)}: {error.reason}",
                remedy="look at it with `stat`: a folder that is not empty, a full disk, a read-only mount",
            ) from error
        except TimeoutError as error:
            if sftp is not None:
                self._connections.give_up_sftp(guest, sftp)
            raise TimedOut(
                f"{guest.words} did not finish with {wire_path(path)} in {FILE_TIMEOUT_S:.0f} s",
                remedy="try again, or run a command",
            ) from error
        except (OSError, asyncssh.Error) as error:
            raise _gone(guest) from error


def _gone(guest: Guest) -> GuestDown:
    return GuestDown(
        f"{guest.words} went away during the file transfer",
        remedy=f"look at it with `fluid sandboxes show {guest.words}`",
    )


async def _resolve(sftp: asyncssh.SFTPClient, path: bytes) -> bytes:
    """The real path, all links followed; the last part need not exist."""
    return _as_bytes(await sftp.realpath(path))


async def _resolve_parent(sftp: asyncssh.SFTPClient, path: bytes) -> bytes:
    """The real path of the entry itself: links are followed in the folders above it only."""
    folder, name = posixpath.split(path.rstrip(b"/") or b"/")
    if name in (b"", b".", b".."):
        return await _resolve(sftp, path)
    return posixpath.join(await _resolve(sftp, folder), name)


async def _attrs_for(sftp: asyncssh.SFTPClient, real: bytes, mode: int | None) -> asyncssh.SFTPAttrs:
    try:
        found = await sftp.stat(real)
    except asyncssh.SFTPNoSuchFile:
        return asyncssh.SFTPAttrs(permissions=DEFAULT_MODE if mode is None else mode)
    if not stat.S_ISREG(found.permissions or 0):
        raise InvalidValue(
            f"{wire_path(real)} is not a regular file", remedy="name a file, or delete it first"
        )
    kept = stat.S_IMODE(found.permissions or DEFAULT_MODE)
    return asyncssh.SFTPAttrs(
        permissions=kept if mode is None else mode, uid=found.uid or 0, gid=found.gid or 0
    )


async def _with_target(sftp: asyncssh.SFTPClient, path: bytes, attrs: asyncssh.SFTPAttrs) -> FileState:
    state = _state(attrs)
    if state.kind is FileKind.LINK:
        state.target = wire_path(_as_bytes(await sftp.readlink(path)))
    return state


def _state(attrs: asyncssh.SFTPAttrs) -> FileState:
    bits = attrs.permissions or 0
    return FileState(
        kind=_KINDS.get(stat.S_IFMT(bits), FileKind.FILE),
        mode=stat.S_IMODE(bits),
        uid=attrs.uid or 0,
        gid=attrs.gid or 0,
        size=attrs.size or 0,
        mtime=None if attrs.mtime is None else datetime.fromtimestamp(attrs.mtime, UTC),
    )


def _as_bytes(path: bytes | str) -> bytes:
    return path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape")
