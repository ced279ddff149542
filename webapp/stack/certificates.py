"""Certificates as such: whether one can be used, and making one for trials."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from webapp.domain.errors import SetupError

VALID_DAYS = 397
"""Of a certificate that we make; browsers take none that lasts longer."""

RENEW_DAYS = 30
"""One that has fewer days left is made anew at the next start."""


def valid_until(cert: Path, key: Path) -> dt.datetime:
    """The end of a certificate that nginx will take, in UTC.

    Raises:
        SetupError: no client would take it, or nginx.
    """
    try:
        # As nginx will: the files are there, are PEM, and belong together.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_passphrase)
        found = x509.load_pem_x509_certificate(cert.read_bytes())
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
        raise SetupError(
            f"RERANK_TLS_CERT, RERANK_TLS_KEY: they can't be used ({reason}); give another pair"
        ) from error
    if found.not_valid_after_utc < _now():
        raise SetupError(
            f"RERANK_TLS_CERT: it was valid until {found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; renew it"
        )
    return found.not_valid_after_utc


def good_for(cert: Path, host: str) -> bool:
    """Whether a certificate of ours may be used again: for these names, and not about to end."""
    try:
        found = x509.load_pem_x509_certificate(cert.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    return list(names) == _names(host) and found.not_valid_after_utc > _now() + dt.timedelta(days=RENEW_DAYS)


def make(cert: Path, key: Path, host: str) -> None:
    """Write a self-signed one, and its key; the old ones stay whole until these are.

    Raises:
        OSError: they can't be written.
    """
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "reranking, self-signed")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - dt.timedelta(days=1))  # a client's clock may be behind
        .not_valid_after(_now() + dt.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        # A CA that may sign nothing but itself: some clients trust only CAs.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        # All have one name; by these a client that trusts those of several machines tells them apart.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(secret.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(secret.public_key()), critical=False)
        .sign(secret, hashes.SHA256())
    )
    key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    private = secret.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    aside = []
    for path, content in ((key, private), (cert, made.public_bytes(serialization.Encoding.PEM))):
        aside.append(path.with_name(f"{path.name}.new"))
        aside[-1].unlink(missing_ok=True)
        aside[-1].touch(mode=0o600)
        aside[-1].write_bytes(content)
    for path, written in zip((key, cert), aside, strict=True):  # cut short between them, the next start makes both anew
        written.replace(path)


def _names(host: str) -> list[x509.GeneralName]:
    """What a trial may call this machine."""
    names = dict.fromkeys(["localhost", socket.gethostname()])
    addresses = dict.fromkeys(map(ipaddress.ip_address, ("127.0.0.1", "::1")))
    try:
        addresses[ipaddress.ip_address(host)] = None
    except ValueError:
        names[host] = None
    return [*map(x509.DNSName, names), *(x509.IPAddress(each) for each in addresses if not each.is_unspecified)]


def _no_passphrase() -> str:
    """Openssl would ask at the terminal."""
    raise ValueError("the key wants a passphrase")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
