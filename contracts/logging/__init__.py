"""One shape for the log lines of all: webapp, pusher, gunicorn, nginx, supervisord, libraries.

Knows neither webapp nor pusher; both use it, and so does supervisord, which writes the files.
"""
