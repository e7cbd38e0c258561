"""From a request to the grid of what is to be run.

A `Task` is one strategy at one size: it is run once for every question and seed. Of a sampling strategy one run of N
samples tells what all k ≤ N would have done (`sizes`), so that it is one task; a search runs once for every size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from service.benchmarks import questions
from service.benchmarks.questions import Item
from service.chat.order import Order, cost, create_order, refuse
from service.chat.scoring import scoring_of
from service.context import Context
from service.errors import ApiError
from service.graders import check, paths
from service.graders.template import BadTemplate, Sample, Unfilled, fill
from service.settings import Settings
from service.wire.benchmarks import BenchmarkRequest
from service.wire.chat import DECIDED, OURS, Message
from service.wire.strategy import build, describe, find
from strategies.seeds import derive
from strategies.session import Strategy
from strategies.stopping import Never

FOREVER = 1e9
LONGEST_NAME = 200
NEVER = asdict(Never())

RESERVED = (OURS | DECIDED) - {"max_tokens", "max_completion_tokens"}
"""What a benchmark decides for each of its requests."""


@dataclass(frozen=True, slots=True)
class Task:
    """`name` is that of its curve; `strategy` is sent as it is; `sizes` are read off one run, the largest last.

    `tokens` is the most that one request may generate; jobs of older versions do not say. With a `source`, the number
    of another task, it is not run but read off that one's samples.
    """

    model: str
    name: str
    strategy: dict[str, Any]
    sizes: tuple[int, ...]
    budget: int | None = None
    tokens: int = 1
    source: int | None = None

    @property
    def size(self) -> int:
        return self.sizes[-1]

    @property
    def extent(self) -> str:
        """Its size, or its budget, for people."""
        most = "≤ " if self.stops_early else ""
        return f"{most}{self.size}" if self.budget is None else f"{self.budget:,} tokens"

    @property
    def stops_early(self) -> bool:
        """Whether a rule may end it before its size is reached."""
        rule: Mapping[str, Any] = describe(build(self.strategy)).get("stop", NEVER)
        return rule != NEVER

    @property
    def places(self) -> set[tuple[object, ...]]:
        """Where its cells are: a curve has one at each."""
        return {(self.model, self.name, self.budget or k, self.budget is None) for k in self.sizes}

    def at(self, k: int) -> dict[str, Any]:
        """The strategy at one of its sizes."""
        return self.strategy if k == self.size else find(self.strategy).at_size(self.strategy, k)


@dataclass(frozen=True, slots=True)
class Grid:
    """All that is to be run."""

    tasks: tuple[Task, ...]
    items: tuple[Item, ...]
    seeds: tuple[int, ...]

    @property
    def requests(self) -> int:
        return len(run_tasks(self.tasks)) * len(self.items) * len(self.seeds)

    @property
    def tokens(self) -> int:
        """The most that it may generate."""
        return sum(task.tokens for task in run_tasks(self.tasks).values()) * len(self.items) * len(self.seeds)

    def as_dict(self) -> dict[str, Any]:
        return {"questions": len(self.items), "requests": self.requests, "tokens": self.tokens}


def run_tasks(tasks: Sequence[Task]) -> dict[int, Task]:
    """Those that are run, by their numbers."""
    return {number: task for number, task in enumerate(tasks) if task.source is None}


async def plan(request: BenchmarkRequest, context: Context) -> Grid:
    """Check everything that can be checked before anything is generated; raise ApiError with the path of what is wrong.

    Every task is placed as a chat request of the first question would be: what would fail there fails here.
    """
    check_sampling(request.sampling)
    dataset = questions.parse(request.dataset)
    models = await resolve_models(request, context)
    items = await questions.load(dataset, context.store)
    await asyncio.to_thread(check_rows, request, items)
    entries = [
        (f"strategies[{number}]", entry, task)
        for model in models
        for number, entry in enumerate(request.strategies)
        for task in await expand(request, model, entry, context, f"strategies[{number}]")
    ]
    check_distinct((where, task) for where, _, task in entries)
    tasks = [
        replace(task, tokens=await most_tokens(request, task, entry, items[0], context, where))
        for where, entry, task in entries
    ]
    if request.reuse:
        tasks = await share_samples(request, tasks, context)
    grid = Grid(tuple(tasks), tuple(items), tuple(request.seed_list))
    check_size(grid, context.settings)
    return grid


async def share_samples(request: BenchmarkRequest, tasks: Sequence[Task], context: Context) -> list[Task]:
    """The tasks, plain votes read off the samples of others that draw independent ones of the same distribution.

    Only of such whose scorer generates nothing and has no model: then the samples are all that either of them costs.
    """
    free = [number for number, task in enumerate(tasks) if await is_scored_for_free(task, context)]
    return [
        replace(task, source=next((n for n in free if is_read_off(request, task, tasks[n])), None)) for task in tasks
    ]


async def is_scored_for_free(task: Task, context: Context) -> bool:
    """Whether it draws independent samples, and a scorer that computes chooses among them."""
    strategy = build(task.strategy)
    if task.budget is not None or strategy.selection is None:
        return False
    scoring = await scoring_of(strategy, context)
    return scoring is not None and not (scoring.scorer.tokens(1) or scoring.scorer.models or scoring.backend)


def is_read_off(request: BenchmarkRequest, task: Task, source: Task) -> bool:
    """Whether a task is a plain vote of samples that the other one draws, too."""
    strategy, other = build(task.strategy), build(source.strategy)
    plain = task.budget is None and strategy.selection == "majority" and strategy.scorer is None
    alike = request.sampling.get("temperature") is not None or strategy.temperature_default == other.temperature_default
    return plain and alike and task.model == source.model and task.size <= source.size


async def resolve_models(request: BenchmarkRequest, context: Context) -> list[str]:
    models = [await resolve_model(context, model) for model in request.models]
    if len(set(models)) < len(models):
        raise ApiError(400, f"model: the same model twice: {', '.join(models)}", "model", "invalid_value")
    return models


def check_distinct(tasks: Iterable[tuple[str, Task]]) -> None:
    """Raise ApiError where two tasks would be shown in the same place."""
    places: set[tuple[object, ...]] = set()
    for where, task in tasks:
        if not places.isdisjoint(task.places):
            problem = f"{task.name!r} is there twice at the same size; give one of the two another `name`"
            raise ApiError(400, f"{where}: {problem}", where, "invalid_value")
        places |= task.places


async def most_tokens(
    request: BenchmarkRequest, task: Task, entry: str | Mapping[str, Any], item: Item, context: Context, where: str
) -> int:
    """The most that one question may generate, which is placed to see that it can be."""
    check_budget(task, entry, where, context)
    order = await check_task(request, task, item, context, where)
    return (await cost(order, context.engine(order.model, "benchmark"), context.settings)).tokens


def check_size(grid: Grid, most: Settings) -> None:
    if grid.requests > most.max_benchmark_requests or grid.tokens > most.max_benchmark_tokens:
        raise ApiError(
            400,
            f"this would be {grid.requests:,} requests and up to {grid.tokens:,} tokens; this server allows "
            f"{most.max_benchmark_requests:,} and {most.max_benchmark_tokens:,}: take fewer questions, sizes or seeds, "
            "or a smaller sampling.max_tokens",
            None,
            "grid_too_large",
        )


def check_budget(task: Task, entry: str | Mapping[str, Any], where: str, context: Context) -> None:
    """A chat request's budget is capped without a word; a cell would then be shown at a size that it never had."""
    most = context.settings.max_budget_tokens
    if task.budget is not None and task.budget > most:
        own_list = isinstance(entry, Mapping) and "budgets" in entry
        path = f"{where}.budgets" if own_list else "budgets"
        problem = f"this server allows {most:,} tokens a request, not {task.budget:,}"
        raise ApiError(400, f"{path}: {problem}", path, "invalid_value")


