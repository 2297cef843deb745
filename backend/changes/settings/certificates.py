"""Certificates and private keys by what they declare. The disk reader parses them; here are the words.

A certificate has a private key where one of the same public half stands on the same side of the comparison,
among what changed; of a key that did not change nothing is known, and that is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from backend.changes.settings.fact import Fact, Place, Reader, Stated, text
from backend.models import SettingKind

HALF = "public key"
_ELSEWHERE = "none among the changes"
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
        told["private key"] = place.declares.get("private_key", _ELSEWHERE)
        yield text(place.path), told | {HALF: place.declares.get("public", "")}


def private_key(place: Place) -> Iterator[Stated]:
    """A private key that stands alone: algorithm and whether a passphrase protects it."""
    if "private_key" in place.declares and "certificates" not in place.declares:
        protected = "yes" if place.declares["private_key"] == "encrypted" else "no"
        values = {"key": place.declares.get("key", ""), "passphrase": protected}
        yield text(place.path), values | {HALF: place.declares.get("public", "")}


def paired(certificates: list[Fact], keys: list[Fact]) -> list[Fact]:
    """The certificates of one side with the paths of their keys."""
    places = {fact.values[HALF]: text(fact.path) for fact in keys if fact.values[HALF]}
    found = []
    for fact in certificates:
        place = places.get(fact.values[HALF], "")
        own = {"private key": place} if place and fact.values["private key"] == _ELSEWHERE else {}
        found.append(Fact(fact.name, {**fact.values, **own}, fact.path))
    return found


_ANY = re.compile(rb".*", re.DOTALL)
READERS = (
    Reader(SettingKind.CERTIFICATE, _ANY, certificate),
    Reader(SettingKind.PRIVATE_KEY, _ANY, private_key),
)
