"""The config: one frozen tree, validated once, before anything is deployed.

`load_config` reads a file, resolves `${NAME}` and `${file:PATH}`, and refuses every key that it
does not know by its path and the nearest valid one. What each setting comes to, and where from, is
`settings.py`.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from thornback.cluster.catalog import MAX_BATCH_SIZE, MAX_BATCH_WAIT_S, MAX_CONCURRENT_BATCHES
from thornback.cluster.config_model import (
    NOT_A_KEY,
    NUMBER,
    ConfigModel,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    misfits,
)
from thornback.cluster.errors import ConfigError
from thornback.cluster.principals import ANONYMOUS
from thornback.cluster.profiles import PROFILES, ProfileName
from thornback.cluster.serve_options import DeploymentOptions, RuntimeEnvironment
from thornback.cluster.telemetry_config import OTEL, TelemetryConfig

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
"""Names of clusters and pools: they become names of actors, applications and files."""
ToolName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
Attempts = Annotated[int, Field(ge=1, le=5), NUMBER]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

DEFAULT_CONFIG = "local"
GATEWAY_APP = "gateway"
"""What a pool cannot be called: beside the pools' applications there is one of this name."""
LOOPBACK_NAMES = ("localhost",)


class GatewayConfig(ConfigModel):
    """The HTTP front door."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs `principals` or `allow_anonymous`."""
    port: Annotated[int, Field(ge=1, le=65535), NUMBER] = 8000
    num_replicas: PositiveInt = 1
    """Gateways. Fixed: a change makes HAProxy cut open streams."""
    num_cpus: NonNegativeFloat = 0.1
    """Share of a node's CPUs reserved for each gateway."""
    gather_s: Annotated[float, Field(ge=0, le=0.1), NUMBER] = 0
    """Seconds for which a gateway gathers calls for one replica before it sends them together; 0:
    they travel together only while the replica is busy."""
    max_body_bytes: PositiveInt = 4 * 1024 * 1024
    """Largest request body, in bytes; a larger one is answered 413."""
    allow_anonymous: bool = False
    """Listen beyond loopback although everybody is anonymous."""
    allowed_hosts: list[str] = []
    """`Host` headers accepted beside the loopback names and `host`, exactly, with port."""
    allowed_origins: list[str] = []
    """`Origin` headers accepted beside the loopback ones, exactly, e.g. `https://app.example`."""
    page_size: Annotated[int, Field(ge=1, le=1000), NUMBER] = 200
    """Entries on one page of a list."""
    max_timeout_s: PositiveFloat = 3600.0
    """Hard limit, in seconds, on the time a tool may take and on the time a call may wait for one,
    whatever the tool says."""


class PrincipalConfig(ConfigModel):
    """One caller."""

    key_sha256: Sha256
    """SHA-256 of the bearer key; `thornback keys new NAME` prints both."""
    tools: list[str] = ["*"]
    """Shell patterns of the tools that this caller may use."""
    tags: list[str] = []


class PoolConfig(DeploymentOptions):
    """One pool of tool hosts: which tools it runs, and on what."""

    tools: Annotated[list[ModuleName], Field(min_length=1)]
    """Modules whose tools this pool runs, e.g. `thornback.tools.sql`."""
    threads: PositiveInt = 1
    """Threads that native libraries may use in one call: `OMP_NUM_THREADS`, DuckDB's `threads`."""
    import_timeout_s: PositiveFloat = 60.0
    """Seconds that importing the modules may take."""
    runtime_env: RuntimeEnvironment = {}
    """Ray's runtime environment, merged over `ray_actor_options.runtime_env`."""


class BatchConfig(ConfigModel):
    """How calls of a batch tool are collected, over what its author wrote; None leaves it."""

    max_batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE), NUMBER] | None = None
    batch_wait_timeout_s: Annotated[float, Field(ge=0, le=MAX_BATCH_WAIT_S), NUMBER] | None = None
    max_concurrent_batches: (
        Annotated[int, Field(ge=1, le=MAX_CONCURRENT_BATCHES), NUMBER] | None
    ) = None


class ToolConfig(ConfigModel):
    """What the operator decides for one tool, over what its author wrote; None leaves it."""

    timeout_s: PositiveFloat | None = None
    queue_timeout_s: PositiveFloat | None = None
    max_attempts: Attempts | None = None
    max_result_bytes: PositiveInt | None = None
    batch: BatchConfig | None = None
    """For batch tools; a version that is none is left as it is."""
    title: str | None = None
    read_only: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None
    open_world: bool | None = None
    owner: str | None = None
    tags: list[str] | None = None
    visibility: Literal["listed", "unlisted"] | None = None
    principals: list[str] | None = None
    """Patterns of the principals that may use it; `tag:PATTERN` matches tags."""


