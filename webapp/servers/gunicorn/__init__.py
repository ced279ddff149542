"""Workers of gunicorn on gevent. gevent lives here only."""
