"""HTTP: views parse, call the service and dump. Flask lives here and in `webapp.api.app` only."""
