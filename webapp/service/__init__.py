"""The use case: admit, truncate, score, rank. Knows no HTTP."""
