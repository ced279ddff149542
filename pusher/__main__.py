"""`python -m pusher`."""

from pusher.main import main

main()
