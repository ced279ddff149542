"""HTTP: views parse, call the service and dump. Flask is imported in this package only, and never in `dialects`."""
