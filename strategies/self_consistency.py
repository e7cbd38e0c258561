"""Self-consistency (Wang et al., 2022, "Self-Consistency Improves Chain of Thought Reasoning", arXiv:2203.11171).

Deviations: the prompt is the caller's own (the paper's carries few-shot chains of thought); answers are equal when they
are mathematically equal; the weighted vote takes any scorer, the paper's normalised sum of probabilities being
`scorer: "logprob"`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from strategies.errors import InvalidParameter
from strategies.knobs import knob
from strategies.seeds import derive
from strategies.select import by_vote, score
from strategies.session import Session, Strategy
from strategies.stopping import Never, Stop, Waves, check, check_scorer
from strategies.types import Aggregate, Call, Event, Plan, Scorer, Selection
from strategies.waves import Poll, sample_until_decided


@dataclass(frozen=True, slots=True)
class SelfConsistency(Strategy):
    """Sample several chains of thought and keep the answer most of them agree on.

    1. Sample `samples` answers, all in one request; under a stopping rule in waves, until the rule says stop.
    2. Read the final answer of each.
    3. The answer with the most votes wins; a weighted vote counts each with its score.
    """

    type: ClassVar[str] = "self_consistency"
    summary: ClassVar[str] = "Sample several answers and keep the one most of them agree on."
    paper: ClassVar[str] = "https://arxiv.org/abs/2203.11171"
    cost: ClassVar[str] = "samples × answer, in parallel; plus the scorer's tokens in a weighted vote"
    temperature_default: ClassVar[float | None] = 0.7
    size_knob: ClassVar[str | None] = "samples"

    samples: int = knob(16, "Answers to sample (the paper uses up to 40).", ge=1, le=1024)
    vote: Literal["majority", "weighted"] = knob("majority", "Whether votes count one each or their score.")
    scorer: str | dict[str, Any] | None = knob(None, "Scorer of a weighted vote; `logprob` when left out.")
    aggregate: Aggregate | None = knob(None, "How the scores of the steps become one; unset: as the scorer has it.")
    stop: Stop = knob(Never(), "When to stop before all samples are drawn; `samples` is then the most.")
    waves: Waves = knob(Waves(), "How many samples are drawn at a time under a stopping rule.")

    def __post_init__(self) -> None:
        for name in ("scorer", "aggregate"):
            if self.vote == "majority" and getattr(self, name) is not None:
                raise InvalidParameter(f"strategy.{name}", f'a majority vote takes no {name}: set "vote": "weighted"')
        if self.vote == "weighted" and self.scorer is None:
            object.__setattr__(self, "scorer", "logprob")
        check(self.stop, self.waves, self.samples, scored=self.scorer is not None)

    @property
    def selection(self) -> Selection | None:
        return self.choice if isinstance(self.stop, Never) else None

    @property
    def choice(self) -> Selection:
        """How it chooses among the samples that it drew."""
        return "majority" if self.vote == "majority" else "weighted_vote"

    def plan(self, n: int, max_tokens: int, scorer: Scorer | None) -> Plan:
        check_scorer(self.stop, scorer)
        rounds = self.waves.rounds(self.stop, self.samples)
        return Plan(rounds, self.samples, self.samples * max_tokens, scorer.tokens(self.samples) if scorer else 0)

    async def search(self, session: Session) -> AsyncGenerator[Event]:
        scorer = session.scorer
        call = Call(self.samples, derive(session.seed, self.type), logprobs=scorer.logprobs if scorer else None)
        if not isinstance(self.stop, Never):
            poll = Poll(session, self.stop, self.samples, self.choice, self.aggregate)
            async with aclosing(sample_until_decided(poll, self.waves, call)) as rounds:
                async for found in rounds:
                    yield found
            return
        reserve = scorer.tokens(self.samples) if scorer else 0
        answers = await session.read(await session.sample(call, reserve=reserve))
        yield by_vote(answers)
        if scorer:
            yield by_vote(await session.score(answers, self.aggregate), weight=score)
