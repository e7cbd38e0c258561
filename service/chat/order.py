"""From a chat request to what is to be done: an `Order`, or nothing, when the request is vLLM's alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from service.answers.equality import check_pattern
from service.answers.pool import AnswerPool
from service.chat.scoring import scoring_of
from service.context import Context
from service.errors import ApiError, invalid
from service.registry.presets import Preset
from service.registry.scorers import Scoring
from service.settings import Settings
from service.web.rate_limits import Account
from service.wire.chat import (
    DECIDED,
    NO_EFFECT,
    OURS,
    REFUSED,
    STEERING,
    WITH_STRATEGY,
    AnswerSpec,
    BudgetSpec,
    ChatRequest,
    Include,
)
from service.wire.strategy import build, describe
from strategies.accounting import Budget
from strategies.session import Strategy
from strategies.types import Chat, Engine, Plan, Scorer

GREEDY = "temperature 0 makes all samples equal; leave it out, or use a preset (model@preset), which replaces it"


@dataclass(frozen=True, slots=True)
class Order:
    """A validated request with a strategy. `resolved` is the strategy as the reply shows it; `salt` is of the prefix
    cache, for the policy and its scorer alike."""

    model: str
    strategy: Strategy
    scoring: Scoring | None
    chat: Chat
    answer: AnswerSpec
    budget: Budget
    resolved: Mapping[str, Any]
    n: int = 1
    seed: int | None = None
    include: frozenset[Include] = frozenset()
    stream: bool = False
    include_usage: bool = False
    dry_run: bool = False
    logprobs: bool = False
    salt: str = ""

    @property
    def scorer(self) -> Scorer | None:
        return self.scoring.scorer if self.scoring else None

    @property
    def max_tokens(self) -> int | None:
        return self.chat.fields.get("max_tokens")


def refuse(body: Mapping[str, Any], admin: bool) -> None:
    """Raise ApiError for fields that nobody, or no client, may send."""
    for name in sorted(REFUSED & present(body)):
        raise ApiError(400, f"{name} is not supported by this server", name, "unsupported_parameter")
    for name in sorted(STEERING & present(body)):
        if not admin:
            raise ApiError(400, f"{name} steers the engine and needs an admin key", name, "unsupported_parameter")
    if not isinstance(body.get("cache_salt"), str | None) or body.get("cache_salt") == "":
        raise ApiError(400, "cache_salt: must be a string that is not empty", "cache_salt", "invalid_value")


def present(body: Mapping[str, Any]) -> set[str]:
    return {name for name, value in body.items() if value is not None}


async def create_order(
    body: Mapping[str, Any], model: str, preset: Preset | None, context: Context, account: Account
) -> Order:
    """Validate a request that has a strategy, its own or a preset's; raise ApiError with the path of what is wrong.

    `account` is the caller's: the limits are its own, and so is what it finds in the prefix cache.
    """
    request, settings = parse(body), account.settings
    await check_answer(request.answer, context.workers)
    if request.strategy is not None or preset is None:
        preset = Preset("", build(request.strategy or {}), explicit=True)  # the body's own wins over the name's
    strategy = preset.strategy
    salt = context.salts.salt(account.name, request.cache_salt)
    scoring = await scoring_of(strategy, context, salt)
    check(request, body, preset, settings)
    temperature = temperature_of(request, preset)
    return Order(
        model=model,
        strategy=strategy,
        scoring=scoring,
        chat=chat_of(request, body, temperature),
        answer=request.answer or AnswerSpec(type="json" if wants_json(body) else "math"),
        budget=budget_of(request.budget or preset.budget, settings),
        resolved=resolve(strategy, scoring, temperature),
        n=request.n or 1,
        seed=request.seed,
        include=frozenset((*request.include, *preset.include)),
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        dry_run=request.dry_run,
        logprobs=bool(request.logprobs),
        salt=salt,
    )


async def check_answer(answer: AnswerSpec | None, workers: AnswerPool) -> None:
    """Raise ApiError for a pattern that cannot be used: compiling one may take any time and memory."""
    if answer is None or answer.pattern is None:
        return
    try:
        problem = await workers.run(check_pattern, answer.pattern)
    except TimeoutError:
        problem = f"takes longer than {workers.limit:g} s to compile; simplify it"
    except MemoryError:
        problem = f"takes more than {workers.memory // 2**20} MiB to compile; simplify it"
    if problem is not None:
        raise ApiError(400, f"answer.pattern: {problem}", "answer.pattern", "invalid_value")


def parse(body: Mapping[str, Any]) -> ChatRequest:
    try:
        return ChatRequest.model_validate(body)
    except ValidationError as error:
        raise invalid(error) from error


def check(request: ChatRequest, body: Mapping[str, Any], preset: Preset, settings: Settings) -> None:
    """Raise ApiError where the request's fields do not fit its strategy, each other, or the server's limit."""
    strategy, n = preset.strategy, request.n or 1
    for name in sorted(present(body) - WITH_STRATEGY):
        raise ApiError(400, f"{name} is not supported with a strategy", name, "unsupported_parameter")
    knob = strategy.breadth_knob
    branches = branches_of(strategy, n)
    if branches > settings.max_samples:
        param = f"strategy.{knob}" if knob else "n"
        raise ApiError(
            400, f"this server has at most {settings.max_samples} branches a request", param, "invalid_value"
        )
    if n > branches:
        most = f"strategy.{knob} allows" if knob else f"{strategy.type} has branches"
        raise ApiError(400, f"n must be at most {branches}, as many as {most}, not {n}", "n")
    for name in sorted(strategy.unsupported & present(body)):
        raise ApiError(400, f"{strategy.type} does not support {name}", name, "unsupported_parameter")
    if request.temperature == 0 and preset.explicit and branches > 1:
        raise ApiError(400, GREEDY, "temperature", "invalid_value")
    check_content(body["messages"], strategy)


def branches_of(strategy: Strategy, n: int) -> int:
    """How many branches it has at once; they depend on neither the length of answers nor the scorer."""
    return strategy.plan(n, 0, None).branches


def check_content(messages: Sequence[Mapping[str, Any]], strategy: Strategy) -> None:
    """Searches over steps continue token ids, which hold no images."""
    if not strategy.text_only:
        return
    for i, message in enumerate(messages):
        parts = message.get("content")
        if isinstance(parts, list) and any(part.get("type") != "text" for part in parts):
            raise ApiError(400, f"{strategy.type} reads text only", f"messages[{i}].content", "unsupported_parameter")


def temperature_of(request: ChatRequest, preset: Preset) -> float | None:
    """The temperature of the samples: the caller's, unless it is 0 where samples must differ; else the default."""
    default = preset.strategy.temperature_default if preset.temperature is None else preset.temperature
    if request.temperature == 0 and branches_of(preset.strategy, request.n or 1) > 1:
        return default if default is not None else 0.7
    return request.temperature if request.temperature is not None else default


