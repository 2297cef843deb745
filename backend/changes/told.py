"""A manifest that a guest tells of itself, where its disk cannot be read from outside; what differs in two.

Nothing of it is believed: root in the guest may lie, so whatever is made of it is labelled, and it is never
compared with what a disk showed. The form is checked strictly; secrets are taken out before anything is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from backend.changes import dpkg, running, settings
from backend.changes.blobs import BlobStore
from backend.changes.manifests import Manifests
from backend.changes.states import secret_of
from backend.disks import Comparison, Content, ContentLimits, Listed, Pair, Side, wire
from backend.disks.contents import OPAQUE, UNSEARCHED, VOUCHED, ShadowMask, secret_kind, without_passwords
from backend.disks.hardlinks import Names, shared
from backend.disks.pieces import Part, Piece, cut, records, unshared
from backend.disks.reader import entry_of
from backend.disks.records import Node, pack, unpack
from backend.disks.survey import is_shipped
from backend.errors import DiskUnreadable, FluidError, NotFound
from backend.guests import Guest, GuestTelling
from backend.models import RunningState, wire_path

MAX_NAMES = 1_000_000
MAX_SIZE = 1 << 63
KEPT_BYTES = 256 << 10  # of a file that nobody shipped
MAX_STORED_BYTES = 256 << 20
LIMITS = {"file_bytes": 8 << 20, "total_bytes": 32 << 20, "hash_bytes": 256 << 20}
MAX_ASKED = 100_000  # files with content
SHADOW = b"/etc/shadow"
UNREAD = "its content was not asked for"
_TOO_MUCH = "too many bytes to be told"
_GONE = "it could not be read"

_S_IFMT, _S_IFDIR, _S_IFREG = 0xF000, 0x4000, 0x8000
_PATH = re.compile(rb"/|(?:/(?!\.{1,2}(?:/|\Z))[^/\0]{1,255})+", re.DOTALL)
_PATH_BYTES = 4096
_SHA256, _MD5 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{32}")
_PAST = b"0"  # after a slash: all that is in a folder sorts before it
_PACKAGES = b"/var/lib/dpkg/"
_LISTED_KINDS = {_S_IFDIR: "d", 0xA000: "l", _S_IFREG: "f"}


@dataclass(frozen=True)
class Told:
    """What a guest told at one moment. ``packed``: records as in a manifest of a disk, but nobody vouches for
    them. ``contents``: of the regular files that were asked for, without secrets. ``shadow``: masked."""

    packed: bytes
    contents: Mapping[bytes, Content]
    shadow: bytes | None = None

    @cached_property
    def nodes(self) -> dict[bytes, Node]:
        """By path, in order."""
        return {node.path: node for node in unpack(self.packed)}

    @cached_property
    def order(self) -> list[bytes]:
        """The paths, sorted."""
        return list(self.nodes)

    def content(self, node: Node | None) -> Content | None:
        """None for what is no regular file."""
        if node is None or node.mode & _S_IFMT != _S_IFREG:
            return None
        return self.contents.get(node.path) or Content(node.size, None, None, None, UNREAD)

    def read(self, paths: Iterable[bytes]) -> dict[bytes, bytes | None]:
        """The bytes of those that were kept."""
        found = {path: self.contents.get(path) for path in paths}
        return {path: one.data if one is not None else None for path, one in found.items()}

    def pieces(self) -> list[Piece]:
        """For the store, cut as a disk's manifest is: with each name's record goes its content."""
        return [Piece(piece.first, self._framed(piece.data)) for piece in cut(records(self.packed))[0]]

    def _framed(self, packed: bytes) -> bytes:
        paths, blobs = [path for path, _ in records(packed)], wire.Blobs()
        rows = {
            wire.text(path): {**asdict(self.contents[path]), "data": blobs.add(self.contents[path].data)}
            for path in paths
            if path in self.contents
        }
        shadow = self.shadow if SHADOW in paths else None
        head = {"packed": blobs.add(packed), "contents": rows, "shadow": blobs.add(shadow)}
        return b"".join(wire.frame(head, blobs.parts))

    @classmethod
    def of(cls, pieces: Iterable[bytes]) -> Told:
        """What :meth:`pieces` gave, or some of them, in order."""
        packed, contents, shadow = bytearray(), dict[bytes, Content](), None
        for piece in pieces:
            head, blobs = wire.parse(piece)
            packed += blobs[head["packed"]]
            shadow = shadow or _blob(head["shadow"], blobs)
            for path, row in head["contents"].items():
                contents[wire.raw(path)] = Content(**{**row, "data": _blob(row["data"], blobs)})
        return cls(bytes(packed), contents, shadow)


def _blob(at: int | None, blobs: list[bytes]) -> bytes | None:
    return None if at is None else blobs[at]


class Asker:
    """Asks guests, and keeps what they told."""

    def __init__(
        self,
        telling: GuestTelling,
        manifests: Manifests,
        blobs: BlobStore,
        fingerprint_key: bytes,
        limits: ContentLimits,
    ) -> None:
        """``limits``: which folders are opaque and which files are read whole, as of a disk. ``blobs``: where
        an older version kept whole what was told."""
        self._telling, self._manifests, self._blobs = telling, manifests, blobs
        self._key, self._limits = fingerprint_key, limits

    async def ask(self, guest: Guest, since: Told | None = None, *, root: bytes = b"/") -> Told:
        """What ``guest`` says that it holds now. Contents: of small files that nobody shipped, and of all
        that is another than it was ``since``.

        Raises:
            DiskUnreadable: the answer is no answer.
            GuestDown, CommandLost: there is none.
        """
        packed = await self._telling.tree(guest, root=root)
        nodes = await asyncio.to_thread(checked, packed)
        same, keep = await asyncio.to_thread(self._wanted, nodes, since)
        data = await self._telling.contents(guest, keep, LIMITS, root=root)
        return await asyncio.to_thread(self._made, packed, since, same, keep, data)

    async def running(self, guest: Guest) -> RunningState:
        """What ``guest`` says listens and runs in it now. Whatever it does costs a note, and no more."""
        try:
            return running.parse(await self._telling.running(guest))
        except FluidError as error:
            return RunningState(notes=[f"what listens and runs is not told: {error.message}"])

    def without_secrets(self, packed: bytes, clear: Mapping[bytes, Content]) -> Told:
        """The same without a secret, to be compared and shown. ``packed``: records that were checked."""
        shadow = clear[SHADOW].data if SHADOW in clear else None
        return Told(
            packed,
            {path: self._without_secret(path, one) for path, one in clear.items()},
            None if shadow is None else ShadowMask(self._key).mask(shadow),
        )

    async def keep(self, told: Told) -> str:
        """The name under which it is found again."""
        pieces = await asyncio.to_thread(told.pieces)
        return (await self._manifests.keep(len(told.nodes), pieces)).sha256

    async def kept(self, name: str) -> Told:
        """Raises :class:`NotFound`."""
        parts = await self._parts(name)
        if parts is None:
            return await asyncio.to_thread(lambda: Told.of([self._whole(name)]))
        return await self._some(parts)

    async def kept_both(self, before: str, after: str) -> tuple[Told, Told]:
        """Two of them for :func:`compare`: of each no more than the pieces that the other has not, and those
        of what is read whole or listed. Raises :class:`NotFound`."""
        old, new = await self._parts(before), await self._parts(after)
        if old is None or new is None:
            return await self.kept(before), await self.kept(after)
        differing = {part for side in unshared(old, new) for part in side}
        some = [[part for part in side if part in differing | self._needed(side)] for side in (old, new)]
        return await self._some(some[0]), await self._some(some[1])

    def _needed(self, parts: Sequence[Part]) -> set[Part]:
        """The parts that hold what a comparison reads though it did not change."""
        firsts, found = [part.first for part in parts], set[Part]()
        spans = [(path, path) for path in (*self._limits.whole, *settings.MAINS)]
        spans += [(folder, folder + _PAST) for folder in self._limits.listed]
        for low, high in spans:
            found.update(parts[max(bisect_right(firsts, low) - 1, 0) : bisect_right(firsts, high)])
        return found

    async def _parts(self, name: str) -> list[Part] | None:
        """None for what an older version kept whole."""
        try:
            return (await self._manifests.parts(name))[1]
        except NotFound:
            return None

    async def _some(self, parts: Sequence[Part]) -> Told:
        pieces = await self._manifests.pieces([part.sha256 for part in parts])
        return await asyncio.to_thread(Told.of, [pieces[part.sha256] for part in parts])

    def _whole(self, name: str) -> bytes:
        return zlib.decompressobj().decompress(self._blobs.get(name), MAX_STORED_BYTES)

    def _wanted(
        self, nodes: Mapping[bytes, Node], since: Told | None
    ) -> tuple[list[bytes], dict[bytes, bool]]:
        """Paths whose content is known already, and those to ask for: are their bytes kept?"""
        earlier: Mapping[bytes, Node] = since.nodes if since else {}
        known: Mapping[bytes, Content] = since.contents if since else {}
        same: list[bytes] = []
        keep: dict[bytes, bool] = {}
        whole = {path: nodes[path] for path in self._limits.whole if path in nodes}
        for path, node in {**whole, **nodes}.items():
            if node.mode & _S_IFMT != _S_IFREG:
                continue
            kept = path in whole or self._is_kept(node)
            if earlier.get(path) == node and path in known:
                same.append(path)
            elif kept or (since and earlier.get(path) != node):
                keep[path] = kept
        if len(keep) > MAX_ASKED:
            raise DiskUnreadable(
                f"a guest's files were asked for instead: {len(keep)} have another content",
                remedy="compare with a later snapshot",
            )
        return same, keep

    def _is_kept(self, node: Node) -> bool:
        if node.size > KEPT_BYTES or node.path.startswith(self._limits.opaque):
            return False
        return node.path.startswith(_PACKAGES) or not is_shipped(node.path)

    def _made(
        self, packed: bytes, since: Told | None, same: list[bytes], keep: dict[bytes, bool], data: bytes
    ) -> Told:
        told = self.without_secrets(packed, parse_contents(keep, data))
        if since is None:
            return told
        contents = {path: since.contents[path] for path in same}
        shadow = since.shadow if SHADOW in same else told.shadow
        return Told(packed, contents | dict(told.contents), shadow)

    def _without_secret(self, path: bytes, one: Content) -> Content:
        """What may be kept of a content."""
        if path.startswith(self._limits.opaque) and path not in self._limits.whole:
            return replace(one, data=None, withheld=OPAQUE if one.sha256 else one.withheld)
        if one.data is None and not secret_kind(path, b""):
            return one
        kind, shown = secret_kind(path, one.data or b"") or secret_of(one), None
        if not kind:
            shown, kind = without_passwords(path, one.data or b"")
            if not kind:
                return one
            if kind == UNSEARCHED:
                return replace(one, data=None, withheld=UNSEARCHED)
        sums = one.sha256 or ""
        hidden = hmac.new(self._key, sums.encode(), hashlib.sha256).hexdigest() if sums else None
        return Content(one.size, hidden, None, shown, kind)


# --- what a guest sent --------------------------------------------------------------------------------------


def checked(packed: bytes) -> dict[bytes, Node]:
    """The names by path, if the records are such as an honest guest can send: sorted, each under a folder.

    Raises:
        DiskUnreadable: anything else.
    """
    nodes: dict[bytes, Node] = {}
    last, at = b"", 0
    for node in unpack(packed):
        record = pack(node)
        if packed[at : at + len(record)] != record:
            raise _broken("a record is not in its one form")
        at += len(record)
        if len(nodes) >= MAX_NAMES:
            raise _broken(f"it has more than {MAX_NAMES} names")
        if len(node.path) > _PATH_BYTES or not _PATH.fullmatch(node.path) or node.path <= last:
            raise _broken("a path is none, or stands twice")
        if node.path != b"/":
            folder = nodes.get(node.path.rpartition(b"/")[0] or b"/")
            if folder is None or folder.mode & _S_IFMT != _S_IFDIR:
                raise _broken("a path is in no folder")
        elif node.mode & _S_IFMT != _S_IFDIR:
            raise _broken("its root is no folder")
        _check_node(node)
        nodes[node.path] = node
        last = node.path
    if not nodes:
        raise _broken("it has no names")
    return nodes


def _check_node(node: Node) -> None:
    entry_of(node)  # its kind is one of Linux's
    if node.size >= MAX_SIZE:
        raise _broken("a size is beyond all limits")
    if node.target is not None and (not node.target or b"\0" in node.target):
        raise _broken("a link has no target")
    names = [name for name, _ in node.xattrs]
    if names != sorted(set(names)) or not all(names):
        raise _broken("attributes are not in order")


def parse_contents(keep: Mapping[bytes, bool], data: bytes) -> dict[bytes, Content]:
    """What a guest told of the files ``keep``. Bytes must have the size and the sums that it tells of them.

    Raises:
        DiskUnreadable: anything else.
    """
    try:
        head, blobs = wire.parse(data)
        rows = head["files"]
        if not isinstance(rows, list) or len(rows) != len(keep):
            raise ValueError("it tells of other files")
        return {
            path: _content(row, blobs, wanted) for (path, wanted), row in zip(keep.items(), rows, strict=True)
        }
    except (DiskUnreadable, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _broken(str(error)) from error


def _content(row: Any, blobs: list[bytes], wanted: bool) -> Content:
    if row is None:
        return Content(0, None, None, None, _GONE)
    size, sha256, md5, at = row
    if type(size) is not int or not 0 <= size < MAX_SIZE:
        raise ValueError("a size is none")
    for told, form in ((sha256, _SHA256), (md5, _MD5)):
        if told is not None and not (isinstance(told, str) and form.fullmatch(told)):
            raise ValueError("a sum is none")
    if sha256 is None:
        return Content(size, None, None, None, f"over {LIMITS['hash_bytes']} bytes")
    if at is None:
        return Content(size, sha256, md5, None, _TOO_MUCH if wanted else UNREAD)
    if type(at) is not int or not 0 <= at < len(blobs) or not wanted:
        raise ValueError("bytes that were not asked for")
    data = blobs[at]
    sums = (hashlib.sha256(data).hexdigest(), hashlib.md5(data, usedforsecurity=False).hexdigest())
    if (len(data), *sums) != (size, sha256, md5):
        raise ValueError("bytes of another size or sum than it tells")
    return Content(size, sha256, md5, data, "")


def _broken(why: str) -> DiskUnreadable:
    return DiskUnreadable(f"what a guest told of its files cannot be used: {why}")


# --- two of them --------------------------------------------------------------------------------------------


def compare(before: Told, after: Told, limits: ContentLimits) -> tuple[Comparison, list[str]]:
    """What differs between what a guest told twice, as of two disks; and notes on what cannot be told."""
    notes: list[str] = []
    paths = _paths(before, after)
    names = shared(*(_linked(map(told.nodes.get, paths)) for told in (before, after)))
    pairs = [pair for path in paths if (pair := _pair(path, before, after, names)) is not None]
    sums = _stated_sums(pairs)
    pairs = [_vouched(pair, sums) for pair in pairs]
    unknown = [pair for pair in pairs if _unknown(pair)]
    if unknown:
        notes.append(
            f"{len(unknown)} files, {wire_path(unknown[0].path)} the first: their former content was not "
            "asked for; perhaps only their times changed"
        )
    if lost := [pair for pair in pairs if _GONE in _withheld(pair)]:
        first = wire_path(lost[0].path)
        notes.append(f"{len(lost)} files, {first} the first: they were there, and could not be read")
    old, new = (_side(told, limits) for told in (before, after))
    for path in limits.whole:
        if _is_lost(path, before, old) or _is_lost(path, after, new):
            notes.append(f"{wire_path(path)}: what it states is not told (the guest did not tell it whole)")
            old.whole[path] = new.whole[path] = None  # half of it would be a lie
    return Comparison(tuple(pairs), old, new), notes


def _withheld(pair: Pair) -> list[str]:
    return [one.withheld for one in (pair.before_content, pair.after_content) if one is not None]


def _is_lost(path: bytes, told: Told, side: Side) -> bool:
    return told.content(told.nodes.get(path)) is not None and side.whole[path] is None


def _paths(before: Told, after: Told) -> list[bytes]:
    return sorted(
        path
        for path in before.nodes.keys() | after.nodes.keys()
        if before.nodes.get(path) != after.nodes.get(path)
    )


def _linked(nodes: Iterable[Node | None]) -> Iterator[tuple[bytes, tuple[int, ...]]]:
    """Those that may have other names, and what tells files apart though they be of two file systems."""
    for node in nodes:
        if node is not None and node.links > 1 and node.mode & _S_IFMT != _S_IFDIR:
            yield node.path, (node.inode, node.links, node.mode, node.size, node.mtime_ns, node.ctime_ns)


def _pair(path: bytes, before: Told, after: Told, names: Sequence[Names]) -> Pair | None:
    old, new = before.nodes.get(path), after.nodes.get(path)
    old_content, new_content = before.content(old), after.content(new)
    renamed = names[0].get(path) is not names[1].get(path)
    if old is not None and new is not None and not renamed and _attributes(old) == _attributes(new):
        if old_content is None or new_content is None:
            return None  # a folder, a device: nothing but times and counts
        if old_content.sha256 and (old_content.size, old_content.sha256) == (
            new_content.size,
            new_content.sha256,
        ):
            return None
    return Pair(
        None if old is None else entry_of(old, old_content.sha256 if old_content else None),
        None if new is None else entry_of(new, new_content.sha256 if new_content else None),
        old_content,
        new_content,
        same_content=old is not None and new is not None and _unwritten(old, new),
    )


def _unwritten(old: Node, new: Node) -> bool:
    """By the guest's word, as all of it is."""
    return (old.size, old.mtime_ns) == (new.size, new.mtime_ns)


