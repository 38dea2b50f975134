"""Certificates of the embedded broker: an authority of its own, and the server's certificate that it signs."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sep_stream.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY_VALID: Final = timedelta(days=3650)
SERVER_VALID: Final = timedelta(days=365)
RENEW_BEFORE_END: Final = timedelta(days=30)
SERVER_NAME: Final = "sep-stream broker"
"""Common name of the server's certificate, by which the broker also knows itself."""
_CLOCKS_APART: Final = timedelta(minutes=5)
"""A certificate holds from a little before it was made: clocks differ."""


class Authority:
    """Signs certificates. certificate_pem: what clients trust."""

    def __init__(self, key_pem: str, certificate_pem: str) -> None:
        _require_cryptography()
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        self.key_pem, self.certificate_pem = key_pem, certificate_pem
        self._key: ec.EllipticCurvePrivateKey = load_pem_private_key(key_pem.encode(), None)  # type: ignore[assignment]
        self._certificate = x509.load_pem_x509_certificate(certificate_pem.encode())

    @classmethod
    def make(cls) -> Authority:
        _require_cryptography()
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        # A name of its own: clients that hold several of our authorities find the right one by it.
        name = x509.Name.from_rfc4514_string(f"CN=sep-stream authority {uuid.uuid4()}")
        return cls(_pem(key), _authority_pem(key, name))

    def renewed(self) -> Authority:
        """The same key and name with a new end: what it signed stays good."""
        return Authority(self.key_pem, _authority_pem(self._key, self._certificate.subject))

    def issue(self, names: Sequence[str], end: datetime | None = None, common_name: str = SERVER_NAME) -> str:
        """Key and certificate in PEM for a server with these host names and addresses; it may also be a client."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding
        from cryptography.x509.oid import ExtendedKeyUsageOID

        key = ec.generate_private_key(ec.SECP256R1())
        end = end or datetime.now(UTC) + SERVER_VALID
        begin = min(datetime.now(UTC), end) - _CLOCKS_APART
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name.from_rfc4514_string(f"CN={common_name}"))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(issuer_key, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _pem(key) + certificate.public_bytes(Encoding.PEM).decode()


def end_of(path: Path) -> datetime:
    """When the certificate in a PEM file ends. Raises ConfigurationError for a file that holds none."""
    _require_cryptography()
    from cryptography import x509

    try:
        text = path.read_text()
        return x509.load_pem_x509_certificate(text[text.index("-----BEGIN CERTIFICATE") :].encode()).not_valid_after_utc
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path}: expected a certificate in PEM") from error


def ends_soon(path: Path) -> bool:
    return end_of(path) - datetime.now(UTC) < RENEW_BEFORE_END


def _authority_pem(key: ec.EllipticCurvePrivateKey, name: x509.Name) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_APART)
        .not_valid_after(now + AUTHORITY_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _require_cryptography() -> None:
    try:
        import cryptography.x509  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "a secured broker needs the package 'cryptography'; install sep-stream[embedded]"
        ) from error
