"""From what the disk reader found to what a change shows: text, a blob, or why the content is withheld."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice

from backend.changes.accounts import Accounts
from backend.changes.blobs import BlobStore
from backend.disks import Content, Entry
from backend.disks.contents import CREDENTIALS, PASSWORDS, PRIVATE_KEY, as_utf8
from backend.models import ChangeVerb, FileKind, FileState, wire_path
from backend.secret_marks import PASSWORD_HASH

TEXT_BYTES = 256 << 10
MAX_NAMES = 20  # of one file; `links` counts all
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_C1 = re.compile(rb"[\x80-\x9f]")
_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
SECRETS = (PRIVATE_KEY, PASSWORDS, CREDENTIALS)


class StateMaker:
    """Makes the states of one side of a diff."""

    def __init__(self, accounts: Accounts, blobs: BlobStore, fingerprint_key: bytes) -> None:
        self._accounts, self._blobs, self._key = accounts, blobs, fingerprint_key

    def state(
        self, entry: Entry | None, content: Content | None, names: Iterable[bytes] = ()
    ) -> FileState | None:
        """What stands at a path, without its content. ``names``: all that lead to the same file."""
        if entry is None:
            return None
        secret = secret_of(content)
        sha256 = content.sha256 if content is not None else None
        return FileState(
            kind=entry.kind,
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            owner=self._accounts.user_names.get(entry.uid, ""),
            group=self._accounts.group_names.get(entry.gid, ""),
            size=entry.size if content is not None else 0,
            device="" if entry.rdev is None else f"{entry.rdev[0]}:{entry.rdev[1]}",
            links=1 if entry.kind is FileKind.DIRECTORY else entry.links,
            same_file=list(islice((wire_path(name) for name in names if name != entry.path), MAX_NAMES)),
            mtime=_time(entry.mtime_ns),
            target=None if entry.target is None else wire_path(entry.target),
            xattrs={wire_path(name): value.hex() for name, value in entry.xattrs},
            sha256=self._fingerprint(sha256) if secret and sha256 else sha256,
            secret=secret,
            certificate=content.facts if content is not None else None,
        )

    def keep(self, state: FileState | None, content: Content | None) -> None:
        """Add the content to a state: as text where it is text, as a blob where it is not. Of a file with
        passwords it is the text around them, and never a blob."""
        if state is None or content is None or content.data is None:
            return
        if state.secret:
            if content.withheld == CREDENTIALS and not PASSWORD_HASH.search(content.data):
                state.text = as_text(content.data)
            return
        state.text = as_text(content.data)
        if state.text is None:
            state.encoding, state.decoded = decoded(content.data) or ("", None)
            self._blobs.put(content.data)
            state.blob = True
        else:
            state.encoding = "utf-8"

    def _fingerprint(self, sha256: str) -> str:
        """Equal for equal secrets of this installation, and no help in guessing one."""
        return hmac.new(self._key, sha256.encode(), hashlib.sha256).hexdigest()


def secret_of(content: Content | None) -> str:
    """Why a content is withheld: by its reader's word, or for a password's hash in it."""
    if content is None:
        return ""
    if content.withheld in SECRETS:
        return content.withheld
    return PASSWORDS if content.data is not None and PASSWORD_HASH.search(as_utf8(content.data)) else ""


def decoded(data: bytes) -> tuple[str, str] | None:
    """The encoding and the text of what is text in another encoding than UTF-8, up to 256 KiB; else None."""
    if len(data) > TEXT_BYTES:
        return None
    for mark, name in _MARKS:
        if data.startswith(mark):
            try:
                text = data.decode(name)
            except UnicodeDecodeError:
                return None
            return None if "\0" in text else (name, text)
    if _BINARY.search(data) or sum(byte > 0x7F for byte in data) * 3 > len(data):
        return None
    if not _C1.search(data):
        return "iso-8859-1", data.decode("iso-8859-1")
    try:
        return "windows-1252", data.decode("windows-1252")
    except UnicodeDecodeError:
        return None


def as_text(data: bytes) -> str | None:
    """UTF-8 text without NUL, up to 256 KiB; None for all else."""
    if len(data) > TEXT_BYTES or b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def verb(before: FileState | None, after: FileState | None, *, same_content: bool = False) -> ChangeVerb:
    """What happened to a path. A content that was not hashed is another one, unless it is known to be the
    same."""
    if before is None:
        return ChangeVerb.ADDED
    if after is None:
        return ChangeVerb.REMOVED
    same = (before.kind, before.target, before.sha256, before.size) == (
        after.kind,
        after.target,
        after.sha256,
        after.size,
    )
    known = same_content or after.kind is not FileKind.FILE or after.sha256 is not None
    return ChangeVerb.METADATA if same and known else ChangeVerb.MODIFIED


def _time(ns: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(ns // 1000 / 1_000_000, UTC)
    except (OverflowError, OSError, ValueError):
        return None  # a guest may write any year
