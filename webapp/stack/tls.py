"""Where the certificate is that nginx shows: given, or made here for trials; and how our own calls trust it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from webapp.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Certificate:
    """Two PEM files."""

    cert: Path
    key: Path


def certificate(settings: Settings) -> Certificate | None:
    """Where the certificate of these settings lies; None without TLS."""
    if settings.tls:
        return Certificate(settings.state_dir / "tls" / "cert.pem", settings.state_dir / "tls" / "key.pem")
    if settings.tls_cert:
        return Certificate(
            Path(settings.tls_cert).expanduser().absolute(), Path(settings.tls_key).expanduser().absolute()
        )
    return None


def prepare_certificate(settings: Settings) -> None:
    """Check the certificate, or make it.

    Raises:
        SetupError: there is one, and no client would take it.
    """
    files = certificate(settings)
    if files is None:
        return
    from webapp.stack import certificates  # noqa: PLC0415 - what most services don't need takes a moment to load

    if settings.tls and not certificates.good_for(files.cert, settings.host):
        certificates.make(files.cert, files.key, settings.host)
    certificates.valid_until(files.cert, files.key)


def trust_own(settings: Settings) -> ssl.SSLContext | None:
    """For our own calls: trusts this very certificate, whoever signed it and whatever name is in it."""
    files = certificate(settings)
    if files is None:
        return None
    context = ssl.create_default_context(cadata=files.cert.read_text())  # a missing file is named
    context.check_hostname = False  # it names the public host, and we call the address that nginx listens on
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