def check_sampling(sampling: Mapping[str, Any]) -> None:
    for field in sorted(RESERVED & sampling.keys()):
        raise ApiError(400, f"sampling.{field}: is decided by the benchmark", f"sampling.{field}", "unknown_parameter")
    refuse(sampling, admin=True)


def check_rows(request: BenchmarkRequest, items: Sequence[Item]) -> None:
    """Every row must have what the messages and the grader read of it: a grader scores what is missing as wrong."""
    read = paths(check(request.grader)) if request.grader is not None else ()
    for item in items:
        messages(request, item)
        for path in read:
            try:
                path.walk(item)
            except Unfilled as error:
                raise ApiError(400, f"grader: {error} (question {item['id']})", "grader", "invalid_value") from error


async def resolve_model(context: Context, model: str | None) -> str:
    name, preset = await context.models.resolve_served(model)
    if preset is not None:
        raise ApiError(400, f"model: {model!r} names a preset; say it as one of `strategies`", "model", "invalid_value")
    return name


async def expand(
    request: BenchmarkRequest, model: str, entry: str | Mapping[str, Any], context: Context, where: str
) -> list[Task]:
    """The tasks of one entry of `strategies`; raise ApiError when it names no strategy."""
    body = {"type": entry} if isinstance(entry, str) else dict(entry)
    lists = {axis: own(body, axis, where) for axis in ("samples", "budgets")}
    label = own_name(body, where)
    with paths_at(where):
        strategy = find(body)
    knob = strategy.size_knob
    budgets = lists["budgets"] or (None if lists["samples"] else request.budgets)
    name = label or describe_entry(body, None if budgets else knob)
    if budgets:
        size = size_of(build_at(body, where))
        return [Task(model, name, body, (size,), budget) for budget in sorted(set(budgets))]
    sizes = sorted(set(lists["samples"] or request.samples or ()))
    if knob is None or knob in body or not sizes:
        return [Task(model, name, body, (size_of(build_at(body, where)),))]
    if request.reuse and await has_nested_sizes(build_at(body, where), context, where):
        return [Task(model, name, strategy.at_size(body, sizes[-1]), tuple(sizes))]
    return [Task(model, name, strategy.at_size(body, size), (size,)) for size in sizes]


