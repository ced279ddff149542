"""The certificate that nginx shows, given or self-signed for trials; where a new one is asked for; our own trust."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import os
import shutil
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError

if TYPE_CHECKING:  # `cryptography` takes 50 ms to load, and most services and commands need none of it
    from cryptography import x509

VALID_DAYS = 397
"""Lifetime of a certificate that we make; browsers take none that lasts longer."""

RENEW_DAYS = 30
"""A certificate of ours that has fewer days left is made anew at the next start."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Two PEM files."""

    cert: Path
    key: Path


def certificate(settings: Settings) -> Certificate | None:
    """Return where the certificate of these settings lies; None without TLS."""
    if settings.tls:
        return Certificate(settings.state_dir / "tls" / "cert.pem", settings.state_dir / "tls" / "key.pem")
    if settings.tls_cert:
        return Certificate(
            Path(settings.tls_cert).expanduser().absolute(), Path(settings.tls_key).expanduser().absolute()
        )
    return None


def prepare_certificate(settings: Settings) -> None:
    """Check the certificate that was given, or make a self-signed one.

    Raises:
        SetupError: there is one, and nginx or all clients would refuse it.
        OSError: a self-signed one can't be written.
    """
    files = certificate(settings)
    if files is None:
        return
    if settings.tls and not is_current(files.cert, settings.host):
        make_self_signed(files, settings.host)
    valid_until(files)


def served_certificate(settings: Settings) -> Path:
    """Return the link to the folder with the pair that nginx shows: cert.pem and key.pem."""
    return settings.run_dir / "tls" / "now"


def publish_certificate(settings: Settings) -> None:
    """Have nginx show the certificate as its files are now, from the next handshake on.

    nginx reads copies, through one link: an ACME client replaces the files one by one, and between two of these steps
    they don't fit together. What doesn't is refused here, and nginx goes on with the pair that it has.

    Raises:
        SetupError: nginx or all clients would refuse it.
        OSError: it can't be read, or the copies can't be written.
    """
    prepare_certificate(settings)
    files = certificate(settings)
    if files is None:
        return
    cert, key = files.cert.read_bytes(), files.key.read_bytes()
    link = served_certificate(settings)
    folder = link.with_name(hashlib.sha256(cert).hexdigest()[:16])
    before = link.readlink().name if link.is_symlink() else ""
    if before == folder.name and is_published(settings):
        return
    copies = Certificate(folder / "cert.pem", folder / "key.pem")
    (folder / "root").mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, content in ((copies.cert, cert), (copies.key, key)):
        _write_private(path, content)
    valid_until(copies)
    aside = link.with_name("new")
    aside.unlink(missing_ok=True)
    aside.symlink_to(folder.name)
    aside.replace(link)
    for other in link.parent.iterdir():
        if other.name not in {link.name, folder.name, before}:  # a handshake may still read the one before
            shutil.rmtree(other, ignore_errors=True)


def is_published(settings: Settings) -> bool:
    """Return whether nginx has what it shows: a certificate and its key, or no TLS."""
    served = served_certificate(settings)
    return not settings.has_tls or all((served / name).exists() for name in ("cert.pem", "key.pem", "root"))


def webroot_problem(settings: Settings) -> str:
    """Return why nginx can't serve what an ACME client writes, and the remedy; empty if it can, or has no such folder.

    It is no reason not to start: what has a certificate serves on for weeks without a new one.
    """
    if not settings.acme_webroot:
        return ""
    # nginx' workers are of our user. They open files by name, so they need no permission to list a folder.
    if not os.access(f"{settings.acme_webroot}/.", os.X_OK):
        return f"RERANK_ACME_WEBROOT: nginx can't open the folder {settings.acme_webroot}; mkdir it, or chmod a+x it"
    for folder in (".well-known", ".well-known/acme-challenge"):  # made by the ACME client, at its first run
        path = Path(settings.acme_webroot) / folder
        if path.exists() and not os.access(path, os.X_OK):
            return f"RERANK_ACME_WEBROOT: nginx can't open the folder {path}; chmod a+x it"
    return ""


def valid_until(files: Certificate) -> dt.datetime:
    """Return the end of a certificate that nginx will take, in UTC.

    Raises:
        SetupError: nginx or all clients would refuse it.
    """
    from cryptography import x509  # noqa: PLC0415

    try:
        # As nginx will: the files are there, are PEM, and belong together.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.cert, files.key, password=_no_passphrase)
        end = x509.load_pem_x509_certificate(files.cert.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
        raise SetupError(
            f"RERANK_TLS_CERT, RERANK_TLS_KEY: they can't be used ({reason}); give another pair"
        ) from error
    if end < _now():
        raise SetupError(f"RERANK_TLS_CERT: it was valid until {end:%Y-%m-%d %H:%M} UTC; renew it")
    return end


def trust_own(settings: Settings) -> ssl.SSLContext | None:
    """Return a context for our own calls that trusts this very certificate, by any signer and with any name."""
    files = certificate(settings)
    if files is None:
        return None
    # The file may be newer than what nginx shows, until the stack is told to read it.
    served = served_certificate(settings) / "cert.pem"
    shown = served if os.access(served, os.R_OK) else files.cert
    context = ssl.create_default_context(cadata=shown.read_text())  # a missing file is named
    context.check_hostname = False  # it names the public host, and we call the address that nginx listens on
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def is_current(cert: Path, host: str) -> bool:
    """Return whether a certificate of ours may be used again: for these names, and not about to end."""
    from cryptography import x509  # noqa: PLC0415

    try:
        found = x509.load_pem_x509_certificate(cert.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    return list(names) == _names(host) and found.not_valid_after_utc > _now() + dt.timedelta(days=RENEW_DAYS)


def make_self_signed(files: Certificate, host: str) -> None:
    """Write a self-signed certificate and its key; the old ones stay whole until both are written."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

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
    files.key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    private = secret.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    aside = []
    for path, content in ((files.key, private), (files.cert, made.public_bytes(serialization.Encoding.PEM))):
        aside.append(path.with_name(f"{path.name}.new"))
        _write_private(aside[-1], content)
    # Cut short between these two, the next start makes both anew.
    for path, written in zip((files.key, files.cert), aside, strict=True):
        written.replace(path)


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that only our user may read, from its first byte on."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)


def _names(host: str) -> list[x509.GeneralName]:
    """Return the names and addresses by which this machine may be called in a trial."""
    from cryptography import x509  # noqa: PLC0415

    names = dict.fromkeys(["localhost", socket.gethostname()])
    addresses = dict.fromkeys(map(ipaddress.ip_address, ("127.0.0.1", "::1")))
    try:
        addresses[ipaddress.ip_address(host)] = None
    except ValueError:
        names[host] = None
    return [*map(x509.DNSName, names), *(x509.IPAddress(each) for each in addresses if not each.is_unspecified)]


def _no_passphrase() -> str:
    """Refuse a key with a passphrase, for which openssl would ask at the terminal."""
    raise ValueError("the key wants a passphrase")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
