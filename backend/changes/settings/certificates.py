"""Certificates and private keys by what they declare. The disk reader parses them; here are the words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from backend.changes.settings.fact import Place, Reader, Stated, text
from backend.models import SettingKind

_TOLD = {
    "subject": "subject",
    "issuer": "issuer",
    "names": "names",
    "not_before": "from",
    "not_after": "until",
    "key": "key",
    "self_signed": "self-signed",
    "certificates": "certificates",
}


def certificate(place: Place) -> Iterator[Stated]:
    """The first certificate of a file: subject, expiry, and whether its private key stands in the file."""
    told = {words: place.declares[name] for name, words in _TOLD.items() if place.declares.get(name)}
    if "subject" in place.declares and "certificates" in place.declares:
        yield text(place.path), told | {"private key": place.declares.get("private_key", "not in this file")}


def private_key(place: Place) -> Iterator[Stated]:
    """A private key that stands alone: algorithm and whether a passphrase protects it."""
    if "private_key" in place.declares and "certificates" not in place.declares:
        protected = "yes" if place.declares["private_key"] == "encrypted" else "no"
        yield text(place.path), {"key": place.declares.get("key", ""), "passphrase": protected}


_ANY = re.compile(rb".*", re.DOTALL)
READERS = (
    Reader(SettingKind.CERTIFICATE, _ANY, certificate),
    Reader(SettingKind.PRIVATE_KEY, _ANY, private_key),
)
