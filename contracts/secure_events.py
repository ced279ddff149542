"""Encryption and authentication of events over TCP: CURVE, with key pairs that follow from one shared key.

ZeroMQ's CURVE needs a key pair on each side. Both follow from RERANK_EVENTS_KEY, so an operator has one secret to keep.
A Unix socket lies in a private directory and needs no key. Imports nothing of ours.
"""

from __future__ import annotations

import hashlib
from typing import Any

import zmq
from zmq.utils import z85

HEARTBEAT_MS = 2_000

SILENCE_MS = 6_000
"""A peer that answers no heartbeat for this long has vanished."""

_SENDER, _RECEIVER = b"sender", b"receiver"


def secure_sender(socket: zmq.Socket[Any], address: str, key: str) -> None:
    """Prepare a socket that sends events; to be called before it connects.

    Args:
        socket: of ZeroMQ.
        address: to which it will connect.
        key: RERANK_EVENTS_KEY; empty: there is none.

    Raises:
        RuntimeError: this ZeroMQ can't encrypt.
    """
    if not _is_tcp(socket, address):
        return
    socket.set(zmq.CONNECT_TIMEOUT, SILENCE_MS)  # the kernel tries an address that is gone for two minutes
    if key:
        socket.curve_serverkey = _pair(key, _RECEIVER)[0]
        socket.curve_publickey, socket.curve_secretkey = _pair(key, _SENDER)


def secure_receiver(socket: zmq.Socket[Any], address: str, key: str) -> bytes:
    """Prepare a socket that receives events; to be called before it is bound.

    Args:
        socket: of ZeroMQ.
        address: to which it will be bound.
        key: RERANK_EVENTS_KEY; empty: there is none.

    Returns:
        The public key that every sender must have, 32 bytes, for the ZAP handler (rfc.zeromq.org/spec/27) that must run
        in the same context; empty: everybody may send, and no handler is asked.

    Raises:
        RuntimeError: this ZeroMQ can't encrypt.
    """
    if not _is_tcp(socket, address) or not key:
        return b""
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = _pair(key, _RECEIVER)
    socket.zap_domain = b"events"  # with a domain, nobody is let in while there is no handler
    return z85.decode(_pair(key, _SENDER)[0])


def _is_tcp(socket: zmq.Socket[Any], address: str) -> bool:
    """Return whether a peer is reached over TCP, and if so, have the socket notice peers that vanish."""
    if not address.startswith("tcp://"):
        return False
    socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.set(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
    return True


def _pair(key: str, role: bytes) -> tuple[bytes, bytes]:
    """Return the public and the secret Curve25519 key of a role, in Z85 as ZeroMQ takes them."""
    if not zmq.has("curve"):
        raise RuntimeError("this ZeroMQ is built without CURVE, so events can't be encrypted: install pyzmq from PyPI")
    secret = z85.encode(hashlib.sha256(b"reranking-events\0" + role + b"\0" + key.encode()).digest())
    return zmq.curve_public(secret), secret
