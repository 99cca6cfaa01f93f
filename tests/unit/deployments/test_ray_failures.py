from pathlib import Path

import pytest

from thornback.cluster.errors import ConfigError, LaunchError
from thornback.deployments.ray_failures import in_words

RAYS_CODE = compile("raise TimeoutError('HTTP proxies not available after 60s.')", "serve", "exec")


def raise_in_ray() -> None:
    exec(RAYS_CODE, {"__name__": "ray.serve._private.client"})


def test_what_ray_raises_is_told_in_words() -> None:
    why = r"Ray failed: TimeoutError: HTTP proxies not available after 60s\.$"
    with pytest.raises(LaunchError, match=why), in_words(None):
        raise_in_ray()


def test_where_ray_is_ours_its_logs_are_named_and_asked(tmp_path: Path) -> None:
    logs = tmp_path / "session_latest" / "logs"
    with pytest.raises(LaunchError, match=f"its logs are in {logs}"), in_words(str(tmp_path)):
        raise_in_ray()
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_text("The raylet exited immediately because one Ray agent failed")
    with pytest.raises(LaunchError, match="machine was too busy"), in_words(str(tmp_path)):
        raise_in_ray()
    with pytest.raises(LaunchError, match="machine was too busy"), in_words(str(tmp_path)):
        raise LaunchError("cannot join the Ray at 127.0.0.1:1")


@pytest.mark.parametrize("ours", [ConfigError("no"), TimeoutError("ours"), KeyboardInterrupt()])
def test_what_ray_did_not_raise_stays_what_it_is(ours: BaseException) -> None:
    with pytest.raises(type(ours)) as caught, in_words(None):
        raise ours
    assert caught.value is ours
