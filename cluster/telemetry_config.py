"""What of the cluster's own doings is counted and traced, and where traces go.

OpenTelemetry's own variables in the environment of `up` count too. What comes of both is a set of
such variables again, and every replica is told it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from thornback.cluster.config_model import NUMBER, ConfigModel

OTEL = "OTEL_"
ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
HEADERS = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
_ENDPOINT_OF_ALL = "OTEL_EXPORTER_OTLP_ENDPOINT"
_HEADERS_OF_ALL = "OTEL_EXPORTER_OTLP_HEADERS"
_PROTOCOL_OF_ALL = "OTEL_EXPORTER_OTLP_PROTOCOL"
_SAMPLER = "OTEL_TRACES_SAMPLER"
_PATH = "/v1/traces"
"""Where a collector takes traces (OTLP 1.x, "OTLP/HTTP Request")."""

_PASSED_ON = (
    "OTEL_ATTRIBUTE_",
    "OTEL_BSP_",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_",
    "OTEL_LINK_",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SERVICE_NAME",
    "OTEL_SPAN_",
    _SAMPLER,
)
"""How the names of variables begin that say how traces are made and sent."""


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if not _is_http(value):
        raise ValueError(f"is not an http(s) URL such as http://127.0.0.1:4318{_PATH}")
    if parts.username is not None:
        raise ValueError("has a name or password in it; put them into headers")
    if parts.path in ("", "/"):
        raise ValueError(f"has no path; a collector takes traces at {_PATH}")
    return value


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not url.split()[1:]


HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$")]


class TracesConfig(ConfigModel):
    """Where the spans of calls are sent, by OTLP over HTTP."""

    endpoint: Annotated[str, AfterValidator(_endpoint)]
    """Whole URL, e.g. `http://127.0.0.1:4318/v1/traces`."""
    headers: dict[HeaderName, HeaderValue] = {}
    """Sent with every export; for keys, `${NAME}` or `${file:PATH}`."""
    sample_ratio: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), NUMBER] = 1.0
    """Share of the traces that begin here. Where a client's trace goes on, its client decides."""


class TelemetryConfig(ConfigModel):
    """What is counted and traced."""

    metrics: bool = True
    """Count calls, and show the sums and the size of pools under `thornback_*` on Ray's metrics
    endpoint."""
    traces: TracesConfig | None = None
    """None: as `OTEL_EXPORTER_OTLP_*` say in the environment of `up`, or nowhere."""


def trace_variables(traces: TracesConfig | None, environment: Mapping[str, str]) -> dict[str, str]:
    """What OpenTelemetry's SDK is to read in each replica; empty: there are no traces.

    What the file says goes before the environment, whose headers are for its own endpoint alone.

    Args:
        traces: As in the file.
        environment: That of `up`.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return {}
    found = {name: text for name, text in environment.items() if name.startswith(_PASSED_ON)}
    if traces is None:
        where = _from_environment(environment)
    else:
        headers = ",".join(f"{name}={quote(text)}" for name, text in traces.headers.items())
        where = {ENDPOINT: traces.endpoint, HEADERS: headers}
        if "sample_ratio" in traces.model_fields_set or _SAMPLER not in found:
            where |= {
                _SAMPLER: "parentbased_traceidratio",
                f"{_SAMPLER}_ARG": repr(traces.sample_ratio),
            }
    return {**found, **where} if where else {}


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Endpoint and headers, where they are meant for traces and for the protocol spoken here."""
    protocol = environment.get(PROTOCOL) or environment.get(_PROTOCOL_OF_ALL) or "http/protobuf"
    exporters = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    of_all = environment.get(_ENDPOINT_OF_ALL)
    endpoint = environment.get(ENDPOINT) or (of_all and of_all.rstrip("/") + _PATH)
    if not endpoint or not _is_http(endpoint):
        return {}
    if protocol != "http/protobuf" or "otlp" not in exporters.split(","):
        return {}
    headers = environment.get(HEADERS) or environment.get(_HEADERS_OF_ALL) or ""
    return {ENDPOINT: endpoint, HEADERS: headers}
