"""The nouns: what travels between a strategy, the engine and a scorer. All values are frozen.

A `Chat` goes in; the engine streams `Batch`es of `Delta`s, which the session gathers into `Generation`s; a strategy
builds `Candidate`s from them and reports `Round`s, each the best answer so far.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, Self

Message = Mapping[str, Any]
Ids = tuple[int, ...]
Role = Literal["policy", "scorer"]
Aggregate = Literal["last", "min", "prod", "mean"]
"""How the scores of the steps become one."""
Scores = tuple[float | None, ...]
"""Of the steps of one candidate, in [0, 1]. None is no opinion: it counts neither as right nor as wrong."""
Selection = Literal["majority", "weighted_vote", "best"]
"""How one of several samples is chosen: by votes, by the highest sum of an answer's scores, by the highest score."""

OPEN = "step"
"""As a reason to finish: a step ended, and the path can go on."""

CUT = frozenset({OPEN, "length", "abort", "error", "repetition"})
"""Reasons to finish that leave an answer incomplete."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to answer, with the caller's other fields (temperature, tools, top_k, …) exactly as they came."""

    messages: tuple[Message, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The text of the last user message."""
        for message in reversed(self.messages):
            if message.get("role") == "user":
                return plain_text(message.get("content"))
        return ""

    @property
    def transcript(self) -> str:
        """The conversation as a judge is shown it: the question alone, or every turn of a longer one."""
        turns = [m for m in self.messages if m.get("role") in ("user", "assistant")]
        if len(turns) < 2:
            return self.question
        return "\n\n".join(f"{turn['role']}: {plain_text(turn.get('content'))}" for turn in turns)


def plain_text(content: object) -> str:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping) and "text" in part)


@dataclass(frozen=True, slots=True)
class Call:
    """What a strategy or a scorer asks of the engine, over and above the caller's own fields."""

    n: int = 1
    seed: int | None = None
    max_tokens: int | None = None  # None: the caller's, or the rest of the context
    temperature: float | None = None  # None: the caller's
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # the log-probabilities of this many most likely tokens, at every token
    label_ids: Ids = ()  # log-probabilities of exactly these tokens instead
    model: str | None = None  # another served model than the engine's own
    each_token: bool = False  # an event for every token, for streams that are forwarded as they come
    fields: Mapping[str, Any] = field(default_factory=dict)  # the caller's, for continuations

    def part(self, first: int, count: int) -> Call:
        """A request for so many of its samples, which have the seeds that they have among all (see seeds.py)."""
        return replace(self, n=count, seed=None if self.seed is None else self.seed + first)


@dataclass(frozen=True, slots=True)
class Delta:
    """What one branch gained since the last batch."""

    index: int
    text: str = ""
    total: int = 0  # tokens this branch has generated so far
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)  # the delta as the engine sent it: role, reasoning, tool_calls
    logprobs: tuple[Mapping[str, Any], ...] = ()  # one a token: {"token", "logprob", "top_logprobs": [...]}
    ids: Ids = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the engine spent, counted as its own metrics count them: a prompt once for every sample of it."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    requests: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
            self.requests + other.requests,
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything that arrived at once. `prompt` and `cached` are of the whole call, as far as they are known."""

    deltas: tuple[Delta, ...] = ()
    prompt: int | None = None
    cached: int | None = None


class Engine(Protocol):
    """A language model that streams. Closing a stream aborts its branches.

    Branches are numbered prompt * n + sample. A stream that ends without an error has finished every branch.
    """

    async def context(self, model: str | None = None) -> int:
        """Return how many tokens a prompt and its answer may have together."""

    def sample(self, chat: Chat, call: Call) -> AsyncGenerator[Batch]:
        """Stream `call.n` whole answers to a conversation."""

    def extend(self, prefixes: Sequence[Ids], call: Call) -> AsyncGenerator[Batch]:
        """Stream `call.n` continuations of every prefix, all in one request."""

    async def render(self, chat: Chat, model: str | None = None) -> Ids:
        """Return the ids of a conversation under the chat template, ready to be answered."""

    async def tokenize(self, text: str, model: str | None = None, special: bool = False) -> Ids:
        """Return the ids of a bare text, on request with the special tokens that the model puts around one."""

    async def detokenize(self, ids: Ids, model: str | None = None) -> str:
        """Return the text of ids."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation, exactly as the engine returned it.

    `logprobs` are those that whoever asked for it reads or returns; `confidences` is what the scorer read of each token
    (`Scorer.confidence`), 4 bytes a token.
    """

    text: str
    tokens: int = 0
    finish_reason: str = "stop"
    stop_reason: str | int | None = None
    message: Mapping[str, Any] = field(default_factory=dict)  # the assistant's message: content, reasoning, tool_calls
    logprobs: Sequence[Mapping[str, Any]] = ()
    ids: Ids = ()
    confidences: Sequence[float] = ()

    @property
    def complete(self) -> bool:
        return self.finish_reason not in CUT


@dataclass(frozen=True, slots=True)
class Candidate:
    """A whole or partial answer and what is known of it. Changing one returns a new one.

    `steps` are the generations from the root of the search on (a sampled answer is one step); `scores` has an entry for
    every scored step, `score` is what they fold to, and `reasons` are the scorer's for each; `group` numbers the class
    of equal answers.
    """

    id: int
    steps: tuple[Generation, ...]
    parent: int | None = None
    scores: Scores = ()
    score: float | None = None
    reasons: tuple[str | None, ...] = ()
    answer: str | None = None
    group: int | None = None
    visits: int | None = None  # of a node of a tree search, and its mean value
    value: float | None = None

    @property
    def last(self) -> Generation:
        return self.steps[-1]

    @property
    def text(self) -> str:
        return "".join(step.text for step in self.steps)

    @property
    def ids(self) -> Ids:
        return tuple(token for step in self.steps for token in step.ids)

    @property
    def open(self) -> bool:
        """Whether this is a path that ended a step and can go on. So can the root, which has no step yet."""
        return not self.steps or self.last.finish_reason == OPEN

    @property
    def shown(self) -> str:
        """What a judge reads: the text, or the tool calls where there are any."""
        calls = self.last.message.get("tool_calls")
        return "\n".join(filter(None, (self.text, json.dumps(calls) if calls else "")))

    @property
    def tokens(self) -> int:
        return sum(step.tokens for step in self.steps)

    @property
    def complete(self) -> bool:
        return self.last.complete

    @property
    def votes(self) -> bool:
        """A sample without an answer, or cut short, never votes."""
        return self.complete and self.group is not None

    @property
    def texts(self) -> tuple[str, ...]:
        """The steps as a scorer reads them: those of a search, or the paragraphs of an answer that was sampled in one
        go, and so has no ids."""
        if self.ids:
            return tuple(step.text.strip() for step in self.steps)
        return tuple(filter(None, map(str.strip, self.shown.split("\n\n")))) or ("",)

    def up_to(self, count: int) -> str:
        """The text up to the end of so many of `texts`, as it was written."""
        if self.ids:
            return "".join(step.text for step in self.steps[:count]).strip()
        return "\n\n".join(self.texts[:count])

    def scored(self, scores: Scores, score: float | None, reasons: Sequence[str | None] = ()) -> Candidate:
        return replace(self, scores=scores, score=score, reasons=tuple(reasons))

    def read(self, answer: str | None, group: int | None) -> Candidate:
        same = (answer, group) == (self.answer, self.group)
        return self if same else replace(self, answer=answer, group=group)


@dataclass(frozen=True, slots=True)
class Vote:
    """A class of equal answers: how many candidates gave it and what they weigh together."""

    answer: str
    count: int
    weight: float


@dataclass(frozen=True, slots=True)
class Decision:
    """Why sampling stopped before all samples were drawn: by which rule, after how many samples, and how sure it is.
    Of a search the samples are its complete paths.

    `confidence` is, of `verified`, the least of the scores that verify the answer; of `consensus` the answer's share of
    the weights; of the other rules the probability that the answer with the most votes keeps them
    (strategies/stopping.py).
    """

    rule: str
    samples: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Round:
    """What a strategy knows after one round of work.

    `ranked` holds the best candidate of every distinct answer, best first; `votes` the classes, heaviest first.
    `decision` is what stopped sampling, or a search, early, which makes the round `converged`.
    """

    candidates: tuple[Candidate, ...]
    ranked: tuple[Candidate, ...]
    votes: tuple[Vote, ...] = ()
    converged: bool = False
    decision: Decision | None = None


Event = Round | Batch
"""What a strategy reports: rounds, or, where nothing is decided between tokens, the tokens themselves."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The most that a strategy may spend, for `dry_run` and for admission. Tokens are generated ones."""

    rounds: int
    branches: int
    policy_tokens: int
    scorer_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.policy_tokens + self.scorer_tokens


