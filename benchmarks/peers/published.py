"""The published way to run MCP on Ray Serve: the same server as an ASGI app under `@serve.ingress`.

    python published.py PORT

Serve's default proxy, one replica, default settings but two: the access log is off, as with every
peer, and a replica takes as many requests as there are clients. With Serve's default of 5 at a time
the rest wait in the proxy, which tries again ever more seldom: 4 to 8 calls a second at 64 clients.
It has a Ray of its own, which ends with this process.
"""

import signal
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve


def build() -> Any:
    import bare

    return bare.app()


def run(port: int, **options: Any) -> None:
    """Serve it until a signal comes.

    Args:
        options: Of the deployment, beside those that are as with every peer.
    """
    here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}
    ray.init(include_dashboard=False, log_to_driver=False, runtime_env=here)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deployment = serve.deployment(serve.ingress(build)(), name="published").options(
        logging_config={"enable_access_log": False}, **options
    )
    serve.run(deployment.bind(), name="published", route_prefix="/")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        # Not `signal.pause()`: one of Ray's threads may get the signal, which does not wake it.
        while True:
            time.sleep(0.5)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    run(int(sys.argv[1]), max_ongoing_requests=256)
