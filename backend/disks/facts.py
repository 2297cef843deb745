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
from cryptography.x509.oid import ExtendedKeyUsageOID

codecs.lookup("utf-16-be")  # of names in BMPString: a confined process cannot load it any more
MAX_PEM_BYTES = 1 << 20
MAX_NAMES = 100
MAX_CHARS = 1000
_DIGEST_CHARS = 16
_USAGES = {
    "digital_signature": "digitalSignature",
    "content_commitment": "nonRepudiation",
    "key_encipherment": "keyEncipherment",
    "data_encipherment": "dataEncipherment",
    "key_agreement": "keyAgreement",
    "key_cert_sign": "keyCertSign",
    "crl_sign": "cRLSign",
}
_PURPOSES = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    ExtendedKeyUsageOID.CODE_SIGNING: "codeSigning",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "emailProtection",
    ExtendedKeyUsageOID.TIME_STAMPING: "timeStamping",
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSPSigning",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "anyExtendedKeyUsage",
}
_TOLD_ELSEWHERE = (x509.SubjectAlternativeName, x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)
"""The names, and what follows from the keys."""

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
_PUBLIC_LINE = re.compile(rb"\A(?:ssh-[a-z0-9-]+|ecdsa-sha2-[a-z0-9-]+) [A-Za-z0-9+/=]+(?: [^\n]*)?\n?\Z")


def facts(data: bytes) -> dict[str, str] | None:
    """Declared facts of the keys and the first certificate in ``data``; None when there are none.

    ``subject, issuer, names, extensions, not_before, not_after, self_signed, certificates`` of a certificate;
    ``key`` of it or of a private key; ``private_key`` (``yes`` or ``encrypted``), ``public_key``,
    ``request``; ``public`` of each, equal where two belong together; ``chain``, of the further certificates.
    """
    found: dict[str, str] = {}
    if _PUBLIC_LINE.match(data):
        return _attempt(lambda: _told(serialization.load_ssh_public_key(data)))
    certificates, chain = 0, list[str]()
    for match in _PEM.finditer(data[:MAX_PEM_BYTES]):
        label, block = match[1], match[0]
        if label.endswith(b"PRIVATE KEY"):
            found.update(_private(block, label))
        elif label == b"CERTIFICATE":
            certificates += 1
            if certificates == 1:
                found.update(_attempt(partial(_certificate, block)) or {})
            else:
                told = _attempt(partial(_certificate, block)) or {"subject": _digest(block)}
                chain.append(" ".join(told.get(name, "") for name in ("subject", "names", "extensions")))
        elif label == b"CERTIFICATE REQUEST":
            found.update(_attempt(partial(_request, block)) or {})
        elif label == b"PUBLIC KEY":
            found.update(_attempt(partial(_public, block)) or {})
    if certificates:
        found["certificates"] = str(certificates)
    if chain:
        found["chain"] = _short("; ".join(chain))
    return found or None


def _attempt(parse: Callable[[], dict[str, str]]) -> dict[str, str] | None:
    """What ``parse`` gives, or None for what the library cannot read: a guest may write anything."""
    try:
        return parse()
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ):
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
    return _digest(key.public_bytes(*form))  # type: ignore[attr-defined]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGEST_CHARS]


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


def _extensions(extensions: x509.Extensions) -> str:
    """What it may be used for, by the names of RFC 5280; of any other extension the number and a digest."""
    told = "; ".join(sorted(_extension(one) for one in extensions if not _is_told_elsewhere(one))) or "none"
    return _short(told)


def _short(told: str) -> str:
    """The text; a very long one with a digest of the whole in the place of its end."""
    return told if len(told) <= MAX_CHARS else f"{told[:MAX_CHARS]}… {_digest(told.encode())}"


def _is_told_elsewhere(extension: x509.Extension[x509.ExtensionType]) -> bool:
    return isinstance(extension.value, _TOLD_ELSEWHERE)


def _extension(extension: x509.Extension[x509.ExtensionType]) -> str:
    match extension.value:
        case x509.BasicConstraints() as limits:
            path = "" if limits.path_length is None else f", pathlen:{limits.path_length}"
            name, words = "basicConstraints", f"CA:{'TRUE' if limits.ca else 'FALSE'}{path}"
        case x509.KeyUsage() as usage:
            used = [word for name, word in _USAGES.items() if getattr(usage, name)]
            used += ["encipherOnly"] if usage.key_agreement and usage.encipher_only else []
            used += ["decipherOnly"] if usage.key_agreement and usage.decipher_only else []
            name, words = "keyUsage", ", ".join(used)
        case x509.ExtendedKeyUsage() as purposes:
            name = "extendedKeyUsage"
            words = ", ".join(sorted(_PURPOSES.get(one, one.dotted_string) for one in purposes))
        case other:
            name, words = extension.oid.dotted_string, _digest(other.public_bytes())
    return f"{name} {'critical, ' if extension.critical else ''}{words}"


def _certificate(block: bytes) -> dict[str, str]:
    certificate = x509.load_pem_x509_certificate(block)
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "names": _names(certificate.extensions),
        "extensions": _extensions(certificate.extensions),
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
        "extensions": _extensions(request.extensions),
        "key": describe(request.public_key()),
        "public": _half(request.public_key()),
    }
