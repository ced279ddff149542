"""Reports what the service does: metrics, events for the pusher, traces.

Law: observers may fail; work may not.
"""
