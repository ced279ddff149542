"""The agreements of webapp and pusher: events on the wire, API keys, log lines. Imports neither."""
