"""From what a request names as its scorer to a scorer that can be run, with those that it is composed of."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from service.context import Context
from service.errors import ApiError, translate
from service.graders import specs
from service.graders.programs import check_program
from service.registry.scorers import Scoring
from service.wire.scorer import PARAM
from strategies.errors import InvalidParameter
from strategies.scorers.composed import Composed, Part
from strategies.scorers.generative import Format, Generative
from strategies.scorers.grader import Grader
from strategies.session import Strategy
from strategies.types import Aggregate

FOLDED: Mapping[Format, Aggregate] = {"yes_no": "last", "rlhflow": "min"}
"""How the step scores of a trained verifier become one: asked for the solution so far, or, as in Math-Shepherd, for a
step. A product would favour solutions that leave steps out."""

DEEPEST = 2
"""Scorers in scorers: `all` of a `first` and others, or the other way round."""


async def scoring_of(strategy: Strategy, context: Context, salt: str = "") -> Scoring | None:
    """The scorer of a strategy, None where it has none; raise ApiError with the path of what is wrong."""
    return None if strategy.scorer is None else await find_scorer(strategy.scorer, context, salt)


async def find_scorer(requested: str | dict[str, Any], context: Context, salt: str, depth: int = 0) -> Scoring:
    scoring = await verifier(requested, context) or context.scorers.build(requested, salt)
    match scoring.scorer:
        case Grader(grader=grader):
            await check_grader(grader, context)
        case Composed() if depth == DEEPEST:
            raise ApiError(400, f"{PARAM}: scorers are composed at most {DEEPEST} deep", PARAM, "invalid_value")
        case Composed() as scorer:
            return await compose(scorer, scoring, context, salt, depth + 1)
    models = {name: await scoring_model(name, context) for name in scoring.scorer.models}
    return replace(scoring, scorer=scoring.scorer.renamed(models))


async def check_grader(grader: Mapping[str, Any] | None, context: Context) -> None:
    """Raise ApiError for a grader that cannot be one of a scorer."""
    where = f"{PARAM}.grader"
    spec = specs.check(grader, where)
    if specs.models(spec):
        message = "a score_model is no scorer, since its tokens are outside the budget; use `judge` or `generative`"
        raise ApiError(400, f"{where}: {message}", where, "invalid_value")
    await check_program(spec, where, context.workers, context.sandbox)


async def compose(scorer: Composed, scoring: Scoring, context: Context, salt: str, depth: int) -> Scoring:
    """A scorer with its parts."""
    found: list[Scoring] = []
    for index, part in enumerate(scorer.of):
        with inside(f"of[{index}]"):
            found.append(await find_scorer(part, context, salt, depth))
    try:
        composed = replace(scorer, parts=tuple(Part(part.scorer, part.aggregate) for part in found))
    except InvalidParameter as error:
        raise translate(error) from error
    return Scoring(composed, scoring.aggregate, next((part.backend for part in found if part.backend), None))


@contextmanager
def inside(place: str) -> Iterator[None]:
    """Errors of a scorer named as those of a part."""
    try:
        yield
    except ApiError as error:
        param, here = error.param or PARAM, f"{PARAM}.{place}"
        named = here + param.removeprefix(PARAM)
        raise replace(error, param=named, message=error.message.replace(param, named, 1)) from error


async def scoring_model(name: str, context: Context) -> str:
    """The served model that a scorer's model, or an alias, stands for now."""
    model = await context.models.require(name, f"{PARAM}.model")
    context.models.check_served(model, f"{PARAM}.model")
    return model


async def verifier(requested: str | dict[str, Any], context: Context) -> Scoring | None:
    """The scorer that a trained verifier's own name stands for; None for what is no such name."""
    if not isinstance(requested, str) or requested in context.scorers.names:
        return None
    model = await context.models.find(requested)
    if model not in context.models.verifiers:
        return None
    job = await asyncio.to_thread(context.store.job, context.models.checkpoints[model].job_id)
    form = job.spec["outthink"].get("format", "yes_no")
    return Scoring(Generative(model, form), FOLDED[form])
