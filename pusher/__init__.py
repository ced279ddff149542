"""Receives progress from all webapp workers over ZeroMQ and pushes it to browsers; a process of its own.

Law: it may die, stall or be flooded at any time, and no rerank notices. Of ours it imports `contracts` alone.
"""
