"""nginx: its configuration, its process, and which color gets which share of the requests."""
