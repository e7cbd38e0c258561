"""The scorers that a request can name, and what each may be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from service.errors import ApiError, invalid
from service.wire.chat import Strict
from strategies.scorers.confidence import Logprob, SelfCertainty
from strategies.scorers.generative import Generative
from strategies.scorers.judge import Judge
from strategies.scorers.listwise_judge import ListwiseJudge
from strategies.types import Scorer


class JudgeSpec(Strict):
    """Grades every answer by itself; `model` names another served model than the one that answers."""

    type: Literal["judge"]
    model: str | None = None

    def build(self) -> Scorer:
        return Judge(self.model)


class ListwiseJudgeSpec(Strict):
    """Is shown all answers and asked for the best one."""

    type: Literal["listwise_judge"]
    model: str | None = None

    def build(self) -> Scorer:
        return ListwiseJudge(self.model)


class GenerativeSpec(Strict):
    """Asks after every step whether the solution is correct so far."""

    type: Literal["generative"]
    model: str | None = None

    def build(self) -> Scorer:
        return Generative(self.model)


class LogprobSpec(Strict):
    """The length-normalised probability of the sample."""

    type: Literal["logprob"]

    def build(self) -> Scorer:
        return Logprob()


class SelfCertaintySpec(Strict):
    """How far the next-token distributions were from uniform."""

    type: Literal["self_certainty"]

    def build(self) -> Scorer:
        return SelfCertainty()


ScorerSpec = Annotated[
    JudgeSpec | ListwiseJudgeSpec | GenerativeSpec | LogprobSpec | SelfCertaintySpec, Field(discriminator="type")
]
ADAPTER: TypeAdapter[ScorerSpec] = TypeAdapter(ScorerSpec)
NAMES = ("judge", "listwise_judge", "generative", "logprob", "self_certainty")
PARAM = "strategy.scorer"


def build(requested: str | Mapping[str, Any]) -> tuple[Scorer, str | None]:
    """The scorer that a request names and the other model it uses, if any."""
    body = {"type": requested} if isinstance(requested, str) else dict(requested)
    if body.get("type") not in NAMES:
        where = PARAM if isinstance(requested, str) else f"{PARAM}.type"
        raise ApiError(400, f"there is no scorer {body.get('type')!r}; there are {', '.join(NAMES)}", where)
    try:
        spec = ADAPTER.validate_python(body)
    except ValidationError as error:
        wrong = invalid(error)
        param = f"{PARAM}.{'.'.join(str(part) for part in error.errors()[0]['loc'][1:])}"
        raise ApiError(400, wrong.message, param, wrong.code) from error
    return spec.build(), getattr(spec, "model", None)
