"""What a certificate declares tells one that may sign others from one that may not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from backend.disks.facts import MAX_CHARS, facts

KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "web")])
START = datetime(2026, 1, 1, tzinfo=UTC)
AUTHORITY = x509.BasicConstraints(ca=True, path_length=None)
SIGNS = x509.KeyUsage(
    digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=True, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=True,
)  # fmt: skip
PURPOSES = x509.ExtendedKeyUsage(
    [ExtendedKeyUsageOID.SERVER_AUTH, x509.ObjectIdentifier("1.2.3.4"), ExtendedKeyUsageOID.CODE_SIGNING]
)
STAPLED = x509.TLSFeature([x509.TLSFeatureType.status_request])


def certificate(*extensions: x509.ExtensionType, critical: bool = False) -> bytes:
    key = KEY.public_key()
    builder = x509.CertificateBuilder(NAME, NAME, key, 7, START, START + timedelta(days=90))
    for one in (x509.SubjectKeyIdentifier.from_public_key(key), *extensions):
        builder = builder.add_extension(one, critical=critical)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


def declared(data: bytes) -> str:
    found = facts(data)
    assert found is not None and found["subject"] == "CN=web"
    return found["extensions"]


@pytest.mark.parametrize(
    ("extensions", "words"),
    [
        ((), "none"),
        ((AUTHORITY,), "basicConstraints CA:TRUE"),
        ((x509.BasicConstraints(ca=True, path_length=0),), "basicConstraints CA:TRUE, pathlen:0"),
        ((x509.BasicConstraints(ca=False, path_length=None),), "basicConstraints CA:FALSE"),
        ((SIGNS,), "keyUsage digitalSignature, keyAgreement, keyCertSign, cRLSign, decipherOnly"),
        ((PURPOSES,), "extendedKeyUsage 1.2.3.4, codeSigning, serverAuth"),
        ((STAPLED,), "1.3.6.1.5.5.7.1.24 417c7763c4e320a6"),
        (
            (PURPOSES, AUTHORITY),
            "basicConstraints CA:TRUE; extendedKeyUsage 1.2.3.4, codeSigning, serverAuth",
        ),
    ],
)
def test_what_a_certificate_may_be_used_for_is_declared(
    extensions: tuple[x509.ExtensionType, ...], words: str
) -> None:
    assert declared(certificate(*extensions)) == words


def test_a_critical_extension_is_another_one() -> None:
    assert declared(certificate(AUTHORITY, critical=True)) == "basicConstraints critical, CA:TRUE"


def test_of_very_many_purposes_the_last_counts_too() -> None:
    many = [x509.ObjectIdentifier(f"1.2.3.{number}") for number in range(1000)]
    told = [declared(certificate(x509.ExtendedKeyUsage(some))) for some in (many, many[:-1])]
    assert told[0] != told[1] and max(map(len, told)) < MAX_CHARS + 50


def test_the_further_certificates_of_a_file_count_too() -> None:
    own, broken = certificate(), b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    told = [facts(own + more) or {} for more in (b"", own, certificate(AUTHORITY), broken)]
    assert [one.get("chain", "") for one in told[:3]] == [
        "",
        "CN=web  none",
        "CN=web  basicConstraints CA:TRUE",
    ]
    assert told[3]["chain"] and told[3]["certificates"] == "2"


def test_a_request_declares_what_it_asks_for() -> None:
    builder = x509.CertificateSigningRequestBuilder(NAME).add_extension(AUTHORITY, critical=True)
    asked = builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)
    assert declared(asked) == "basicConstraints critical, CA:TRUE"


def test_a_name_of_a_kind_that_nobody_reads_is_no_end_of_the_reader() -> None:
    """An x400Address: such a certificate declares nothing, so that its content counts."""
    name = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, bytes.fromhex("3004a3023000"))
    assert facts(certificate(name)) == {"certificates": "1"}
