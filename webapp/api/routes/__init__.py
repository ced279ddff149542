"""Views: parse, call the service, dump. Each module lists its routes in `ENDPOINTS`, beside the views."""
