"""nginx: its configuration, and the share of requests that each color gets."""