@dataclass(frozen=True, slots=True)
class Check:
    """What computing says of a step or an answer: a score in [0, 1], or None, no opinion; and why, in a few words."""

    score: float | None
    reason: str | None = None


class Checker(Protocol):
    """Computes what can be known of texts without a model, in processes that can be killed."""

    async def equations(self, solutions: Sequence[Sequence[str]]) -> list[list[Check]]:
        """Return, for each solution, whether the equalities hold that each of its steps asserts."""

    async def tests(self, answers: Sequence[str], tests: Sequence[str | Mapping[str, str]]) -> list[Check]:
        """Return the share of the tests that the last block of code of each answer passes."""

    async def grade(
        self, candidates: Sequence[Candidate], grader: Mapping[str, Any], item: Mapping[str, Any]
    ) -> list[Check]:
        """Return what a grader of the fine-tuning API says of each candidate; `item` is the row that it may read."""


class ScorerContext(Protocol):
    """What a scorer may use of the run: the conversation, the engine, and calls whose cost is counted."""

    @property
    def chat(self) -> Chat: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def seed(self) -> int | None: ...

    @property
    def checker(self) -> Checker | None: ...

    async def ask(self, engine: Engine, prefixes: Sequence[Ids], call: Call) -> list[Generation]:
        """Continue every prefix, in one request; raise BudgetSpent when not all could finish."""

    async def rate(self, model: RewardModel, prompts: Sequence[Ids]) -> list[Rows]:
        """Have a reward model rate prompts, all in one request."""

    def note(self, remark: str) -> None:
        """Keep a remark for the caller."""

    def explain(self, candidate: Candidate, reasons: Sequence[str | None]) -> None:
        """Keep why its scores are what they are, a reason for each where there is one."""


