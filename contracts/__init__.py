"""What the webapp and the pusher agree on: events on the wire, API keys, log lines. Imports neither."""
