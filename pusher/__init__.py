"""Receives progress from all webapp workers over ZeroMQ and pushes it to browsers. A process of its own.

Law: it may die, stall or be flooded at any time, and no rerank notices. Imports nothing of the webapp, which imports
nothing of it but `contracts.events`.
"""
