"""The class that chooses replicas, as Serve sends it to its proxies."""

import subprocess

from ray_kit import PROGRAMS

SEND = """
import sys
from reranking_server.ray_app import app
router = app._bound_deployment._deployment_config.request_router_config
sys.stdout.buffer.write(router.get_serialized_request_router_cls())
"""

RECEIVE = """
import sys
import reranking_server  # the clone's own installation maps webapp, too; an installed wheel does not
sys.path.remove(str(reranking_server.HOME))
del sys.modules["reranking_server"]
finder, = (each for each in sys.modules.values() if "webapp" in getattr(each, "MAPPING", ()))
del finder.MAPPING["webapp"]
from ray import cloudpickle
print(cloudpickle.load(sys.stdin.buffer).__mro__)
"""


def test_a_proxy_gets_the_router_although_nothing_has_put_webapp_on_its_path():
    sent = subprocess.run([PROGRAMS / "python", "-c", SEND], check=True, capture_output=True).stdout
    received = subprocess.run(
        [PROGRAMS / "python", "-c", RECEIVE], input=sent, check=False, capture_output=True, cwd="/"
    )
    assert "webapp.servers.ray.router.SmallestBacklog" in received.stdout.decode(), received.stderr.decode()
