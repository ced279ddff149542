"""The servers that carry HTTP to the app: gunicorn or Ray Serve. `assembly` wires the service up."""
