"""Brings an image that somebody else made into a file of ours, before anything looks into it.

What comes is counted, hashed and written with its holes kept. A URL is fetched by our own client: http or
https, no redirect to anything else, a checksum that the user gives, an end to every wait.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import re
import ssl
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import httpx2

from backend.errors import (
    ImageRefused,
    InvalidValue,
    NoSpace,
    RoleDenied,
    TimedOut,
    TooLarge,
    Unavailable,
)

logging.getLogger(httpx2.__name__).setLevel(logging.WARNING)  # it logs URLs whole, the signed ones too

CHUNK_BYTES = 1 << 20
MAX_REDIRECTS = 5
SHA256 = re.compile(r"[0-9a-f]{64}")
SECURE_STEPS = {("http", "http"), ("http", "https"), ("https", "https")}
PROGRESS_STEP_S = 10.0
OK, REDIRECTS = 200, (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class FetchLimits:
    """``silent_s``: how long a server may say nothing."""

    bytes: int
    silent_s: float = 30
    total_s: float = 3600


class Staging:
    """The file of ours, as it fills."""

    def __init__(self, file: BinaryIO, limit_bytes: int, reserve_bytes: int) -> None:
        self._file = file
        self._limit_bytes = limit_bytes
        self._reserve_bytes = reserve_bytes
        self._digest = hashlib.sha256()
        self.bytes = 0

    def write(self, chunk: bytes) -> None:
        """The next bytes. Raises :class:`TooLarge`, :class:`NoSpace`. Blocking."""
        self.bytes += len(chunk)
        self.allow(self.bytes)
        room = os.fstatvfs(self._file.fileno())
        if room.f_bavail * room.f_frsize < self._reserve_bytes:
            raise NoSpace(
                f"the disk has no room for the image beside its reserve of {self._reserve_bytes >> 20} MB",
                remedy="free space there, or lower limits.disk_reserve_mb",
            )
        self._digest.update(chunk)
        if chunk.count(0) == len(chunk):
            self._file.seek(len(chunk), os.SEEK_CUR)
        else:
            self._file.write(chunk)

    def allow(self, size: int) -> None:
        """:class:`TooLarge` for more than what is taken."""
        if size > self._limit_bytes:
            raise TooLarge(
                f"the image has more than {self._limit_bytes >> 20} MB",
                remedy="take a smaller one, or raise limits.image_gb",
            )

    def end(self, expected: str) -> str:
        """Complete the file; its SHA-256. :class:`ImageRefused` when ``expected``, if any, is another."""
        self._file.truncate(self.bytes)
        self._file.flush()
        found = self._digest.hexdigest()
        if expected and found != expected:
            raise ImageRefused(
                f"the image's SHA-256 is {found}, not {expected}",
                remedy="fetch it again, or compare with the publisher's list of checksums",
            )
        return found


def is_url(source: str) -> bool:
    return "://" in source


def as_kept(source: str) -> str:
    """What audit and catalog hold of a source: a URL without its query, where a signed one has its secret."""
    return urlsplit(source)._replace(query="", fragment="").geturl() if is_url(source) else source


def check_source(source: str, sha256: str) -> None:
    """InvalidValue for a source that is not taken, before anything is begun."""
    if sha256 and not SHA256.fullmatch(sha256):
        raise InvalidValue(f"{sha256!r} is not a SHA-256", remedy="give 64 hexadecimal digits, lower case")
    if not is_url(source):
        if not source.startswith("/"):
            raise InvalidValue(f"{source!r} is not an absolute path", remedy="begin it with /")
        return
    parts = urlsplit(source)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidValue(f"{parts.scheme}: is not fetched", remedy="give an http or https URL, or a file")
    if parts.username or parts.password:
        raise InvalidValue(
            "the URL holds a password, which the audit would keep",
            remedy="fetch it yourself, import the file",
        )
    if not sha256:
        raise InvalidValue(
            "an image from a URL needs its checksum", remedy="--sha256, from the publisher's list"
        )


async def copy_file(source: Path, into: Staging, reader_uid: int) -> None:
    """The file of this machine, without following a link, as far as its reader might read it too."""
    fd = _open(source, reader_uid)
    with os.fdopen(fd, "rb", buffering=0) as file:
        into.allow(os.fstat(fd).st_size)
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            await asyncio.to_thread(into.write, chunk)


def _open(path: Path, reader_uid: int) -> int:
    """O_NONBLOCK: nobody waits for the other end of a pipe."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        words = "it is a symbolic link" if error.errno == errno.ELOOP else os.strerror(error.errno or 0)
        raise InvalidValue(
            f"{path} cannot be read by the backend: {words}", remedy="name a file of the backend's machine"
        ) from error
    found = os.fstat(fd)
    try:
        if not stat.S_ISREG(found.st_mode):
            raise InvalidValue(f"{path} is not a regular file", remedy="name an image file")
        readable = found.st_uid == reader_uid or found.st_mode & stat.S_IROTH
        if reader_uid and not (readable and _reaches(path, reader_uid)):
            raise RoleDenied(
                f"{path} is not yours to read",
                remedy=f"chmod o+r {path}, and o+x the folders that it lies in; or own them",
            )
    except BaseException:
        os.close(fd)
        raise
    return fd


