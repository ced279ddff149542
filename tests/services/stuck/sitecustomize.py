"""Put this folder on PYTHONPATH: while the file named by STUCK exists, the stub engine never starts."""

import os
import sys
import time
from pathlib import Path

from webapp.engine.runtimes.stub import StubEngine


def _impatient(_self):
    sys.modules["webapp.servers.assembly"].WARM_UP_TIMEOUT_S = 1.0


def _start(_self, _threads):
    while Path(os.environ["STUCK"]).exists():
        time.sleep(0.1)


StubEngine.__init__ = _impatient
StubEngine.start = _start
