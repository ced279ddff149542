"""`python -m reranking_server`: the `reranking` command, or `-m MODULE`."""

from reranking_server import main

main()