def _reaches(path: Path, uid: int) -> bool:
    """Whether ``uid`` may go through the folders of a file, by what they grant to their owner and to all."""
    folders = Path(os.path.realpath(path)).parents
    return all(found.st_uid == uid or found.st_mode & stat.S_IXOTH for found in map(os.stat, folders))


async def download(url: str, into: Staging, limits: FetchLimits, progress: Callable[[str], None]) -> None:
    """The URL's content as it is on the wire; never decoded."""
    try:
        async with (
            asyncio.timeout(limits.total_s),
            httpx2.AsyncClient(
                follow_redirects=False,
                timeout=httpx2.Timeout(limits.silent_s),
                headers={"Accept-Encoding": "identity"},
            ) as client,
        ):
            for _ in range(MAX_REDIRECTS + 1):
                async with client.stream("GET", url) as answer:
                    if answer.status_code not in REDIRECTS:
                        return await _receive(answer, into, progress)
                    url = _next_url(url, answer.headers.get("location", ""))
            raise ImageRefused(
                f"the URL redirects more than {MAX_REDIRECTS} times", remedy="name its last address"
            )
    except (httpx2.TimeoutException, TimeoutError) as error:
        raise TimedOut(
            f"{urlsplit(url).hostname} did not deliver the image: it was silent for {limits.silent_s:g} s, "
            f"or took longer than {limits.total_s:g} s in all; {into.bytes >> 20} MB had come",
            remedy="try again, or fetch it yourself and import the file",
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        if problem := _untrusted(error):
            raise Unavailable(
                f"{urlsplit(url).hostname} shows a certificate that this machine does not trust: {problem}",
                remedy="add its authority to this machine's certificates, or name it in the backend's "
                "SSL_CERT_FILE, or fetch the image yourself and import the file",
            ) from error
        raise Unavailable(
            f"the image cannot be fetched: {error or type(error).__name__}",
            remedy="see that this machine reaches that server, or fetch it yourself and import the file",
        ) from error


def _untrusted(error: BaseException | None) -> str:
    """Why a certificate was refused; empty where something else went wrong."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return ""


def _next_url(url: str, location: str) -> str:
    """Where a redirect leads, if it may lead there."""
    target = urlsplit(urljoin(url, location))
    if (urlsplit(url).scheme, target.scheme) not in SECURE_STEPS or not target.hostname:
        raise ImageRefused(
            f"the URL redirects to {target.scheme or 'nowhere'}:, which is not followed",
            remedy="name its last address",
        )
    return target.geturl()


async def _receive(answer: httpx2.Response, into: Staging, progress: Callable[[str], None]) -> None:
    if answer.status_code != OK:
        raise Unavailable(
            f"{answer.url.host} answers {answer.status_code} for the image", remedy="check the URL"
        )
    declared = answer.headers.get("content-length", "")
    total = int(declared) if declared.isdecimal() else 0
    into.allow(total)
    told = time.monotonic()
    async for chunk in answer.aiter_raw(CHUNK_BYTES):
        await asyncio.to_thread(into.write, chunk)
        if time.monotonic() - told > PROGRESS_STEP_S:
            told = time.monotonic()
            progress(f"fetched {into.bytes >> 20}" + (f" of {total >> 20} MB" if total else " MB"))
