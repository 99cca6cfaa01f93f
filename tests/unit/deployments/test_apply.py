from pathlib import Path
from typing import Any

import httpx
import pytest

from thornback.cluster.config import parse_config
from thornback.cluster.errors import LaunchError
from thornback.deployments.apply import apply_applications, contains
from thornback.deployments.dashboard import Dashboard, reason

CONFIG = parse_config({"pools": {"p": {"tools": ["m"]}}}, "test", Path("/nowhere"))
OURS = {"name": "thornback.local.gateway", "route_prefix": "/", "args": {"a": 1}}
OTHER = {"name": "other", "route_prefix": "/other", "args": {}}


class FakeServe:
    """A dashboard that keeps what is put to it, and can lose an application once."""

    def __init__(self, *applications: dict[str, Any], imperative: str | None = None) -> None:
        self.applications = {app["name"]: app for app in applications}
        self.imperative = imperative
        self.puts = 0
        self.lose_once: str | None = None
        self.address: dict[str, Any] = {"host": "127.0.0.1", "port": 8000}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.headers.get("Authorization") != "Bearer token":
            return httpx.Response(401)
        if request.method == "PUT":
            self.puts += 1
            document = httpx.Response(200, content=request.content).json()
            self.applications = {app["name"]: app for app in document["applications"]}
            self.applications.pop(self.lose_once or "", None)
            self.lose_once = None
            return httpx.Response(200)
        running: dict[str, Any] = {
            name: {"status": "RUNNING", "deployed_app_config": {**app, "runtime_env": {}}}
            for name, app in self.applications.items()
        }
        if self.imperative:
            running["made"] = {
                "status": "RUNNING",
                "route_prefix": self.imperative,
                "deployed_app_config": None,
            }
        return httpx.Response(200, json={"applications": running, "http_options": self.address})

    def dashboard(self, token: str = "token") -> Dashboard:
        return Dashboard("http://dashboard", token, transport=httpx.MockTransport(self))


def test_what_others_run_is_sent_along_exactly() -> None:
    serve = FakeServe(OTHER)
    assert apply_applications(serve.dashboard(), CONFIG, [OURS])
    assert serve.applications["other"] == {**OTHER, "runtime_env": {}}
    assert serve.applications[OURS["name"]] == OURS


def test_what_is_there_already_is_not_put_again() -> None:
    serve = FakeServe(OTHER, OURS)
    assert not apply_applications(serve.dashboard(), CONFIG, [OURS])
    assert serve.puts == 0


def test_what_the_config_no_longer_has_is_removed() -> None:
    stale = {"name": "thornback.local.old", "route_prefix": None}
    serve = FakeServe(OURS, stale)
    apply_applications(serve.dashboard(), CONFIG, [OURS])
    assert list(serve.applications) == [OURS["name"]]


def test_nothing_of_ours_leaves_what_others_run() -> None:
    serve = FakeServe(OTHER, OURS)
    apply_applications(serve.dashboard(), CONFIG, [])
    assert list(serve.applications) == ["other"]


def test_an_application_of_others_that_was_lost_is_put_back() -> None:
    serve = FakeServe(OTHER)
    serve.lose_once = "other"
    apply_applications(serve.dashboard(), CONFIG, [OURS])
    assert (sorted(serve.applications), serve.puts) == (["other", OURS["name"]], 2)


@pytest.mark.parametrize(
    "serve", [FakeServe({**OTHER, "route_prefix": "/"}), FakeServe(imperative="/")]
)
def test_a_route_that_somebody_has_is_not_taken(serve: FakeServe) -> None:
    with pytest.raises(LaunchError, match="already has the route '/'"):
        apply_applications(serve.dashboard(), CONFIG, [OURS])
    assert serve.puts == 0


def test_a_serve_that_listens_elsewhere_is_not_taken_for_ours() -> None:
    serve = FakeServe()
    serve.address = {"host": "0.0.0.0", "port": 8000}
    with pytest.raises(LaunchError, match=r"listens on 0\.0\.0\.0:8000.*says 127\.0\.0\.1:8000"):
        apply_applications(serve.dashboard(), CONFIG, [OURS])
    assert serve.puts == 0


def test_a_cluster_whose_name_begins_with_ours_is_somebody_else() -> None:
    neighbour = {"name": "thornback.local-2.gateway", "route_prefix": "/x"}
    serve = FakeServe(neighbour)
    apply_applications(serve.dashboard(), CONFIG, [])
    assert list(serve.applications) == ["thornback.local-2.gateway"]


def test_a_refused_token_is_said_without_the_token() -> None:
    with pytest.raises(LaunchError) as caught:
        FakeServe().dashboard(token="hunter2").serve_details()
    assert "token" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_serve_may_add_what_it_likes_and_change_nothing() -> None:
    assert contains({"a": 1.0, "b": {"c": [1], "d": 2}}, {"a": 1, "b": {"c": [1]}})
    assert not contains({"a": 1}, {"a": 2})
    assert not contains({}, {"a": None})


def test_of_a_traceback_only_the_error_is_told() -> None:
    text = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\nValueError: no GPU\n'
    assert reason(text) == "ValueError: no GPU"
    assert reason("  plain words \n") == "plain words"
    assert reason("") == "it does not say why"


MISFITS = """\
2 validation errors for ServeDeploySchema
applications.1.deployments.0.max_surge_percent
  Input should be less than or equal to 100 [type=less_than_equal, input_value=101, input_type=int]
    For further information visit https://errors.pydantic.dev/2.14/v/less_than_equal
nonsense
  Extra inputs are not permitted [type=extra_forbidden, input_value='hunter2', input_type=str]
    For further information visit https://errors.pydantic.dev/2.14/v/extra_forbidden
"""


@pytest.mark.parametrize(
    "before", ["", "Traceback (most recent call last):\n  x\na.ValidationError: "]
)
def test_of_a_document_that_does_not_fit_each_place_is_told(before: str) -> None:
    assert reason(before + MISFITS) == (
        "applications.1.deployments.0.max_surge_percent: Input should be less than or equal to "
        "100; nonsense: Extra inputs are not permitted"
    )
