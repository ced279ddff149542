"""Scores of pairs that were scored before."""
