"""HTTP/1 heads and body framing, strict: what two parsers could read in two ways is refused. No I/O.

Source: RFC 9112 (message syntax, §6 body length), RFC 9110 §7.6.1 (hop-by-hop fields).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from backend.egress.policy import split_authority

HEAD_MAX_BYTES = 32_768
CHUNK_LINE_MAX_BYTES = 1024
HTTP_PORT = 80
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_METHOD = re.compile(rb"[A-Z]{1,20}")
_HOP_BY_HOP = frozenset(
    b"connection keep-alive te trailer upgrade "
    b"proxy-connection proxy-authenticate proxy-authorization".split()
)

Fields = list[tuple[bytes, bytes]]


class Malformed(Exception):
    """A message that is not HTTP/1, or that could be read in two ways. The text says what is wrong."""


@dataclass(frozen=True)
class RequestHead:
    """A request to a proxy. ``target`` is origin-form (path and query) unless the method is CONNECT."""

    method: str
    host: str
    port: int
    target: bytes
    version: bytes
    fields: Fields
    body: int | None  # length in bytes; None means chunked
    keep_alive: bool
    expects_continue: bool

    def for_origin(self, *, absolute: bool) -> bytes:
        """The head as it goes out: Host rewritten, hop-by-hop fields gone; absolute-form to a proxy."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        authority = (host if self.port == HTTP_PORT else f"{host}:{self.port}").encode()
        target = b"http://" + authority + self.target if absolute else self.target
        lines = [b" ".join((self.method.encode(), target, self.version)), b"Host: " + authority]
        lines += _end_to_end(self.fields, drop={b"host", b"expect"})
        lines.append(b"Connection: keep-alive" if self.keep_alive else b"Connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n"


@dataclass(frozen=True)
class ResponseHead:
    """A response. ``body``: length in bytes, None for chunked, -1 until the connection closes."""

    status: int
    first_line: bytes
    fields: Fields
    body: int | None
    keep_alive: bool

    def for_client(self, *, keep_alive: bool) -> bytes:
        """The head as the guest gets it, hop-by-hop fields gone."""
        lines = [self.first_line, *_end_to_end(self.fields, drop=set())]
        lines.append(b"Connection: keep-alive" if keep_alive else b"Connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n"


def parse_request(head: bytes) -> RequestHead:
    """The head of a request to a proxy: CONNECT, or a method with ``http://`` in absolute form.

    Raises:
        Malformed: anything else.
    """
    line, fields = _split(head)
    parts = line.split(b" ")
    if len(parts) != 3 or not _METHOD.fullmatch(parts[0]) or parts[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise Malformed("not an HTTP/1 request line")
    method, target, version = parts[0].decode("ascii"), parts[1], parts[2]
    if method == "CONNECT":
        where, path = split_authority(_ascii(target)), b""
        if where is None:
            raise Malformed("CONNECT needs host:port")
    else:
        where, path = _absolute(target)
    body = _body_length(fields)
    return RequestHead(
        method=method,
        host=where[0],
        port=where[1],
        target=path,
        version=version,
        fields=fields,
        body=0 if body == -1 else body,
        keep_alive=_keeps_alive(version, fields),
        expects_continue=b"100-continue" in _tokens(fields, b"expect"),
    )


def parse_response(head: bytes, *, method: str) -> ResponseHead:
    """The head of an origin's response to ``method``.

    Raises:
        Malformed: not HTTP/1, or ambiguous.
    """
    if not head:
        raise Malformed("the server hung up without an answer")
    line, fields = _split(head)
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise Malformed("the server's answer is not HTTP/1")
    status = int(found[1])
    none = method == "HEAD" or status < 200 or status in (204, 304)
    body = 0 if none else _body_length(fields)
    return ResponseHead(
        status=status,
        first_line=line,
        fields=fields,
        body=body,
        keep_alive=_keeps_alive(line[:8], fields) and body != -1,
    )


class ChunkedEnd:
    """Finds the end of a chunked body (RFC 9112 §7.1) without holding it."""

    def __init__(self) -> None:
        self.done = False
        self._line = bytearray()
        self._skip = 0  # bytes of chunk data that are still to come
        self._after_data = False
        self._in_trailer = False

    def feed(self, data: bytes) -> int:
        """How many bytes of ``data`` belong to this body.

        Raises:
            Malformed: a chunk size that is none.
        """
        at = 0
        while at < len(data) and not self.done:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            end = data.find(b"\n", at)
            stop = len(data) if end < 0 else end + 1
            self._line += data[at:stop]
            at = stop
            if len(self._line) > CHUNK_LINE_MAX_BYTES:
                raise Malformed("a chunk's line is too long")
            if end >= 0:
                line, self._line = bytes(self._line), bytearray()
                self._take_line(line)
        return at

    def _take_line(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise Malformed("a chunk's line does not end in CRLF")
        if self._in_trailer:
            self.done = line == b"\r\n"
            return
        if self._after_data:
            if line != b"\r\n":
                raise Malformed("a chunk longer than its size")
            self._after_data = False
            return
        size = line[:-2].split(b";", 1)[0].rstrip(b" \t")
        if not _CHUNK_SIZE.fullmatch(size):
            raise Malformed("a chunk without a size")
        length = int(size, 16)
        self._in_trailer = length == 0
        self._after_data = length > 0
        self._skip = length


def _split(head: bytes) -> tuple[bytes, Fields]:
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    fields: Fields = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name):
            raise Malformed("a header line that is none")
        value = value.strip(b" \t")
        if _BAD_VALUE.search(value):
            raise Malformed("a control character in a header")
        fields.append((name, value))
    if _BAD_VALUE.search(lines[0]):
        raise Malformed("a control character in the first line")
    return lines[0], fields


def _absolute(target: bytes) -> tuple[tuple[str, int], bytes]:
    text = _ascii(target)
    if not text.lower().startswith("http://"):
        raise Malformed("this is a proxy: send http://host/path, or CONNECT host:port for https")
    parts = urlsplit(text)
    where = None if "@" in parts.netloc else split_authority(parts.netloc, HTTP_PORT)
    if where is None:
        raise Malformed("the address in the request line is malformed")
    path = text[len("http://") + len(parts.netloc) :].split("#", 1)[0]
    return where, (path if path.startswith("/") else "/" + path).encode("ascii")


def _ascii(target: bytes) -> str:
    if not target.isascii():
        raise Malformed("the address in the request line is not ASCII")
    return target.decode("ascii")


def _body_length(fields: Fields) -> int | None:
    """Length in bytes; None for chunked; -1 when no field tells."""
    codings = _tokens(fields, b"transfer-encoding")
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    if codings:
        if codings != [b"chunked"] or lengths:
            raise Malformed("an ambiguous body length")
        return None
    if not lengths:
        return -1
    if len(set(lengths)) != 1 or not lengths[0].isdigit() or len(lengths[0]) > 15:
        raise Malformed("an ambiguous body length")
    return int(lengths[0])


def _tokens(fields: Fields, name: bytes) -> list[bytes]:
    values = b",".join(value for field, value in fields if field.lower() == name)
    return [token.strip(b" \t").lower() for token in values.split(b",") if token.strip(b" \t")]


def _keeps_alive(version: bytes, fields: Fields) -> bool:
    wishes = _tokens(fields, b"connection") + _tokens(fields, b"proxy-connection")
    return b"close" not in wishes if version == b"HTTP/1.1" else b"keep-alive" in wishes


def _end_to_end(fields: Fields, *, drop: set[bytes]) -> list[bytes]:
    """Fields that travel; those named by Connection stay behind, but never the body's framing."""
    named = set(_tokens(fields, b"connection")) - {b"content-length", b"transfer-encoding", b"host"}
    gone = _HOP_BY_HOP | named | drop
    return [name + b": " + value for name, value in fields if name.lower() not in gone]
