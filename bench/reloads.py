"""What a reload of nginx costs clients with kept connections. Why: docs/adr/0014-switch-without-reload.md.

Usage: python bench/reloads.py [--reloads 40]
"""

from __future__ import annotations

import argparse
import http.client
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import harness

from webapp.stack.preflight import find_nginx

CLIENTS, PAUSE_S, EVERY_S = 10, 0.02, 0.5

CONFIGURATION = """
daemon off; pid {folder}/nginx.pid; error_log stderr crit; worker_processes 2;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; location / {{ return 200 'ok'; }} }}
}}
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reloads", type=int, default=40)
    reloads = parser.parse_args().reloads
    outcomes: Counter[str] = Counter()
    stop = threading.Event()
    port = harness.free_port()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while not stop.wait(PAUSE_S):
            try:
                connection.request("POST", "/", b"x" * 2000)
                connection.getresponse().read()
                outcomes["answered"] += 1
            except BrokenPipeError:  # it was closed a while ago: a careful client would have looked
                outcomes["found closed"] += 1
                connection.close()
            except (ConnectionError, http.client.HTTPException) as error:
                outcomes[f"cut ({type(error).__name__})"] += 1
                connection.close()

    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(folder=folder, port=port))
        nginx = subprocess.Popen([find_nginx(), "-e", "stderr", "-c", str(configuration)])
        time.sleep(1)
        clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for each in clients:
            each.start()
        for _ in range(reloads):
            nginx.send_signal(signal.SIGHUP)
            time.sleep(EVERY_S)
        stop.set()
        for each in clients:
            each.join()
        nginx.terminate()
        nginx.wait(10)
    print(f"{reloads} reloads, {CLIENTS} clients: {dict(outcomes)}")


if __name__ == "__main__":
    main()
