"""What carries HTTP to the app: gunicorn or Ray Serve. `assembly` puts the service together."""
