"""The scorers that a request can name: those built in, and those of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal
from uuid import uuid4

from pydantic import Field, SecretStr, TypeAdapter, ValidationError, field_validator

from service.engines.access import read_engine_key
from service.engines.backend import Backend
from service.engines.command import Reward
from service.engines.managed import ManagedScorer
from service.engines.reward import Task, VllmRewardModel
from service.engines.vllm.client import VllmClient
from service.engines.vllm.engine import VllmEngine
from service.errors import ApiError, invalid
from service.schema import Strict
from service.settings import Settings, base_url
from service.wire.knobs import as_body
from service.wire.scorer import PARAM, build
from strategies.scorers import SCORERS, generative, prm
from strategies.scorers.outcome import OutcomeReward
from strategies.types import Aggregate, Scorer


@dataclass(frozen=True, slots=True)
class Scoring:
    """A scorer as a request gets it. `backend`: a server of its own."""

    scorer: Scorer
    aggregate: Aggregate
    backend: Backend | None = None


class Table(Strict):
    """What every `[scorers.NAME]` table may say. `model` is its name on `url`, or what the managed vLLM loads."""

    model: str = Field(min_length=1)
    url: str = ""
    api_key: SecretStr = SecretStr("")
    aggregate: Aggregate = "last"
    parameters: int | None = Field(None, ge=1)
    args: str = ""  # more arguments for the managed vLLM

    pooled: ClassVar[bool] = True
    """Whether it needs a server under the pooling runner; else the policy's own will do."""

    @field_validator("url")
    @classmethod
    def without_version(cls, value: str) -> str:
        return base_url(value)

    @property
    def managed(self) -> bool:
        """Whether it is served by a second vLLM of ours."""
        return self.pooled and not self.url


class PrmTable(Table):
    """A process reward model under the pooling runner; without `url`, under a vLLM that this service manages."""

    kind: Literal["prm"]
    format: prm.Format = "token_classification"
    separator: str = Field("\n", min_length=1, max_length=32)

    def build(self, name: str, backend: Backend | None, salt: str) -> Scoring:
        model = reward_model(self, name, backend, "token_classify", salt)
        return Scoring(prm.Prm(name, model, self.format, self.separator), self.aggregate, backend)


class OutcomeTable(Table):
    """An outcome reward model (sequence classification) under the pooling runner, as `prm`."""

    kind: Literal["outcome"]

    def build(self, name: str, backend: Backend | None, salt: str) -> Scoring:
        model = reward_model(self, name, backend, "classify", salt)
        return Scoring(OutcomeReward(name, model), self.aggregate, backend)


class GenerativeTable(Table):
    """A generative reward model; without `url`, a model or an adapter of the policy's own server."""

    pooled: ClassVar[bool] = False
    kind: Literal["generative"]
    format: generative.Format = "yes_no"

    def build(self, name: str, backend: Backend | None, salt: str) -> Scoring:
        if backend is None:
            return Scoring(generative.Generative(self.model, self.format), self.aggregate)
        engine = VllmEngine(backend, self.model, f"scorer-{uuid4().hex}", salt)
        return Scoring(generative.Generative(None, self.format, engine), self.aggregate, backend)


def reward_model(table: Table, name: str, backend: Backend | None, task: Task, salt: str) -> VllmRewardModel:
    assert backend is not None, "a pooling scorer has a server"
    return VllmRewardModel(backend, table.model, name, task, salt)


AnyTable = PrmTable | OutcomeTable | GenerativeTable
Tables = Mapping[str, AnyTable]
"""The `[scorers.NAME]` tables of the settings, by name."""
TABLE: TypeAdapter[AnyTable] = TypeAdapter(Annotated[AnyTable, Field(discriminator="kind")])


def load(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, AnyTable]:
    """The scorers of the settings; raise ValueError that names the bad one."""
    loaded = {name: check_table(name, table) for name, table in tables.items()}
    if len({(table.model, table.args) for table in loaded.values() if table.managed}) > 1:
        raise ValueError("scorers: only one reward model can be served by Outthink itself; give the others a url")
    return loaded


def check_table(name: str, table: Mapping[str, Any]) -> AnyTable:
    if name in SCORERS:
        raise ValueError(f"scorers.{name}: this name is taken by a built-in scorer")
    try:
        return TABLE.validate_python(dict(table))
    except ValidationError as error:
        raise ValueError(f"scorers.{name}: {invalid(error).message}") from error


@dataclass(slots=True)
class Scorers:
    """All scorers by name, and the backends of those that have one."""

    tables: Tables = field(default_factory=dict)
    backends: Mapping[str, Backend] = field(default_factory=dict)  # by the scorer's name; several names may share one

    @property
    def names(self) -> list[str]:
        return [*SCORERS, *self.tables]

    def build(self, requested: str | Mapping[str, Any], salt: str = "") -> Scoring:
        """The scorer that a request names, with the request's salt; raise ApiError with the path of what is wrong."""
        body = as_body(requested)
        name = body.get("type")
        if not isinstance(name, str) or name not in self.names:
            where = PARAM if isinstance(requested, str) else f"{PARAM}.type"
            raise ApiError(400, f"there is no scorer {name!r}; there are {', '.join(self.names)}", where)
        if name in self.tables:
            return self.from_table(name, body, salt)
        scorer = build(body)
        return Scoring(scorer, scorer.aggregate)

    def from_table(self, name: str, body: Mapping[str, Any], salt: str) -> Scoring:
        for field_ in sorted(body.keys() - {"type"}):
            message = f"the scorer {name!r} is configured by the server and takes no {field_}"
            raise ApiError(400, message, f"{PARAM}.{field_}", "unknown_parameter")
        return self.tables[name].build(name, self.backends.get(name), salt)


def open_backends(settings: Settings, tables: Tables, *, manage: bool) -> dict[str, Backend]:
    """The backends of the scorers that have one, by the scorer's name; those of one server and model are the same."""
    shared: dict[tuple[str, str], Backend] = {}
    found: dict[str, Backend] = {}
    for name, table in tables.items():
        if table.url or table.managed:
            base = table.url or f"http://127.0.0.1:{settings.engine_port + 1}"
            if (base, table.model) not in shared:
                shared[base, table.model] = open_backend(settings, table, base, manage=manage)
            found[name] = shared[base, table.model]
    return found


def open_backend(settings: Settings, table: Table, base: str, *, manage: bool) -> Backend:
    key = read_engine_key(settings) if table.managed else table.api_key
    keyed = settings.model_copy(update={"engine_api_key": key})
    process = ManagedScorer(keyed, Reward(table.model, table.args)) if manage and table.managed else None
    client = VllmClient(keyed.model_copy(update={"engine_url": base}))
    return Backend(client, "its server", process, table.parameters)
