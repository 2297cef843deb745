"""What a certificate or a key declares of itself: names, dates, algorithm, size. Never the key.

These facts compare what is made anew on each machine. Sources: RFC 5280, RFC 7468, PROTOCOL.key of OpenSSH.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Callable
from functools import partial

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

codecs.lookup("utf-16-be")  # of names in BMPString: a confined process cannot load it any more
MAX_PEM_BYTES = 1 << 20
MAX_NAMES = 100

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
_PUBLIC_LINE = re.compile(rb"\A(?:ssh-[a-z0-9-]+|ecdsa-sha2-[a-z0-9-]+) [A-Za-z0-9+/=]+(?: [^\n]*)?\n?\Z")


def facts(data: bytes) -> dict[str, str] | None:
    """Declared facts of the keys and the first certificate in ``data``; None when there are none.

    ``subject, issuer, names, not_before, not_after, self_signed, certificates`` of a certificate; ``key`` of
    it or of a private key; ``private_key`` (``yes`` or ``encrypted``), ``public_key``, ``request``;
    ``public`` of each, equal where two belong together.
    """
    found: dict[str, str] = {}
    if _PUBLIC_LINE.match(data):
        return _attempt(lambda: _told(serialization.load_ssh_public_key(data)))
    certificates = 0
    for match in _PEM.finditer(data[:MAX_PEM_BYTES]):
        label, block = match[1], match[0]
        if label.endswith(b"PRIVATE KEY"):
            found.update(_private(block, label))
        elif label == b"CERTIFICATE":
            certificates += 1
            if certificates == 1:
                found.update(_attempt(partial(_certificate, block)) or {})
        elif label == b"CERTIFICATE REQUEST":
            found.update(_attempt(partial(_request, block)) or {})
        elif label == b"PUBLIC KEY":
            found.update(_attempt(partial(_public, block)) or {})
    if certificates:
        found["certificates"] = str(certificates)
    return found or None


def _attempt(parse: Callable[[], dict[str, str]]) -> dict[str, str] | None:
    """What ``parse`` gives, or None for what the library cannot read: a guest may write anything."""
    try:
        return parse()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension):
        return None


def describe(key: object) -> str:
    """Algorithm and size, as in ``rsa 2048`` or ``ecdsa secp256r1``."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return f"rsa {key.key_size}"
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return f"ecdsa {key.curve.name}"
    if isinstance(key, dsa.DSAPrivateKey | dsa.DSAPublicKey):
        return f"dsa {key.key_size}"
    if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        return "ed25519 256"
    if isinstance(key, ed448.Ed448PrivateKey | ed448.Ed448PublicKey):
        return "ed448 456"
    return type(key).__name__.lower()


def _half(key: object) -> str:
    """A digest of the public half."""
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key.public_bytes(*form)).hexdigest()[:16]  # type: ignore[attr-defined]


def _private(block: bytes, label: bytes) -> dict[str, str]:
    if b"ENCRYPTED" in block[:200]:
        return {"private_key": "encrypted", "key": "encrypted"}
    load = (
        serialization.load_ssh_private_key
        if label.startswith(b"OPENSSH")
        else serialization.load_pem_private_key
    )

    def read() -> dict[str, str]:
        key = load(block, password=None)
        return {"private_key": "yes", "key": describe(key), "public": _half(key.public_key())}

    return _attempt(read) or {"private_key": "yes", "key": "unreadable"}


def _public(block: bytes) -> dict[str, str]:
    return _told(serialization.load_pem_public_key(block))


def _told(key: object) -> dict[str, str]:
    return {"public_key": describe(key), "public": _half(key)}


def _names(extensions: x509.Extensions) -> str:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    kinds = ((x509.DNSName, "DNS"), (x509.IPAddress, "IP"), (x509.RFC822Name, "email"))
    found = []
    for name in list(names)[:MAX_NAMES]:
        kind = next((word for known, word in kinds if isinstance(name, known)), type(name).__name__)
        found.append(f"{kind}:{name.value}")
    return ", ".join(sorted(found))


def _certificate(block: bytes) -> dict[str, str]:
    certificate = x509.load_pem_x509_certificate(block)
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "names": _names(certificate.extensions),
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "key": describe(certificate.public_key()),
        "public": _half(certificate.public_key()),
        "self_signed": "yes" if certificate.subject == certificate.issuer else "no",
    }


def _request(block: bytes) -> dict[str, str]:
    request = x509.load_pem_x509_csr(block)
    return {
        "request": "yes",
        "subject": request.subject.rfc4514_string(),
        "names": _names(request.extensions),
        "key": describe(request.public_key()),
        "public": _half(request.public_key()),
    }