def own_name(body: dict[str, Any], where: str) -> str | None:
    """Take an entry's name for its curve out of it."""
    label = body.pop("name", None)
    if label is not None and not (isinstance(label, str) and len(label) <= LONGEST_NAME):
        problem = f"must be a text of at most {LONGEST_NAME} characters"
        raise ApiError(400, f"{where}.name: {problem}", f"{where}.name", "invalid_value")
    return label


def own(body: dict[str, Any], axis: str, where: str) -> list[int] | None:
    """Take an entry's own list of sizes or budgets out of it; a plain number of samples stays, being a parameter."""
    if not isinstance(body.get(axis), list):
        return None
    values = body.pop(axis)
    if not values or not all(type(value) is int and value > 0 for value in values):
        raise ApiError(400, f"{where}.{axis}: must be a list of positive integers", f"{where}.{axis}", "invalid_value")
    return cast(list[int], values)


def describe_entry(body: Mapping[str, Any], knob: str | None) -> str:
    """A curve's name: the type, and the parameters that were stated."""
    stated = [f"{key}={spell(value)}" for key, value in body.items() if key not in ("type", knob)]
    return " ".join([str(body.get("type")), *stated])


def spell(value: object) -> str:
    """A parameter as people write it: `{"rule": "window", "size": 3}` is window(size=3)."""
    match value:
        case {"rule": kind, **rest} | {"type": kind, **rest}:
            return str(kind) + (f"({', '.join(f'{key}={spell(one)}' for key, one in rest.items())})" if rest else "")
        case dict():
            return f"({', '.join(f'{key}={spell(one)}' for key, one in value.items())})"
        case list():
            return " | ".join(map(spell, value))
    return str(value)