class DefaultsConfig(DeploymentOptions):
    """Defaults for every pool (Serve's options) and every tool (`timeout_s`, ...)."""

    threads: PositiveInt | None = None
    import_timeout_s: PositiveFloat | None = None
    runtime_env: RuntimeEnvironment = {}
    timeout_s: PositiveFloat | None = None
    queue_timeout_s: PositiveFloat | None = None
    max_attempts: Attempts | None = None
    max_result_bytes: PositiveInt | None = None


class ResourceConfig(ConfigModel):
    """A resource that the config puts: from `text`, `path` or base64 `blob`."""

    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str = "text/plain"
    text: str | None = None
    path: str | None = None
    blob: str | None = None
    principals: list[str] = ["*"]

    @model_validator(mode="after")
    def _one_source(self) -> ResourceConfig:
        if sum(source is not None for source in (self.text, self.path, self.blob)) != 1:
            raise ValueError("give exactly one of text, path and blob")
        return self


class TemplateConfig(ConfigModel):
    """A resource template: the text that a URI of its family reads as."""

    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str = "text/plain"
    text: str
    """A Jinja2 template over the variables of the URI template."""
    principals: list[str] = ["*"]


class RayConfig(ConfigModel):
    """The Ray that `up` starts where there is none to join."""

    num_cpus: PositiveInt | None = None
    """CPUs that Ray may hand out; None: the machine's."""
    object_store_memory_bytes: PositiveInt | None = None
    """Size of the object store; None: Ray's default (30 % of memory)."""


class ClusterConfig(ConfigModel):
    """What a config file holds."""

    version: Annotated[Literal[1], NUMBER] = 1
    name: Name = "local"
    state_dir: str | None = None
    """Home of registry, contents and logs; None: `~/.local/state/thornback/<name>`."""
    profile: ProfileName = "balanced"
    """A preset of options of pools and of the gateway; whatever the file writes wins."""
    ray: RayConfig = RayConfig()
    gateway: GatewayConfig = GatewayConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    principals: dict[Name, PrincipalConfig] = {}
    datasets: dict[Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]{0,62}$")], str] = {}
    """Tables for the data tools: a name, and a path or glob of CSV, Parquet or JSON files."""
    defaults: DefaultsConfig = DefaultsConfig()
    modules: list[ModuleName] = []
    """Modules that no pool names: each of their tool versions gets a pool of its own."""
    pools: dict[Name, PoolConfig] = {}
    tools: dict[ToolName, ToolConfig] = {}
    prompts: list[str] = []
    """Files or globs of prompt templates."""
    resources: dict[str, ResourceConfig] = {}
    resource_templates: dict[str, TemplateConfig] = {}

    base_dir: Annotated[str, NOT_A_KEY] = "."
    """Directory of the config file: relative paths and tool modules are found from here."""
    environment: Annotated[dict[str, str], NOT_A_KEY] = {}
    """OpenTelemetry's variables, as they were when the config was read."""

    @field_validator("base_dir")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return str(Path(value).resolve())

    @model_validator(mode="after")
    def _whole(self) -> ClusterConfig:
        if not self.modules and not self.pools:
            raise ValueError("nothing to run: name tool modules under pools or modules")
        if GATEWAY_APP in self.pools:
            raise ValueError(f"no pool can be called {GATEWAY_APP}: Thornback's own gateway is")
        seen: dict[str, str] = {}
        for pool, config in self.pools.items():
            for module in config.tools:
                if module in seen and seen[module] == pool:
                    raise ValueError(f"pools.{pool}.tools names {module} twice")
                seen[module] = pool
        if both := sorted(set(self.modules) & seen.keys()):
            raise ValueError(f"modules and pools.{seen[both[0]]} both name {both[0]}")
        if not self.principals and not self.gateway.allow_anonymous and not self.loopback_only:
            raise ValueError(
                f"gateway.host {self.gateway.host} is not loopback and there are no principals: "
                "everybody could call every tool. Add principals (`thornback keys new NAME`), "
                "listen on 127.0.0.1, or write gateway.allow_anonymous: true"
            )
        return self

    @model_validator(mode="after")
    def _callers(self) -> ClusterConfig:
        if ANONYMOUS in self.principals:
            raise ValueError(
                f"principals.{ANONYMOUS}: is what everybody is called where there are no principals"
            )
        owners: dict[str, str] = {}
        for name, caller in self.principals.items():
            owner = owners.setdefault(caller.key_sha256, name)
            if owner != name:
                raise ValueError(
                    f"principals.{owner} and principals.{name} have the same key_sha256: who of "
                    "them calls could not be told"
                )
        return self

    @property
    def loopback_only(self) -> bool:
        return is_loopback(self.gateway.host)

    @property
    def anonymous(self) -> bool:
        """Whether everybody is `anonymous`."""
        return not self.principals

    @property
    def namespace(self) -> str:
        """Ray namespace of the cluster's actors, and prefix of its Serve applications."""
        return f"thornback.{self.name}"

    @property
    def state_path(self) -> Path:
        if self.state_dir is None:
            return state_home() / self.name
        return Path(self.base_dir, Path(self.state_dir).expanduser())

    @property
    def url(self) -> str:
        """Where an agent on this machine finds the endpoint."""
        host = "127.0.0.1" if self.gateway.host in ("0.0.0.0", "::", "") else self.gateway.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.gateway.port}/mcp"


