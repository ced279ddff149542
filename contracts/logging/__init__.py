"""One shape for every log line, whoever wrote it: webapp, pusher, gunicorn, nginx, supervisord, libraries.

Knows neither webapp nor pusher; both use it, and so does supervisord, which writes the files.
"""