def size_of(strategy: Strategy) -> int:
    """How much it spends, by the knob that says so."""
    return cast(int, describe(strategy)[strategy.size_knob]) if strategy.size_knob else 1


async def has_nested_sizes(strategy: Strategy, context: Context, where: str) -> bool:
    """Whether smaller sizes can be read off a run: all that matters of a sample must not depend on the others."""
    if strategy.selection is None:
        return False
    with paths_at(where):
        scoring = await scoring_of(strategy, context)
    return scoring is None or not scoring.scorer.comparative


def build_at(body: Mapping[str, Any], where: str) -> Strategy:
    with paths_at(where):
        return build(body)


async def check_task(request: BenchmarkRequest, task: Task, item: Item, context: Context, where: str) -> Order:
    with paths_at(where):
        return await create_order(chat(request, task, item, 0), task.model, None, context, context.jobs)


@contextmanager
def paths_at(where: str) -> Iterator[None]:
    """Name the fields of a strategy as the benchmark's request has them, in the errors of a chat request."""
    try:
        yield
    except ApiError as error:
        raise relocate(error, where) from error


def relocate(error: ApiError, where: str) -> ApiError:
    """The error of a chat request, with the path that its field has here."""
    param = error.param or ""
    path = where + param.removeprefix("strategy") if param.startswith("strategy") else param
    if path == param and param.split(".")[0] not in ("messages", "answer"):
        path = f"sampling.{param}" if param else where
    return ApiError(error.status, error.message.replace(f"{param}: ", f"{path}: ", 1), path, error.code)


def chat(request: BenchmarkRequest, task: Task, item: Item, seed: int) -> dict[str, Any]:
    """The chat request of a task for a question.

    Its seed is hashed with the question: equal seeds would correlate the samples of different questions. Its time is
    only bounded by the server, so that a busy machine does not make a strategy worse.
    """
    body: dict[str, Any] = {
        "model": task.model,
        "messages": messages(request, item),
        **request.sampling,
        "strategy": task.strategy,
        "seed": derive(seed, item["question"]),
        "budget": {"tokens": task.budget, "seconds": FOREVER},  # capped by the server's own bounds
    }
    if request.answer is not None:
        body["answer"] = request.answer.model_dump()
    return body


def messages(request: BenchmarkRequest, item: Item) -> list[dict[str, Any]]:
    """The conversation, templates filled; raise ApiError for a template that this row does not fill."""
    given = request.messages or [Message(role="user", content=questions.prompt(request.dataset))]
    conversation = [message.model_dump(exclude_none=True) for message in given]
    try:
        for message in conversation:
            if isinstance(message.get("content"), str):
                message["content"] = fill(message["content"], item, Sample())
    except (BadTemplate, Unfilled) as error:
        raise ApiError(400, f"messages: {error} (question {item['id']})", "messages", "invalid_value") from error
    return conversation


def to_spec(request: BenchmarkRequest, grid: Grid, folder: str) -> dict[str, Any]:
    """What a job keeps of it all. The questions are in its folder; of inline ones only their number is kept here."""
    asked = request.model_dump(mode="json", exclude_none=True, exclude={"dry_run"})
    if "rows" in request.dataset:
        asked["dataset"] = {**request.dataset, "rows": len(grid.items)}
    return {
        "request": asked,
        "tasks": [asdict(task) for task in grid.tasks],
        "grid": grid.as_dict(),
        "folder": folder,
    }


def from_spec(spec: Mapping[str, Any]) -> tuple[BenchmarkRequest, Sequence[Task]]:
    tasks = [Task(**{**task, "sizes": tuple(task["sizes"])}) for task in spec["tasks"]]
    return BenchmarkRequest.model_validate(spec["request"]), tasks
