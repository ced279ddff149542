"""Releases: two colors, one active; the idle one is started, checked, given the traffic, and the other stopped."""
