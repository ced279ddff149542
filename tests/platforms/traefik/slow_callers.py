"""Usage: slow_callers URL SIZES ADDRESS... Sends bodies at once; each waits with its last byte for the others.

SIZES is JSON: bytes of a body -> number of bodies.

It prints how many replies each status had, in JSON. A reply that comes before the body is whole counts, too.
"""

from __future__ import annotations

import itertools
import json
import select
import socket
import sys
import threading
from collections import Counter
from urllib.parse import urlsplit

PATIENCE_S = 40.0

BEGIN, END = b'{"query": "bees", "documents": ["', b'"]}'


def send(address: tuple[str, int], caller: str, size: int, together: threading.Barrier, statuses: list[str]) -> None:
    """Send one body; add the status of the reply."""
    head = f"POST /rerank HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n".encode()
    body = BEGIN + b"b" * (size - len(BEGIN) - len(END)) + END
    with socket.create_connection(address, PATIENCE_S, (caller, 0)) as connection:
        connection.sendall(head)
        sent = 0
        while sent < size - 1 and not select.select([connection], [], [], 0)[0]:
            try:
                sent += connection.send(body[sent : min(sent + 65536, size - 1)])
            except OSError:  # it was refused; the reply may still be read
                break
        together.wait(PATIENCE_S)
        try:
            connection.sendall(body[size - 1 :])
        except OSError:
            sent = 0
        try:
            said = connection.recv(100)
        except OSError:
            said = b""
        statuses.append(said.split(b" ", 2)[1].decode() if b" " in said else "nothing")


def main() -> None:
    """Send all bodies and print the statuses."""
    parts, sizes = urlsplit(sys.argv[1]), {int(size): number for size, number in json.loads(sys.argv[2]).items()}
    callers = itertools.cycle(sys.argv[3:])
    together = threading.Barrier(sum(sizes.values()))
    statuses: list[str] = []
    address = (parts.hostname or "", parts.port or 80)
    clients = [
        threading.Thread(target=send, args=(address, caller, size, together, statuses))
        for size, number in sizes.items()
        for caller in itertools.islice(callers, number)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    print(json.dumps(Counter(statuses)))  # noqa: T201 - its output


if __name__ == "__main__":
    main()
