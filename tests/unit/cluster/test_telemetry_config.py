from typing import Any

import pytest

from thornback.cluster.telemetry_config import TracesConfig, trace_variables

HERE = "http://127.0.0.1:4318/v1/traces"
TO = "OTEL_EXPORTER_OTLP_"


def variables(environment: dict[str, str], **traces: Any) -> dict[str, str]:
    config = TracesConfig.model_validate(traces) if traces else None
    return trace_variables(config, environment)


def test_without_an_endpoint_nothing_is_traced() -> None:
    assert variables({"OTEL_SERVICE_NAME": "tools", "PATH": "/bin", f"{TO}TIMEOUT": "3"}) == {}


def test_the_file_says_where_traces_go_how_many_and_with_which_headers() -> None:
    told = variables({}, endpoint=HERE, headers={"x-key": "a b,c=d"}, sample_ratio=0.25)
    assert told == {
        f"{TO}TRACES_ENDPOINT": HERE,
        f"{TO}TRACES_HEADERS": "x-key=a%20b%2Cc%3Dd",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
    }


@pytest.mark.parametrize(
    ("environment", "endpoint"),
    [
        ({f"{TO}ENDPOINT": "http://a:4318"}, "http://a:4318/v1/traces"),
        ({f"{TO}ENDPOINT": "http://a:4318/otlp/"}, "http://a:4318/otlp/v1/traces"),
        ({f"{TO}TRACES_ENDPOINT": "https://b/take"}, "https://b/take"),
        ({f"{TO}ENDPOINT": "http://a", f"{TO}TRACES_ENDPOINT": "http://b/x"}, "http://b/x"),
        ({f"{TO}ENDPOINT": "http://a", f"{TO}PROTOCOL": "http/protobuf"}, "http://a/v1/traces"),
        ({f"{TO}ENDPOINT": "http://a", f"{TO}PROTOCOL": "grpc"}, None),
        ({f"{TO}ENDPOINT": "http://a", f"{TO}TRACES_PROTOCOL": "grpc"}, None),
        ({f"{TO}ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"}, None),
        (
            {f"{TO}ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "console,otlp"},
            "http://a/v1/traces",
        ),
        ({f"{TO}ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "true"}, None),
        ({f"{TO}ENDPOINT": "a:4317"}, None),
    ],
)
def test_the_environment_may_say_where_traces_go(
    environment: dict[str, str], endpoint: str | None
) -> None:
    assert variables(environment).get(f"{TO}TRACES_ENDPOINT") == endpoint


def test_headers_of_the_environment_go_to_its_own_endpoint_alone() -> None:
    secret = {f"{TO}ENDPOINT": "http://a", f"{TO}HEADERS": "key=hunter2"}
    assert variables(secret)[f"{TO}TRACES_HEADERS"] == "key=hunter2"
    assert "hunter2" not in str(variables(secret, endpoint=HERE))
    assert "hunter2" not in str(
        variables({**secret, f"{TO}TRACES_HEADERS": "key=hunter2"}, endpoint=HERE)
    )


def test_what_else_the_environment_says_of_traces_is_passed_on_and_nothing_of_the_rest() -> None:
    environment = {
        f"{TO}TIMEOUT": "3",
        f"{TO}TRACES_COMPRESSION": "gzip",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=lab",
        "OTEL_SERVICE_NAME": "tools",
    }
    told = variables(
        {**environment, f"{TO}METRICS_ENDPOINT": "http://m", "HOME": "/root"}, endpoint=HERE
    )
    assert environment.items() <= told.items()
    assert not told.keys() & {f"{TO}METRICS_ENDPOINT", "HOME"}


def test_a_sampler_of_the_environment_holds_where_the_file_names_no_share() -> None:
    sampler = {"OTEL_TRACES_SAMPLER": "always_on"}
    assert variables(sampler, endpoint=HERE)["OTEL_TRACES_SAMPLER"] == "always_on"
    told = variables(sampler, endpoint=HERE, sample_ratio=0.5)
    assert told["OTEL_TRACES_SAMPLER"] == "parentbased_traceidratio"
