"""What `serve run reranking_server.ray_app:app` runs: the deployment of `webapp.servers.ray`.

Ray sends a class to its processes by the name of its module. Importing this module puts `webapp` on their path.
"""

import reranking_server  # noqa: F401 - first: it puts webapp on the path
from reranking_server.ray_router import SmallestBacklog
from webapp.servers.ray import deployment


class Reranking(deployment.Reranking):
    """One replica, as Serve calls it."""


class Router(SmallestBacklog):
    """Chooses a replica. Serve sends this class whole, and what it derives from by the name of that module."""


app = deployment.deploy(Reranking, Router)
"""The application."""
