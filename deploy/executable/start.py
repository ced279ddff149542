"""What the executable runs: the `reranking` command; or, by Python's own `-m`, any program that is in it.

supervisord.conf and our commands start programs as `PYTHON -m MODULE`; in here the executable is that PYTHON.
"""

import os
import runpy
import sys

PROGRAMS = {"pusher": "pusher", "metrics": "webapp.telemetry.exporter", "keeper": "webapp.stack.supervisor.logging"}
"""Commands that `reranking` doesn't have: each is a program of its own, of which webapp knows nothing."""

# The loader looks here for our libraries, and has read it by now. nginx must find the system's instead.
before = os.environ.pop("LD_LIBRARY_PATH_ORIG", "")
os.environ.pop("LD_LIBRARY_PATH", None)
if before:
    os.environ["LD_LIBRARY_PATH"] = before

if sys.argv[1:2] == ["-m"] and len(sys.argv) > 2:  # noqa: PLR2004 - the program, -m and the module
    module, sys.argv[1:] = sys.argv[2], sys.argv[3:]
elif sys.argv[1:2] and sys.argv[1] in PROGRAMS:
    module, sys.argv[1:] = PROGRAMS[sys.argv[1]], sys.argv[2:]
else:
    module = "webapp.cli"

if module == "webapp.cli":
    from webapp.cli import main

    main()
else:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
