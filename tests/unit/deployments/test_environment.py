from pathlib import Path

from thornback.cluster.config import ClusterConfig, parse_config
from thornback.deployments.environment import (
    EXPECTED,
    cluster_environment,
    driver_environment,
    identity_of,
    missing_settings,
    paths_of,
)
from thornback.deployments.ports import BLOCK, FIRST, LAST, Ports, blocks_for, free_ports

UNIX_SOCKET_PATH_MAX = 107
NODE_ID = "f" * 56


def config_of(**sections: object) -> ClusterConfig:
    return parse_config({"pools": {"p": {"tools": ["m"]}}, **sections}, "test", Path("/nowhere"))


def environment_of(config: ClusterConfig, own: dict[str, str] | None = None) -> dict[str, str]:
    return cluster_environment(config, next(blocks_for(0)), paths_of(config), own or {})


def test_paths_of_sockets_fit_into_what_the_kernel_takes() -> None:
    paths = paths_of(config_of(name="a-name-as-long-as-they-may-be-for-a-pool"))
    session = "session_2026-11-23_07-05-00_123456_4194304"
    for path in (
        paths.temp_dir / session / "sockets" / "plasma_store",
        paths.haproxy_dir / NODE_ID / "admin.sock.4194304.tmp",
    ):
        assert len(str(path)) <= UNIX_SOCKET_PATH_MAX


def test_two_clusters_share_no_path_and_no_port() -> None:
    one, two = config_of(name="one"), config_of(name="two")
    assert paths_of(one).temp_dir != paths_of(two).temp_dir
    assert paths_of(one) == paths_of(config_of(name="one"))
    assert identity_of(one) != identity_of(config_of(name="one", state_dir="/elsewhere"))


def test_blocks_of_ports_do_not_overlap_and_stay_in_their_range() -> None:
    blocks = list(blocks_for(identity_of(config_of())))
    assert len(blocks) == (LAST + 1 - FIRST) // BLOCK
    taken: set[int] = set()
    for block in blocks:
        ports = {p for p in numbers_in(block)}
        assert not ports & taken
        taken |= ports
    assert min(taken) >= FIRST
    assert max(taken) <= LAST


def numbers_in(ports: Ports) -> list[int]:
    values = [getattr(ports, name) for name in ports.__struct_fields__]
    ranges = [range(v[0], v[1] + 1) for v in values if isinstance(v, tuple)]
    return [v for v in values if isinstance(v, int)] + [p for r in ranges for p in r]


def test_a_block_in_use_is_passed_over() -> None:
    first, second, *_ = blocks_for(3)
    assert free_ports(3, lambda port: True) == first
    assert free_ports(3, lambda port: port != first.dashboard) == second
    assert free_ports(3, lambda port: False) is None


def test_what_speaks_of_another_ray_is_left_out() -> None:
    own = {"RAY_ADDRESS": "x:1", "RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_AUTH_TOKEN": "t", "A": "1"}
    environment = environment_of(config_of(), own)
    assert environment["A"] == "1"
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert not {"RAY_ADDRESS", "RAY_AUTH_TOKEN"} & environment.keys()


def test_the_key_of_who_starts_the_cluster_is_not_for_its_tools() -> None:
    assert "THORNBACK_KEY" not in environment_of(config_of(), {"THORNBACK_KEY": "tbk_x"})


def test_an_environment_that_fails_is_not_made_again_at_once() -> None:
    assert environment_of(config_of())["RUNTIME_ENV_RETRY_TIMES"] == "1"
    own = {"RUNTIME_ENV_RETRY_TIMES": "3"}
    assert environment_of(config_of(), own)["RUNTIME_ENV_RETRY_TIMES"] == "3"


def test_logs_are_bounded_as_the_operator_says() -> None:
    assert int(environment_of(config_of())["RAY_ROTATION_MAX_BYTES"]) > 0
    own = {"RAY_ROTATION_MAX_BYTES": "7"}
    assert environment_of(config_of(), own)["RAY_ROTATION_MAX_BYTES"] == "7"


def test_haproxy_tells_syslog_of_requests_only_where_the_operator_says_so() -> None:
    assert " sample 1:1000000" in environment_of(config_of())["RAY_SERVE_HAPROXY_LOG_TARGET"]
    own = {"RAY_SERVE_HAPROXY_LOG_TARGET": "10.0.0.2:514"}
    assert environment_of(config_of(), own)["RAY_SERVE_HAPROXY_LOG_TARGET"] == "10.0.0.2:514"


def test_the_token_itself_is_in_no_environment() -> None:
    config = config_of(state_dir="/state")
    assert environment_of(config)["RAY_AUTH_TOKEN_PATH"] == "/state/ray_token"
    assert driver_environment("10.0.0.1:6379", "/t") == {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": "/t",
    }


def test_only_a_loopback_cluster_is_a_cluster_of_one_machine() -> None:
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    open_cluster = config_of(gateway={"host": "0.0.0.0", "allow_anonymous": True})
    assert environment_of(config_of())[name] == "0"
    assert name not in environment_of(open_cluster)
    assert driver_environment("127.0.0.1:6379", None) == {name: "0"}


def test_what_a_replica_does_not_see_is_a_line_to_add() -> None:
    assert missing_settings(EXPECTED) == []
    seen = {**EXPECTED, "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    assert missing_settings(seen) == ["export RAY_SERVE_ENABLE_HA_PROXY=1"]
    assert len(missing_settings({})) == len(EXPECTED)