def state_home() -> Path:
    """`~/.local/state/thornback` (XDG base directory specification, `XDG_STATE_HOME`)."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "thornback"


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in LOOPBACK_NAMES


def load_config(path: Path) -> ClusterConfig:
    """Read and validate a config file.

    Raises:
        ConfigError: if the file cannot be read or is not a valid config. The message names every
            bad key by its path, with the nearest valid one; values, which may be secrets, are not
            repeated.
    """
    document = read_yaml(path)
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a config is a mapping, not {type(document).__name__}")
    return parse_config(document, origin=path.name, base_dir=path.resolve().parent)


def read_yaml(path: Path) -> Any:
    """The document of a YAML file, where a key given twice is an error; `<<` merges.

    Raises:
        ConfigError: if the file cannot be read or is not YAML; names the file and the line.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply, or in itself") from error
    except ValueError as error:  # a date that the calendar does not have
        raise ConfigError(f"{path}: a value cannot be read: {error}") from error


def parse_config(document: Mapping[str, Any], origin: str, base_dir: Path) -> ClusterConfig:
    """Validate a config that was read already; `origin` begins each line of an error.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        resolved = _resolve(dict(document), base_dir, "")
        if "base_dir" in resolved:
            raise ConfigError(f"{origin}: base_dir: is the directory of the file, and not a key")
        if "environment" in resolved:
            raise ConfigError(f"{origin}: environment: is that of `up`, and not a key")
        environment = {name: text for name, text in os.environ.items() if name.startswith(OTEL)}
        config = ClusterConfig.model_validate(
            {**resolved, "base_dir": str(base_dir), "environment": environment}
        )
    except ValidationError as error:
        lines = [f"{origin}: {line}" for line in misfits(error, ClusterConfig)]
        raise ConfigError("\n".join(lines)) from error
    return config.model_copy(update={"gateway": _preset(config.gateway, config.profile)})


def _preset(gateway: GatewayConfig, profile: ProfileName) -> GatewayConfig:
    """The gateway with what its profile sets and the file does not."""
    said = gateway.model_fields_set
    preset = {k: v for k, v in PROFILES[profile].gateway.items() if k not in said}
    # Constructed, so that its set fields remain those of the file.
    return GatewayConfig.model_construct(said, **{**dict(gateway), **preset})


_REFERENCE = re.compile(r"\$\{(file:)?([^}]+)\}")


def _resolve(value: Any, base_dir: Path, path: str) -> Any:
    """Replace `${NAME}` and `${file:PATH}` in every string under `value`."""
    if isinstance(value, dict):
        return {k: _resolve(v, base_dir, f"{path}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(item, base_dir, f"{path}.{i}") for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        is_file, name = match.groups()
        if is_file:
            try:
                return Path(base_dir, Path(name).expanduser()).read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{path}: cannot read ${{file:{name}}}: {error}") from error
        if name not in os.environ:
            raise ConfigError(f"{path}: the environment has no {name}")
        return os.environ[name]

    return _REFERENCE.sub(replaced, value)


class _StrictLoader(yaml.SafeLoader):
    """YAML where a key given twice is an error, not the last one's win."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._flattened: set[yaml.MappingNode] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what `<<` names in its place. Before that the keys are as the file has them: later
        one of the mapping's own may stand beside the merged one that it replaces."""
        if node not in self._flattened:
            self._flattened.add(node)
            self._refuse_doubles(node)
        super().flatten_mapping(node)

    def _refuse_doubles(self, node: yaml.MappingNode) -> None:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            is_merge = key_node.tag == "tag:yaml.org,2002:merge"
            key = "<<" if is_merge else self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict | set):
                raise _error_at(key_node, "a key is a list or a mapping")
            if key in seen:
                raise _error_at(key_node, f"key {key!r} is given twice")
            seen.add(key)


def _error_at(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    return where + (getattr(error, "problem", None) or str(error).splitlines()[0])
