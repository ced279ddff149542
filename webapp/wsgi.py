"""WSGI entry: what gunicorn loads, once, in its master."""

from webapp.bootstrap import assemble
from webapp.settings import load_settings

settings = load_settings()
webapp = assemble(settings)
app = webapp.app
