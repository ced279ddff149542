"""The client's version, which its User-Agent tells the service."""

VERSION = "0.2.0"
