"""Views: parse, call the service, dump."""
