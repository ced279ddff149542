"""How Ray Serve's proxies choose a replica: the router of `webapp.servers.ray`, importable in a proxy.

Ray sends a class to its processes by the name of its module. Importing this module puts `webapp` on their path.
"""

import reranking_server  # noqa: F401 - first: it puts webapp on the path
from webapp.servers.ray import router


class SmallestBacklog(router.SmallestBacklog):
    """Sends a request to the replica that has the least to do."""
