"""Unpack request bodies that were sent compressed. PURE.

RFC 9110, 8.4 (Content-Encoding) and 15.5.16 (415). `deflate` is zlib's format, but some clients send a bare stream.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from webapp.domain.errors import InvalidRequestError, PayloadTooLargeError, UnsupportedEncodingError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ACCEPTED = ("gzip", "deflate", "zstd", "identity")

HEADER = "Content-Encoding"

STEP_BYTES = 8192
"""A body of very many members is read in steps, because each member copies the rest of its step."""


_Unpacker = Any
"""An object of zlib's or zstd's that reads one member: `decompress(data, max_length)`, `eof`, `unused_data`."""


def _deflate(data: bytes) -> _Unpacker:
    """Return an unpacker of zlib's format, or of a bare stream if its header is missing."""
    wrapped = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2]) % 31 == 0
    return zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)


_UNPACKERS: Mapping[str, Callable[[bytes], _Unpacker]] = {
    "gzip": lambda _: zlib.decompressobj(16 + zlib.MAX_WBITS),
    "deflate": _deflate,
    "zstd": lambda _: zstd.ZstdDecompressor(),
}


def coding_of(header: str | None) -> str:
    """Return how a body is packed, by its Content-Encoding; "" if it is not.

    Raises:
        UnsupportedEncodingError: it is packed in a way that is not accepted, or more than once.
    """
    named = [name for part in (header or "").split(",") if (name := part.strip().lower()) not in {"", "identity"}]
    if not named:
        return ""
    coding = "gzip" if named[0] == "x-gzip" else named[0]
    if len(named) > 1 or coding not in _UNPACKERS:
        raise UnsupportedEncodingError(f"must be one of {', '.join(ACCEPTED)}", field=HEADER)
    return coding


def unpack(body: bytes, coding: str, most_bytes: int) -> bytes:
    """Unpack a body.

    Args:
        body: as received.
        coding: from `coding_of`.
        most_bytes: most bytes that may come out.

    Raises:
        InvalidRequestError: it is damaged, cut off, or followed by something else.
        PayloadTooLargeError: more comes out; the rest is not unpacked.
    """
    if not coding:
        return body
    parts: list[bytes] = []
    size = 0
    member: _Unpacker | None = None
    for start in range(0, len(body), STEP_BYTES):
        data = body[start : start + STEP_BYTES]
        while data:
            if member is None:
                if parts and coding == "deflate":
                    raise _broken(coding, "something follows its end")
                member = _UNPACKERS[coding](data)
            try:
                part = member.decompress(data, most_bytes - size + 1)
            except (zlib.error, zstd.ZstdError) as error:
                raise _broken(coding, str(error)) from error
            parts.append(part)
            size += len(part)
            if size > most_bytes:
                raise PayloadTooLargeError(f"the body unpacks to more than the {most_bytes} bytes that are accepted")
            if not member.eof:
                break
            data, member = member.unused_data, None
    if member is not None:
        raise _broken(coding, "it is cut off")
    return b"".join(parts)


def _broken(coding: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"the body is not {coding}: {why}", field=HEADER)
