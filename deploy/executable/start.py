"""What the executable runs: the `reranking` command; or, by Python's own `-m`, any program that is in it.

supervisord.conf and our commands start programs as `PYTHON -m MODULE`; in here the executable is that PYTHON.
"""

import os
import sys

from reranking_server import main

PROGRAMS = {"metrics": "webapp.telemetry.exporter", "keeper": "webapp.stack.supervisor.logging"}
"""Commands that `reranking` doesn't have: each is a program of its own, of which webapp knows nothing."""

# The loader looks here for our libraries, and has read it by now. nginx must find the system's instead.
before = os.environ.pop("LD_LIBRARY_PATH_ORIG", "")
os.environ.pop("LD_LIBRARY_PATH", None)
if before:
    os.environ["LD_LIBRARY_PATH"] = before

if sys.argv[1:2] and sys.argv[1] in PROGRAMS:
    sys.argv[1:2] = ["-m", PROGRAMS[sys.argv[1]]]
main()
