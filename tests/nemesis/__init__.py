"""Faults and attacks on a whole stack under load, in an order that follows from a seed."""