def chat_of(request: ChatRequest, body: Mapping[str, Any], temperature: float | None) -> Chat:
    """The conversation, with every field that reaches the samples."""
    hidden = OURS | DECIDED | NO_EFFECT
    fields = {name: value for name, value in body.items() if name not in hidden and value is not None}
    if limit := request.max_completion_tokens or request.max_tokens:
        fields["max_tokens"] = limit
    if request.n and request.n > 1:
        fields["n"] = request.n
    if temperature is not None:
        fields["temperature"] = temperature
    return Chat(tuple(body["messages"]), fields)


def resolve(strategy: Strategy, scoring: Scoring | None, temperature: float | None) -> dict[str, Any]:
    """The strategy as the reply shows it, with what the server chose."""
    shown = describe(strategy)
    if temperature is not None:
        shown["sampling_temperature" if "temperature" in shown else "temperature"] = temperature
    if scoring is not None and shown.get("aggregate") is None:
        shown["aggregate"] = scoring.aggregate
    return shown


def wants_json(body: Mapping[str, Any]) -> bool:
    """Whether the reply is a JSON object, so that the vote is over objects."""
    form = body.get("response_format")
    return isinstance(form, Mapping) and form.get("type") in ("json_object", "json_schema")


def budget_of(asked: BudgetSpec | None, settings: Settings) -> Budget:
    """The caller's budget, capped; what is missing is the server's default."""
    asked = asked or BudgetSpec()
    seconds = asked.seconds or settings.default_budget_seconds
    return Budget(
        min(asked.tokens or settings.max_budget_tokens, settings.max_budget_tokens),
        min(seconds, settings.max_budget_seconds),
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """The most that an order may spend. `max_tokens` bounds one answer; `tokens` is within the budget, too."""

    plan: Plan
    max_tokens: int
    tokens: int


def check_logprobs(tokens: int, each: int, settings: Settings) -> None:
    """Raise ApiError for a reply that would hold more log-probabilities than it may: so many with each token."""
    most = settings.max_reply_logprobs
    if tokens * each > most:
        message = (
            f"up to {tokens} tokens with {each} log-probabilities each: this server keeps at most {most} for a reply. "
            "Lower `max_tokens`, the number of samples or `top_logprobs`"
        )
        raise ApiError(400, message, "logprobs", "invalid_value")


async def cost(order: Order, engine: Engine, settings: Settings, *, exact: bool = False) -> Cost:
    """The upper bound of an order; where the request does not bound an answer, the context does. Raise ApiError where
    its reply might hold too much.

    `exact` takes the prompt off the context, which asks the engine's tokenizer.
    """
    limit = order.max_tokens
    if limit is None:
        limit = await engine.context()
        if exact:
            limit = max(limit - len(await engine.render(order.chat)), 0)
    plan = order.strategy.plan(order.n, limit, order.scorer)
    if order.logprobs:
        top = order.chat.fields.get("top_logprobs") or 0
        check_logprobs(min(plan.policy_tokens, order.budget.tokens or plan.policy_tokens), 1 + top, settings)
    return Cost(plan, limit, min(plan.tokens, order.budget.tokens or plan.tokens))
