"""The processes of one machine: start, watch, release, stop. Knows no web framework."""
