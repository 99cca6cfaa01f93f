"""The cluster that is hurt, and ways to see and to end its processes."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.conftest import RunningCluster
from tests.on_ray.faults.load import Load
from tests.on_ray.faults.raw_http import Target
from thornback.cluster.principals import key_hash, new_key
from thornback.deployments.cluster_file import ClusterFile, read_cluster_file
from thornback.deployments.dashboard import Dashboard
from thornback.deployments.pool_news import replicas_of

HERE = Path(__file__).parent
MODULES = (
    HERE.parent / "effect_tools.py",
    HERE / "wait_tools.py",
    HERE / "sleep_tools.py",
    HERE / "batch_tools.py",
)


class HurtCluster(RunningCluster):
    """A cluster with principals and two gateways, and ways to see and to end its processes."""

    def __init__(self, name: str, port: int, home: Path, traces: str) -> None:
        """
        Args:
            traces: Where it sends them.
        """
        super().__init__(name, port, home)
        # Soon, for the tests; what else the operator's environment says goes along.
        self.environment["OTEL_BSP_SCHEDULE_DELAY"] = "300"
        self.traces = traces
        self.traces_key = new_key()
        self.keys = {"ann": new_key(), "bob": new_key()}
        self.effects_file = home / "effects"
        self.effects_file.touch()
        for path in (*MODULES, HERE / "prompts.yaml"):
            shutil.copy(path, home)
        self.configure(lambda config: None)

    def configure(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Write the config, with a change to what `cluster.yaml` says."""
        config = yaml.safe_load((HERE / "cluster.yaml").read_text("utf-8"))
        config["name"] = self.name
        config["gateway"]["port"] = self.port
        for name, key in self.keys.items():
            config["principals"][name]["key_sha256"] = key_hash(key)
        effects = {"env_vars": {"EFFECTS_FILE": str(self.effects_file)}}
        config["pools"]["effects"]["runtime_env"] = effects
        traces = config["telemetry"]["traces"]
        traces |= {"endpoint": self.traces, "headers": {"x-traces-key": self.traces_key}}
        change(config)
        self.config.write_text(yaml.safe_dump(config), "utf-8")

    # --- ways in ----------------------------------------------------------------------------------

    def front(self, key: str | None = "ann") -> Target:
        """Through HAProxy, as a principal or as nobody."""
        return Target(self.port, f"127.0.0.1:{self.port}", self.keys[key] if key else None)

    def gateways(self, key: str | None = "ann") -> list[Target]:
        """Past HAProxy: each gateway's own port."""
        front = self.front(key)
        ports = sorted(port for pid in self.pids("gateway") for port in _http_ports(pid))
        return [front._replace(port=port) for port in ports]

    # --- what is there ----------------------------------------------------------------------------

    @property
    def file(self) -> ClusterFile:
        found = read_cluster_file(self.home / "thornback" / self.name)
        assert found is not None
        return found

    @property
    def logs(self) -> Path:
        """Where every process of this Ray logs."""
        assert self.file.temp_dir is not None
        return Path(self.file.temp_dir, "session_latest", "logs")

    def effects_of(self, load: Load) -> list[str]:
        """The lines that the calls of this load left."""
        lines = self.effects_file.read_text("utf-8").splitlines()
        return [line for line in lines if line.startswith(f"{load.name}-")]

    def serve_details(self) -> dict[str, Any]:
        """What Serve says of itself."""
        dashboard = Dashboard(self.file.dashboard_url, self.file.token)
        try:
            return dashboard.serve_details()
        finally:
            dashboard.close()

    def pids(self, part: str) -> set[int]:
        """Processes of the running replicas of the gateway or of a pool, as Serve says."""
        applications = self.serve_details()["applications"]
        replicas = replicas_of(applications.get(f"{self.file.namespace}.{part}", {}))
        return {replica["pid"] for replica in replicas if replica["state"] == "RUNNING"}

    def fronts(self) -> set[str]:
        """The healthy front doors, as Serve says; another id means another process."""
        proxies = self.serve_details()["proxies"].values()
        return {proxy["actor_id"] for proxy in proxies if proxy["status"] == "HEALTHY"}

    def named(self, name: str) -> set[int]:
        """Processes of this cluster by how their title begins."""
        found = set()
        for process in self.processes():
            try:
                title = " ".join(process.cmdline())
                if title.startswith(name) or process.name() == name:
                    found.add(process.pid)
            except psutil.NoSuchProcess:
                continue
        return found


def kill(*pids: int) -> None:
    for pid in pids:
        psutil.Process(pid).send_signal(signal.SIGKILL)


def _http_ports(pid: int) -> list[int]:
    """Where a replica listens for HTTP, among its other servers."""
    process = psutil.Process(pid)
    settings = process.environ()
    first, last = (
        int(settings[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX")
    )
    found = process.net_connections("tcp")
    listening = {c.laddr.port for c in found if c.status == psutil.CONN_LISTEN}
    return [port for port in listening if first <= port <= last]
