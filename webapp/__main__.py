"""`python -m webapp` starts the API from inside the program; `python -m webapp COMMAND` is the `reranking` command."""

import sys

from webapp.cli import main

main(sys.argv[1:] or ["run"])
