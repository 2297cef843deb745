"""What is kept of a content: text, another encoding's text, a blob, or nothing of a secret."""

from __future__ import annotations

import hashlib

import pytest

from backend.changes.accounts import Accounts
from backend.changes.blobs import BlobStore
from backend.changes.states import TEXT_BYTES, StateMaker, decoded
from backend.disks import Content, Entry
from backend.models import FileKind

HASHES = [
    b"$6$saltsalt$" + b"a" * 86,
    b"$6$rounds=5000$saltsalt$" + b"a" * 86,
    b"$y$j9T$saltsaltsalt$" + b"a" * 43,
    b"$2b$12$" + b"a" * 53,
    b"$apr1$salt$" + b"a" * 22,
    b"$argon2id$v=19$m=65536,t=3,p=4$" + b"a" * 22,
    b"SCRAM-SHA-256$4096:c2FsdHNhbHQ=$x:y",
]


@pytest.fixture
def keep(tmp_path):
    maker = StateMaker(Accounts(), BlobStore(tmp_path), b"k" * 32)

    def make(data: bytes):
        entry = Entry(b"/x", FileKind.FILE, 0o644, 0, 0, len(data), 0, 0, 12, 1, None, None, ())
        content = Content(len(data), hashlib.sha256(data).hexdigest(), None, data, "")
        state = maker.state(entry, content)
        maker.keep(state, content)
        return state

    return make


@pytest.mark.parametrize("value", HASHES)
def test_a_password_s_hash_in_any_file_withholds_it(keep, tmp_path, value: bytes):
    data = b"users:\n  - password: " + value + b"\n"
    state = keep(data)
    assert (state.secret, state.text, state.blob) == ("password hashes", None, False)
    assert state.sha256 != hashlib.sha256(data).hexdigest()
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    assert keep(data).sha256 == state.sha256 != keep(data + b"x").sha256


@pytest.mark.parametrize("data", [b"cost is $5$ or $6$\n", b"$1 $2b$ $y$\n", b"echo $6$a$short\n"])
def test_dollars_are_no_hashes(keep, data: bytes):
    assert keep(data).text == data.decode()


@pytest.mark.parametrize(
    ("data", "encoding", "shown"),
    [
        ("grün\n".encode(), "utf-8", None),
        ("grün\n".encode("latin-1"), "iso-8859-1", "grün\n"),
        ("5 €\n".encode("cp1252"), "windows-1252", "5 €\n"),
        ("grün\n".encode("utf-16"), "utf-16", "grün\n"),
        (b"\x7fELF\x02\x01\0\0", "", None),
        (b"\xff\xfe\0", "", None),
        (bytes(range(128, 256)), "", None),
    ],
)
def test_encodings_are_told_and_the_bytes_kept_as_they_are(keep, data: bytes, encoding: str, shown):
    state = keep(data)
    assert (state.encoding, state.decoded) == (encoding, shown)
    assert state.text == (data.decode() if encoding == "utf-8" else None)
    assert state.blob is (encoding != "utf-8")


def test_what_is_too_long_is_not_decoded():
    assert decoded(b"\xfc" + b"a" * TEXT_BYTES) is None
