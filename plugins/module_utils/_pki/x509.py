# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Keys, signing requests and certificates, in and out of PEM text. But for ``x25519``, nobody else imports
``cryptography``.

Keys are ECDSA on P-256. Subject and extensions of a certificate come from declared data; of a signing request only
the key is used, after it has proved that its sender holds the private part.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from typing import TYPE_CHECKING, Any, List, Optional, Tuple

from .._model.errors import FairleadError, PrerequisiteError
from .._model.pki import CLIENT, SERVER, Subject

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    AVAILABLE = True
except ImportError:
    AVAILABLE = False

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

# Clocks of nodes differ a little; a certificate must not be of the future to any of them.
BACKDATED = datetime.timedelta(hours=1)


class PemError(FairleadError):
    """A text that should hold a key, request or certificate does not, or not a usable one."""


class MissingPackageError(PrerequisiteError):
    """The package ``cryptography`` is not on this host. Role pki knows this error by its name, and installs it."""


def require() -> None:
    if not AVAILABLE:
        raise MissingPackageError(
            "the Python package cryptography is missing on this host: install python3-cryptography"
        )


def new_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _key_of(pem: str) -> EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise PemError(f"holds no private key ({error})") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PemError("holds a private key that is not ECDSA on P-256")
    return key


def public_of_key(pem: str) -> str:
    """SHA-256 of the public key. Raises PemError."""
    return _digest(_key_of(pem).public_key())


def _digest(public_key: Any) -> str:
    return hashlib.sha256(
        public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def new_request(key_pem: str, subject: Subject) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(subject.common_name))
    return builder.sign(_key_of(key_pem), hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def new_authority(key_pem: str, common_name: str, now: datetime.datetime, days: int) -> str:
    """A self-signed authority that may sign certificates of hosts, but no further authorities."""
    key, name = _key_of(key_pem), _name(common_name)
    builder = _dated(x509.CertificateBuilder(), now, now + datetime.timedelta(days=days))
    builder = builder.subject_name(name).issuer_name(name).public_key(key.public_key())
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return _pem(builder.sign(key, hashes.SHA256()))


def sign(csr_pem: str, subject: Subject, authority_pem: str, key_pem: str, now: datetime.datetime, days: int) -> str:
    """A certificate about ``subject`` for the key of the request, at most as long as the authority itself is valid."""
    authority, public = _load(authority_pem), _proved_key(csr_pem)
    end = min(now + datetime.timedelta(days=days), _not_after(authority))
    builder = _dated(x509.CertificateBuilder(), now, end)
    builder = builder.subject_name(_name(subject.common_name)).issuer_name(authority.subject).public_key(public)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(_usages(subject)), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),  # type: ignore[arg-type]
        critical=False,
    )
    names = _alternative_names(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _pem(builder.sign(_key_of(key_pem), hashes.SHA256()))


def _proved_key(csr_pem: str) -> Any:
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
    except ValueError as error:
        raise PemError(f"holds no signing request ({error})") from error
    if not request.is_signature_valid:
        raise PemError("is a signing request whose signature does not fit its key")
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PemError("is a signing request for a key that is not ECDSA on P-256")
    return key


def _dated(builder: x509.CertificateBuilder, now: datetime.datetime, end: datetime.datetime) -> x509.CertificateBuilder:
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - BACKDATED).not_valid_after(end)


def _key_usage(digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _usages(subject: Subject) -> List[Any]:
    known = {SERVER: ExtendedKeyUsageOID.SERVER_AUTH, CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH}
    return [known[usage] for usage in subject.usages]


def _alternative_names(subject: Subject) -> List[x509.GeneralName]:
    names: List[x509.GeneralName] = [x509.DNSName(name) for name in subject.dns_names]
    return names + [x509.IPAddress(ipaddress.ip_address(address)) for address in subject.addresses]


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _load(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise PemError(f"holds no certificate ({error})") from error


def fingerprint_of(pem: str) -> str:
    """SHA-256 of the certificate. Raises PemError."""
    return _load(pem).fingerprint(hashes.SHA256()).hex()


def public_of(pem: str) -> str:
    """SHA-256 of the public key that the certificate is about. Raises PemError."""
    return _digest(_load(pem).public_key())


def validity_of(pem: str) -> Tuple[datetime.datetime, datetime.datetime]:
    """First and last moment, in UTC. Raises PemError."""
    certificate = _load(pem)
    return _moment(certificate, "not_valid_before"), _not_after(certificate)


def _not_after(certificate: x509.Certificate) -> datetime.datetime:
    return _moment(certificate, "not_valid_after")


def _moment(certificate: x509.Certificate, name: str) -> datetime.datetime:
    # Aware times came with cryptography 42; the naive ones before are in UTC too.
    aware: Optional[datetime.datetime] = getattr(certificate, f"{name}_utc", None)
    if aware is not None:
        return aware
    naive: datetime.datetime = getattr(certificate, name)
    return naive.replace(tzinfo=datetime.timezone.utc)


def subject_of(pem: str) -> Subject:
    """What the certificate says of its holder. Raises PemError."""
    certificate = _load(pem)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    alternative = _extension(certificate, x509.SubjectAlternativeName)
    usages = _extension(certificate, x509.ExtendedKeyUsage) or []
    known = {ExtendedKeyUsageOID.SERVER_AUTH: SERVER, ExtendedKeyUsageOID.CLIENT_AUTH: CLIENT}
    return Subject(
        common_name=str(names[0].value) if names else "",
        dns_names=tuple(sorted(alternative.get_values_for_type(x509.DNSName))) if alternative else (),
        addresses=tuple(sorted(map(str, alternative.get_values_for_type(x509.IPAddress)))) if alternative else (),
        usages=tuple(sorted(known.get(usage, usage.dotted_string) for usage in usages)),
    )


def _extension(certificate: x509.Certificate, kind: Any) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def is_signed_by(pem: str, authority_pem: str) -> bool:
    """Whether the authority issued the certificate and may issue any. Raises PemError."""
    certificate, authority = _load(pem), _load(authority_pem)
    constraints = _extension(authority, x509.BasicConstraints)
    key, algorithm = authority.public_key(), certificate.signature_hash_algorithm
    if certificate.issuer != authority.subject or constraints is None or not constraints.ca:
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey) or algorithm is None:
        return False
    try:
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True