class Scorer(Protocol):
    """Judges candidates. Scores are in [0, 1]. Implementations inherit from it; what has a value here is a default."""

    __slots__ = ()

    @property
    def stepwise(self) -> bool:
        """Whether there is a score for each of a candidate's `texts`, or one for the whole of it."""
        return False

    @property
    def comparative(self) -> bool:
        """Whether the score of a candidate depends on those that are scored with it."""
        return False

    @property
    def aggregate(self) -> Aggregate:
        """How the scores of the steps become one where nobody says otherwise."""
        return "last"

    @property
    def logprobs(self) -> int | None:
        """How many log-probabilities it needs at every sampled token; None: it looks at the text."""
        return None

    def confidence(self, token: Mapping[str, Any]) -> float | None:
        """Return what it reads of a sampled token's log-probabilities; None: nothing. Asked as the tokens come, so that
        these numbers are kept (`Generation.confidences`) and not the log-probabilities."""
        return None

    @property
    def models(self) -> tuple[str, ...]:
        """The served models that it asks, other than the one that answers."""
        return ()

    def renamed(self, models: Mapping[str, str]) -> Self:
        """Return it with each of its models under the name that it is served by."""
        return self

    def tokens(self, judgements: int) -> int:
        """Return the most tokens that it generates to score so many steps, or candidates."""

    async def score(self, session: ScorerContext, candidates: Sequence[Candidate]) -> Sequence[Scores]:
        """Return the scores of every candidate, in order, from one batch of calls; those it has already stand."""


class NamedScorer(Scorer, Protocol):
    """A scorer that a request can name. Implementations are frozen dataclasses of `knob`s."""

    __slots__ = ()

    type: ClassVar[str]
    summary: ClassVar[str]
    cost: ClassVar[str]


Rows = Sequence[Sequence[float]]
"""A reward model's rating of one prompt: label probabilities, a row a token, a step, or one for the whole."""


class RewardModel(Protocol):
    """A model that rates what it reads instead of going on with it; it has a server and a tokenizer of its own."""

    async def context(self) -> int:
        """Return how many tokens a prompt may have."""

    async def tokenize(self, text: str, special: bool = False) -> Ids:
        """Return the ids of a bare text, on request with the special tokens that the model puts around one."""

    async def render(self, chat: Chat) -> Ids:
        """Return the ids of a conversation that ends with the answer to be rated, under the chat template."""

    async def rate(self, prompts: Sequence[Ids]) -> list[Rows]:
        """Return the rating of every prompt, all in one request."""


class Reader(Protocol):
    """Reads final answers and tells which are equal."""

    async def read(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """Return the final answer of every candidate, None where there is none."""

    async def classes(self, answers: Sequence[str | None]) -> list[int | None]:
        """Number the classes of equal answers from 0 in order of first appearance; None stays None.

        Which answers are equal does not depend on their order.
        """
