"""Everything that can be set, read once at start.

A setting comes from, in this order: an environment variable (`OUTTHINK_` and the name in capitals), the TOML file that
`OUTTHINK_CONFIG` names, the default below. A wrong value, or an `OUTTHINK_` variable that names no setting, stops the
start with a message. `outthink settings` prints the table in docs/settings.md from this class.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

PREFIX = "OUTTHINK_"
# Which file to read; which vLLM the set-up installs; what the examples' clients, in the same shell perhaps, are told.
NOT_SETTINGS = frozenset({"CONFIG", "BUILD", "URL", "API_KEY"})

Commas = Annotated[tuple[str, ...], NoDecode]
Keys = Annotated[tuple[SecretStr, ...], NoDecode]


def cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "outthink"


def base_url(value: str) -> str:
    """A server's URL without `/v1`; empty stays empty."""
    if value and not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://, for example http://gpu-box:8000/v1")
    return value.rstrip("/").removesuffix("/v1")


class KeyLimits(BaseModel):
    """What is different for one key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    max_budget_tokens: int | None = Field(None, ge=1)
    max_budget_seconds: float | None = Field(None, gt=0)
    default_budget_seconds: float | None = Field(None, gt=0)


class Settings(BaseSettings):
    """The settings of one server. Sizes are in bytes, times in seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    host: str = Field("", description="Address to listen on; empty: loopback without keys, every interface with keys.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")

    model: str = Field("", description="What vLLM loads: a Hugging Face name or a folder; empty: the demo model.")
    model_name: str = Field("", description="Name under which it is served; empty: `smollm2`, or the model's own.")
    model_parameters: int | None = Field(
        None, ge=1, description="Parameters of the model, for FLOPs; unset: read from its files where they are local."
    )

    engine_url: str = Field("", description="`http://host:port/v1` of a vLLM (or a router) that somebody else runs.")
    engine_api_key: SecretStr = Field(
        SecretStr(""),
        description="Key of that engine; of the managed vLLM: empty for a random one, kept in `engine.key` in the data "
        "directory.",
    )
    engine_port: int = Field(
        8100, ge=1, le=65500, description="Loopback port of the managed vLLM; those after it are for others of ours."
    )
    engine_start_seconds: float = Field(900, gt=0, description="How long the managed vLLM may take to start.")
    vllm_args: str = Field("", description="More arguments for the managed vLLM, as on a command line.")
    full_models: int | None = Field(
        None,
        ge=0,
        le=16,
        description="Checkpoints with weights of their own that are kept served beside a managed model, each by a vLLM "
        "of its own; unset: 1 on a CPU, 0 on a GPU, whose memory they would share.",
    )

    connect_seconds: float = Field(5, gt=0, description="Engine: to open a connection.")
    first_byte_seconds: float = Field(600, gt=0, description="Engine: until the first byte (it may queue).")
    between_bytes_seconds: float = Field(120, gt=0, description="Engine: between two bytes of a reply.")
    retries: int = Field(2, ge=0, le=5, description="Engine: new tries of a call that has generated nothing yet.")

    api_keys: Keys = Field((), description="Client keys, separated by commas.")
    admin_keys: Keys = Field((), description="Admin keys, separated by commas.")
    cors_origins: Commas = Field((), description="Origins that browsers may call from; empty: CORS off.")
    allowed_hosts: Commas = Field(
        (),
        description="Names, beside loopback's, that requests may call this server by, separated by commas; `*`: any. "
        "Empty: none without keys, any with keys.",
    )
    open_endpoints: Annotated[tuple[Literal["docs", "metrics", "ready"], ...], NoDecode] = Field(
        (),
        description="What needs no key though there are keys, separated by commas: `docs` (else any key), `metrics` "
        "(else an admin key), the details of `ready` (else any key).",
    )
    shared_prefix_cache: bool = Field(
        False,
        description="Let all keys share the engine's prefix cache: prompts that begin alike are read once for all, and "
        "a key can find out by time, or by `cached_tokens`, what others have sent.",
    )

    default_strategy: str = Field("", description="Preset for requests that name no strategy; empty: pass through.")
    presets: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="`[presets.NAME]` tables of the TOML file: a strategy, and `temperature`."
    )
    scorers: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="`[scorers.NAME]` tables of the TOML file, or JSON: reward models to name."
    )
    max_samples: int = Field(
        256, ge=1, description="Most samples that one request may draw; without a strategy, `n` times prompts."
    )
    max_reply_logprobs: int = Field(
        500_000,
        ge=1,
        description="Most log-probabilities that are kept for one reply: tokens times `top_logprobs` + 1.",
    )
    max_budget_tokens: int = Field(1_000_000, ge=1, description="Cap of `budget.tokens`, and its default.")
    max_budget_seconds: float = Field(3600, gt=0, description="Cap of `budget.seconds`.")
    default_budget_seconds: float = Field(
        240, gt=0, description="`budget.seconds` of a request without one; below the clients' own timeouts."
    )
    max_branches: int = Field(512, ge=1, description="Branches in flight, over all requests with a strategy.")
    max_live_tokens: int = Field(
        16_000_000, ge=1, description="Tokens that all running requests with a strategy may generate at most, together."
    )
    max_queue: int = Field(256, ge=0, description="Requests that may wait for branches; more are 429.")
    requests_per_minute: int | None = Field(None, ge=1, description="Of one client key; unset: no limit.")
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Of one client key, read and generated; unset: no limit."
    )
    key_limits: dict[str, KeyLimits] = Field(
        default_factory=dict,
        description="`[key_limits.client-N]` tables of the TOML file: what differs for the Nth client key.",
    )
    drain_seconds: float = Field(20, ge=0, description="How long running requests may go on after SIGTERM.")
    max_body_bytes: int = Field(8_000_000, ge=1, description="Largest request body; more is 413.")

    answer_workers: int = Field(2, ge=1, le=64, description="Processes that read and compare answers.")
    answer_seconds: float = Field(2, gt=0, description="Processor time of one pattern or comparison.")
    answer_memory_bytes: int = Field(
        512 * 2**20, ge=2**20, description="What one pattern or comparison may take, beyond what its process needs."
    )
    sandbox_workers: int = Field(2, ge=1, le=64, description="Processes that run code of models and graders in Monty.")
    sandbox_seconds: float = Field(
        2, gt=0, le=120, description="Time limit of such a program, and again of a test, or of `grade`, after it."
    )
    sandbox_memory_bytes: int = Field(64 * 2**20, ge=2**20, description="Memory of such a program.")
    sandbox_recursion: int = Field(1000, ge=10, le=5000, description="Depth of calls of such a program.")

    service_url: str = Field(
        "", description="Where a training worker on another machine finds this service; empty: on its own machine."
    )
    worker: bool = Field(
        True, description="Keep a training worker running beside a managed vLLM, where what it needs is installed."
    )
    data_dir: Path = Field(Path("data"), description="Where files, jobs and checkpoints are kept.")
    database_url: SecretStr = Field(
        SecretStr(""), description="`postgresql+psycopg://…` for the jobs; empty: SQLite in the data directory."
    )
    max_file_bytes: int = Field(200_000_000, ge=1, description="Largest uploaded file; more is 413.")
    max_benchmark_requests: int = Field(100_000, ge=1, description="Most requests that one benchmark may make.")
    max_benchmark_tokens: int = Field(
        1_000_000_000, ge=1, description="Most tokens that one benchmark may generate, by the bounds of its strategies."
    )
    cache_dir: Path = Field(default_factory=cache_home, description="Where the converted demo model is kept.")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="Of the log: text for people, JSON, or auto: text on a terminal and JSON elsewhere."
    )
    log_prompts: bool = Field(False, description="Write the messages of chat requests to the log.")

    @field_validator("api_keys", "admin_keys", "cors_origins", "allowed_hosts", "open_endpoints", mode="before")
    @classmethod
    def split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("engine_url", "service_url")
    @classmethod
    def without_version(cls, value: str) -> str:
        return base_url(value)

    @model_validator(mode="after")
    def open_host_needs_keys(self) -> "Settings":
        if not self.keys_needed and self.host not in ("", "127.0.0.1", "localhost", "::1"):
            raise ValueError(f"host {self.host} is open to others: set OUTTHINK_API_KEYS, or leave OUTTHINK_HOST empty")
        return self

    @model_validator(mode="after")
    def limited_keys_exist(self) -> "Settings":
        if unknown := sorted(self.key_limits.keys() - self.client_names):
            raise ValueError(f"key_limits.{unknown[0]}: there are {', '.join(self.client_names) or 'no client keys'}")
        return self

    @property
    def client_names(self) -> list[str]:
        """What client keys are called in logs and metrics, in their order."""
        return [f"client-{number}" for number in range(1, len(self.api_keys) + 1)]

    @property
    def admin_names(self) -> list[str]:
        return [f"admin-{number}" for number in range(1, len(self.admin_keys) + 1)]

    def of_key(self, name: str) -> "Settings":
        """The settings as they are for one key; only client keys have limits a minute."""
        unlimited = {} if name in self.client_names else {"requests_per_minute": None, "tokens_per_minute": None}
        own = self.key_limits.get(name, KeyLimits()).model_dump(exclude_none=True)
        return self.model_copy(update=unlimited | own)

    @property
    def keys(self) -> int:
        return len(self.api_keys + self.admin_keys)

    @property
    def keys_needed(self) -> bool:
        return self.keys > 0

    @property
    def bind(self) -> str:
        return self.host or ("0.0.0.0" if self.keys_needed else "127.0.0.1")

    @property
    def managed(self) -> bool:
        return not self.engine_url

    @property
    def engine_base(self) -> str:
        """Base URL of the engine, without `/v1`."""
        return self.engine_url or f"http://127.0.0.1:{self.engine_port}"

    @property
    def service_base(self) -> str:
        """Base URL of this service for its own worker, without `/v1`."""
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return self.service_url or f"http://{host}:{self.port}"

    @property
    def demo(self) -> bool:
        return self.managed and not self.model

    @property
    def serves_reward_model(self) -> bool:
        """Whether a second managed vLLM serves a scorer: one under the pooling runner that has no `url`."""
        return any(table.get("kind") in ("prm", "outcome") and not table.get("url") for table in self.scorers.values())

    @property
    def served_name(self) -> str:
        """Name of the managed model; a remote engine says its own."""
        return self.model_name or self.model or ("smollm2" if self.managed else "")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        config = os.environ.get(f"{PREFIX}CONFIG")
        toml = (TomlConfigSettingsSource(settings_cls, Path(config)),) if config else ()
        return (init_settings, env_settings, *toml)


def load() -> Settings:
    """Read the settings of this process; raise ValueError that says what is wrong and what is allowed."""
    config = os.environ.get(f"{PREFIX}CONFIG")
    if config and not Path(config).is_file():
        raise ValueError(f"{PREFIX}CONFIG: there is no file {config}")
    known = {name.upper() for name in Settings.model_fields} | NOT_SETTINGS
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable.removeprefix(PREFIX) not in known:
            raise ValueError(f"{variable} is no setting; `outthink settings` lists them")
    return Settings()
