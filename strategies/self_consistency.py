"""Self-consistency (Wang et al., 2022, "Self-Consistency Improves Chain of Thought Reasoning", arXiv:2203.11171).

Deviations: the prompt is the caller's own (the paper's carries few-shot chains of thought); answers are equal when they
are mathematically equal; the weighted vote takes any scorer, the paper's normalised sum of probabilities being
`scorer: "logprob"`.

`confidence` is CISC (Taubenfeld et al., 2025, arXiv:2502.06233): w_i = softmax(c_i / T) over the samples that vote. The
paper fits T to each model; at 1, the default here, a sample weighs at most e times another. Under a stopping rule only
the final vote is weighed so: what a rule counts are samples. `deepconf`: strategies/deepconf.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from strategies import deepconf
from strategies.errors import InvalidParameter
from strategies.knobs import knob, knobs, type_of
from strategies.seeds import derive
from strategies.select import Choice, KeptVote, SoftmaxVote, by_selection, by_vote
from strategies.session import Session, Strategy
from strategies.stopping import Never, Stop, Waves, check, check_scorer
from strategies.types import Aggregate, Call, Event, Plan, Round, Scorer, Selection
from strategies.waves import Poll, sample_until_decided

Vote = Literal["majority", "weighted", "confidence", "deepconf"]

SCORERS: Mapping[str, str] = {"p_true": "p_true", "sequence": "logprob"}
"""By what a confidence is called in CISC."""

KNOBS: Mapping[str, Vote] = {
    "confidence": "confidence",
    "softmax_temperature": "confidence",
    "keep": "deepconf",
    "warmup": "deepconf",
}
"""The parameters that only one kind of vote has."""


@dataclass(frozen=True, slots=True)
class SelfConsistency(Strategy):
    """Sample several chains of thought and keep the answer most of them agree on.

    1. Sample `samples` answers, all in one request; under a stopping rule in waves, until the rule says stop.
    2. Read the final answer of each.
    3. The answer with the most votes wins. `weighted` counts each with its score, `confidence` with the softmax of its
       scores, `deepconf` with its confidence where that is among the highest.
    """

    type: ClassVar[str] = "self_consistency"
    summary: ClassVar[str] = "Sample several answers and keep the one most of them agree on."
    paper: ClassVar[str] = "https://arxiv.org/abs/2203.11171"
    cost: ClassVar[str] = "samples × answer, in parallel; plus the scorer's tokens in a weighted vote"
    temperature_default: ClassVar[float | None] = 0.7
    size_knob: ClassVar[str | None] = "samples"

    samples: int = knob(16, "Answers to sample (the paper uses up to 40).", ge=1, le=1024)
    vote: Vote = knob("majority", "Votes count one each, their score, the softmax of it, or DeepConf's confidence.")
    scorer: str | dict[str, Any] | None = knob(
        None, "Who weighs the votes; unset: `logprob` (weighted), what `confidence` says, or `deepconf`."
    )
    aggregate: Aggregate | None = knob(None, "How the scores of the steps become one; unset: as the scorer has it.")
    confidence: Literal["p_true", "sequence"] | None = knob(
        None, "Of a `confidence` vote: asked of the model, P(True), or the sample's probability; unset: `p_true`."
    )
    softmax_temperature: float = knob(
        1.0, "T of a `confidence` vote: the lower, the more the confident samples weigh.", gt=0, le=100
    )
    keep: float = knob(90.0, "Percent of the samples that vote in a `deepconf` vote, the surest ones.", gt=0, le=100)
    warmup: int | None = knob(
        None,
        "Samples of a `deepconf` vote before unsure ones are aborted (the paper: 16); unset: none is.",
        ge=2,
        le=1024,
    )
    stop: Stop = knob(Never(), "When to stop before all samples are drawn; `samples` is then the most.")
    waves: Waves = knob(Waves(), "How many samples are drawn at a time under a stopping rule.")

    def __post_init__(self) -> None:
        for name in ("scorer", "aggregate"):
            if self.vote == "majority" and getattr(self, name) is not None:
                raise InvalidParameter(f"strategy.{name}", f'a majority vote takes no {name}: set "vote": "weighted"')
        for one in knobs(type(self)):
            kind = KNOBS.get(one.name, self.vote)
            if kind != self.vote and getattr(self, one.name) != one.default:
                raise InvalidParameter(f"strategy.{one.name}", f'is of another vote: set "vote": "{kind}"')
        if self.scorer is None:
            object.__setattr__(self, "scorer", self.default_scorer)
        if self.confidence is not None and type_of(self.scorer) != SCORERS[self.confidence]:
            raise InvalidParameter("strategy.confidence", "`scorer` says what the confidence is: leave one of them out")
        if self.vote == "deepconf":
            deepconf.check(self.scorer, self.stop, self.samples, self.warmup)
        check(self.stop, self.waves, self.samples, scored=self.scorer is not None)

    @property
    def default_scorer(self) -> str | None:
        """The scorer where none is named."""
        match self.vote:
            case "majority":
                return None
            case "weighted":
                return "logprob"
            case "confidence":
                return SCORERS[self.confidence or "p_true"]
            case "deepconf":
                return "deepconf"

    @property
    def selection(self) -> Selection | None:
        return self.choice if isinstance(self.stop, Never) and isinstance(self.choice, str) else None

    @property
    def choice(self) -> Choice:
        """How it chooses among the samples that it drew."""
        match self.vote:
            case "majority":
                return "majority"
            case "weighted":
                return "weighted_vote"
            case "confidence":
                return SoftmaxVote(self.softmax_temperature)
            case "deepconf":
                return KeptVote(self.keep)

    def plan(self, n: int, max_tokens: int, scorer: Scorer | None) -> Plan:
        check_scorer(self.stop, scorer)
        rounds = self.waves.rounds(self.stop, self.samples) if self.warmup is None else 2
        return Plan(rounds, self.samples, self.samples * max_tokens, scorer.tokens(self.samples) if scorer else 0)

    async def search(self, session: Session) -> AsyncGenerator[Event]:
        scorer = session.scorer
        call = Call(self.samples, derive(session.seed, self.type), logprobs=scorer.logprobs if scorer else None)
        if rounds := self.early(session, call):
            async with aclosing(rounds):
                async for found in rounds:
                    yield found
            return
        reserve = scorer.tokens(self.samples) if scorer else 0
        answers = await session.read(await session.sample(call, reserve=reserve))
        yield by_vote(answers)
        if scorer:
            yield by_selection(await session.score(answers, self.aggregate), self.choice)

    def early(self, session: Session, call: Call) -> AsyncGenerator[Round] | None:
        """What samples a part at a time and may end early; None: nothing does, all are drawn in one request."""
        if self.warmup is not None:
            return deepconf.sample_while_confident(session, call, self.warmup, self.keep)
        if isinstance(self.stop, Never):
            return None
        return sample_until_decided(
            Poll(session, self.stop, self.samples, self.choice, self.aggregate), self.waves, call
        )
