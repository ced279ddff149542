"""gunicorn workers on gevent. In webapp, gevent lives here only."""
