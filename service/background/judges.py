"""Graders inside the service: their judges are asked through the service's own engine and admission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from service.answers.equality import AnswerReader
from service.context import Context
from service.graders import Answer, Grader, build, check
from service.graders.asking import Messages
from service.graders.programs import check_program
from service.graders.specs import GraderSpec, Multi, One, ScoreModel, dump
from strategies.errors import EngineRefused
from strategies.session import Session
from strategies.types import Call, Chat

JUDGEMENT_TOKENS = 256  # what a judge is thought to write, for admission


@dataclass(frozen=True, slots=True)
class EngineAsk:
    context: Context

    async def __call__(self, model: str, messages: Messages, fields: Mapping[str, Any]) -> Answer:
        served = await self.context.models.find(model)
        if served is None:
            self.context.models.check_heard(model)
            raise EngineRefused(f"the model {model!r} does not exist", 404)
        salt = self.context.salts.salt(self.context.jobs.name)
        engine = self.context.engine(served, uuid4().hex, salt)
        kept = {name: value for name, value in fields.items() if name != "seed"}
        session = Session(
            Chat(tuple(messages), kept),
            engine,
            AnswerReader(self.context.workers.share(self.context.jobs.name, "judge")),
        )
        async with self.context.admission.hold(self.context.jobs.name, 1, fields.get("max_tokens") or JUDGEMENT_TOKENS):
            [candidate] = await session.sample(Call(seed=fields.get("seed")))
        self.context.metrics.tokens.labels("grader", "scorer", "discarded").inc(candidate.tokens)
        return Answer(candidate.text, candidate.tokens)


async def resolve_grader(context: Context, body: object, where: str) -> dict[str, Any]:
    """A grader as it was described, its judges by the names of models; raise ApiError for one that cannot be used."""
    spec = check(body, where)
    if isinstance(spec, Multi):
        graders = {
            name: await resolve_part(context, part, f"{where}.graders.{name}") for name, part in spec.graders.items()
        }
        return dump(spec.model_copy(update={"graders": graders}))
    return dump(await resolve_part(context, spec, where))


async def resolve_part(context: Context, spec: One, where: str) -> One:
    """One grader; a judge by the name of the model that is served now."""
    if isinstance(spec, ScoreModel):
        return await resolve_judge(context, spec, where)
    await check_program(spec, where, context.workers, context.sandbox)
    return spec


async def resolve_judge(context: Context, spec: ScoreModel, where: str) -> ScoreModel:
    """An alias means what it stands for now: rewards must not change in the middle of a job."""
    model = await context.models.require(spec.model, f"{where}.model")
    context.models.check_served(model, f"{where}.model")
    return spec.model_copy(update={"model": model})


def build_grader(context: Context, spec: GraderSpec) -> Grader:
    return build(spec, context.workers, EngineAsk(context), context.sandbox)
