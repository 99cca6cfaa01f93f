"""What every Python process of a Ray of ours runs before anything else.

Python imports `sitecustomize` from its path when it starts. Ours corrects Ray Serve in two places
that have no setting. Serve imports pandas, where it is installed, for one line of its JSON encoder:
seconds of CPU for the controller, the front door, each build and each replica, for data frames that
nothing of ours sends. And a replica's server for calls listens on every address, also where the
whole cluster is one machine that shows nothing to the network.
"""

from __future__ import annotations

from pathlib import Path

from thornback.deployments.private_files import write_private

_SITE = '''\
import importlib.machinery
import os
import sys

ONE_MACHINE = os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == "0"


class CorrectedServe:
    """Finds one module of Ray Serve, and keeps pandas from another."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "pandas":
            # Tools import it freely; this module is ready to hear that there is none.
            serve = sys.modules.get("ray.serve._private.utils")
            if serve is not None and not hasattr(serve, "serve_encoders"):
                raise ModuleNotFoundError("not for Ray Serve's own use", name=name)
        if name == "ray.serve._private.replica" and ONE_MACHINE:
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            if spec is not None:
                spec.loader = LoopbackReplica(name, spec.origin)
            return spec
        return None


class LoopbackReplica(importlib.machinery.SourceFileLoader):
    """Loads Serve's replica so that its server for calls listens on loopback."""

    def exec_module(self, module):
        super().exec_module(module)
        listen = module.add_port_to_grpc_server

        def on_loopback(server, address):
            return listen(server, address.replace("[::]", "127.0.0.1"))

        module.add_port_to_grpc_server = on_loopback


sys.meta_path.insert(0, CorrectedServe)
# Somebody else's module of this name may stand behind ours.
here = os.path.dirname(__file__)
others = [entry for entry in sys.path if entry != here]
other = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
if other is not None and other.loader is not None:
    other.loader.exec_module(sys.modules["sitecustomize"])
'''


def write_site(directory: Path) -> None:
    """Write what a process with `directory` on its `PYTHONPATH` runs when it starts."""
    write_private(directory / "sitecustomize.py", _SITE.encode())
