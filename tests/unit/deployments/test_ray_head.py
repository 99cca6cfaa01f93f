from pathlib import Path

from ray import NodeID, _raylet

from thornback.deployments.ports import free_ports
from thornback.deployments.ray_head import note_agent_ports


def test_a_raylet_need_not_wait_for_its_agents_to_know_their_ports(tmp_path: Path) -> None:
    ports = free_ports(0, lambda port, host="": True)
    assert ports is not None
    node_id = NodeID.from_random().hex()
    note_agent_ports(tmp_path, node_id, ports)
    expected = {
        "METRICS_AGENT": ports.dashboard_agent_grpc,
        "METRICS_EXPORT": ports.metrics_export,
        "DASHBOARD_AGENT_LISTEN": ports.dashboard_agent,
        "RUNTIME_ENV_AGENT": ports.runtime_env_agent,
    }
    for agent, port in expected.items():
        name = getattr(_raylet, f"{agent}_PORT_NAME")
        known = _raylet.wait_for_persisted_port(str(tmp_path), node_id, name, timeout_ms=0)
        assert known == port, agent