def _attributes(node: Node) -> tuple[object, ...]:
    return node.mode, node.uid, node.gid, node.rdev, node.target, node.xattrs


def _unknown(pair: Pair) -> bool:
    """Whether both sides are files, and the first one's content was never known."""
    old, new = pair.before_content, pair.after_content
    return old is not None and new is not None and old.sha256 is None and old.withheld == UNREAD


def _stated_sums(pairs: Iterable[Pair]) -> dict[bytes, str]:
    """Path → MD5 from the sums of the packages that are new."""
    found: dict[bytes, str] = {}
    for pair in pairs:
        content = pair.after_content
        if dpkg.info_name(pair.path, b".md5sums") and content is not None and content.data is not None:
            found |= dpkg.parse_sums(content.data)
    return found


def _vouched(pair: Pair, sums: Mapping[bytes, str]) -> Pair:
    """A package's own content is marked as such, as of a disk."""
    content = pair.after_content
    if content is None or content.data is not None or content.md5 is None:
        return pair
    own = sums.get(dpkg.merged(pair.path)) == content.md5
    return replace(pair, after_content=replace(content, withheld=VOUCHED)) if own else pair


def _side(told: Told, limits: ContentLimits) -> Side:
    whole = told.read(limits.whole)
    if SHADOW in whole:
        whole[SHADOW] = told.shadow
    return Side(whole, {folder: tuple(_listing(told, folder)) for folder in limits.listed})


def _listing(told: Told, folder: bytes) -> Iterator[Listed]:
    """What is in a folder and its direct subfolders, by path from it."""
    top = told.nodes.get(folder)
    if top is None or top.mode & _S_IFMT != _S_IFDIR:
        return
    order, prefix = told.order, folder + b"/"
    for path in order[bisect_left(order, prefix) :]:
        if not path.startswith(prefix):
            return
        inner = path[len(prefix) :]
        if inner.count(b"/") < 2:
            node = told.nodes[path]
            yield Listed(inner, _LISTED_KINDS.get(node.mode & _S_IFMT, "o"), node.target or b"")
