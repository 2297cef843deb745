"""Certificates for a libvirt that listens with TLS: an authority, a server, a client."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PARTS = ("server", "client")


def write_pki(folder: Path, address: str) -> None:
    """``cacert.pem``, and ``servercert.pem``, ``serverkey.pem`` for the address, and the same of a client:
    the names that libvirt's ``pkipath`` wants."""
    folder.mkdir()
    authority = ec.generate_private_key(ec.SECP256R1())
    root = _signed("authority", authority, "authority", authority, None)
    (folder / "cacert.pem").write_bytes(root)
    for part in PARTS:
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / f"{part}cert.pem").write_bytes(_signed(part, key, "authority", authority, address))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (file := folder / f"{part}key.pem").touch(mode=0o600)
        file.write_bytes(private)


def _signed(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    by: ec.EllipticCurvePrivateKey,
    address: str | None,
) -> bytes:
    """One that is an authority has no address."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=address is None, path_length=None), critical=True)
    )
    if address is not None:
        usage = ExtendedKeyUsageOID.SERVER_AUTH if subject == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False).add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False
        )
    return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
