"""A certificate of this machine's own: a phone gets no service worker over plain http.

A small authority signs the server's certificate. A phone that trusts the authority (``/ca.crt``)
opens the app without a warning. The authority may vouch for nothing but private addresses and this
server's own names, so its key would be of no use elsewhere.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from medimind.errors import ConfigError

_AUTHORITY_DAYS = 3650
_SERVER_DAYS = 397  # browsers refuse more
_RENEW_DAYS = 30
_PRIVATE = (
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16",
    "100.64.0.0/10", "fc00::/7", "fe80::/10", "::1/128",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where certificate and key lie; ``authority`` is ``None`` if they are the user's own."""

    certificate: Path
    key: Path
    authority: Path | None = None


def own_certificate(folder: Path, *, hosts: Sequence[str]) -> TlsFiles:
    """The certificate for some names and addresses, made where there is none that fits.

    Args:
        folder: Holds it between starts, so that a phone trusts it once.
        hosts: Names and addresses of the server.

    Raises:
        ConfigError: If the folder cannot be used.
    """
    files = TlsFiles(folder / "server.crt", folder / "server.key", folder / "ca.crt")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority, authority_key, is_new = _authority(folder, hosts=hosts)
        if is_new or not _fits(files.certificate, hosts=hosts):
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _server_certificate(authority, authority_key, key, hosts=hosts)
            _write(files.key, _key_bytes(key))
            _write(files.certificate, _pem(certificate) + _pem(authority))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no certificate can be made ({error})",
            where=str(folder),
            fix="Remove what is there, set XDG_CONFIG_HOME to a folder that can be written, or "
            "give --tls-cert and --tls-key",
        ) from None
    return files


def fingerprint(certificate: Path) -> str:
    """SHA-256 of a certificate, as browsers show it."""
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    return loaded.fingerprint(hashes.SHA256()).hex(":").upper()


def _authority(
    folder: Path, *, hosts: Sequence[str]
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey, bool]:
    """The authority, and whether it is new: one that may not vouch for the hosts is replaced."""
    path, key_path = folder / "ca.crt", folder / "ca.key"
    needed = _subtrees(hosts)
    if path.is_file() and key_path.is_file():
        loaded = x509.load_pem_x509_certificate(path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        allowed = loaded.extensions.get_extension_for_class(x509.NameConstraints).value
        is_enough = set(needed) <= set(allowed.permitted_subtrees or ())
        if isinstance(key, ec.EllipticCurvePrivateKey) and is_enough and _lasts(loaded):
            return loaded, key, False
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder("MediMind on this machine", days=_AUTHORITY_DAYS)
        .issuer_name(_name("MediMind on this machine"))
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(needed, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_path, _key_bytes(key))
    _write(path, _pem(certificate))
    return certificate, key, True


def _subtrees(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """What an authority may vouch for: private networks, and the hosts that lie in none."""
    private = [ipaddress.ip_network(net) for net in _PRIVATE]
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = list(private)
    for host in hosts:
        address = _address(host)
        if address is not None and not any(address in net for net in private):
            networks.append(ipaddress.ip_network(address))
    names = sorted({host for host in hosts if _address(host) is None})
    return [*map(x509.DNSName, names), *map(x509.IPAddress, dict.fromkeys(networks))]


def _server_certificate(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    *,
    hosts: Sequence[str],
) -> x509.Certificate:
    own_id = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    return (
        _builder("MediMind", days=_SERVER_DAYS)
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName(_general_names(hosts)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )


def _fits(path: Path, *, hosts: Sequence[str]) -> bool:
    if not path.is_file():
        return False
    loaded = x509.load_pem_x509_certificate(path.read_bytes())
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(_general_names(hosts)) <= set(names) and _lasts(loaded)


def _lasts(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=_RENEW_DAYS)


def _builder(name: str, *, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        address = _address(host)
        names.append(x509.DNSName(host) if address is None else x509.IPAddress(address))
    return names


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes) -> None:
    aside = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    aside.replace(path)
