"""Best-of-N, with weighted votes after Li et al., 2022 ("Making Language Models Better Reasoners with Step-Aware
Verifier", arXiv:2206.02336); scored by a verifier as in Cobbe et al., 2021 (arXiv:2110.14168).

Accuracy is not monotone in N with an imperfect scorer (arXiv:2411.17501): the plain majority stands beside the result.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from strategies.knobs import knob
from strategies.seeds import derive
from strategies.select import by_score, by_vote, score
from strategies.session import Session, Strategy
from strategies.stopping import Never, Stop, Waves, check, check_scorer
from strategies.types import Aggregate, Call, Event, Plan, Scorer, Selection
from strategies.waves import Poll, sample_until_decided


@dataclass(frozen=True, slots=True)
class BestOfN(Strategy):
    """Sample several answers and keep the one a scorer likes best.

    1. Sample `samples` answers, all in one request; under a stopping rule in waves, until the rule says stop.
    2. Score them, all at once; under a stopping rule as they finish.
    3. `best`: the highest score wins. `weighted_vote`: the answer whose candidates' scores sum highest wins.
    """

    type: ClassVar[str] = "best_of_n"
    summary: ClassVar[str] = "Sample several answers and keep the one a scorer likes best."
    paper: ClassVar[str] = "https://arxiv.org/abs/2110.14168"
    cost: ClassVar[str] = "samples × answer, in parallel; plus one round of scoring (judge: one token a sample)"
    temperature_default: ClassVar[float | None] = 0.8
    size_knob: ClassVar[str | None] = "samples"

    samples: int = knob(8, "Answers to sample.", ge=1, le=1024)
    scorer: str | dict[str, Any] = knob("judge", "Who scores them: a scorer's name, or an object with `type`.")
    aggregate: Aggregate | None = knob(None, "How the scores of the steps become one; unset: as the scorer has it.")
    select: Literal["best", "weighted_vote"] = knob("best", "Highest score, or highest sum of scores of an answer.")
    stop: Stop = knob(Never(), "When to stop before all samples are drawn; `samples` is then the most.")
    waves: Waves = knob(Waves(), "How many samples are drawn at a time under a stopping rule.")

    def __post_init__(self) -> None:
        check(self.stop, self.waves, self.samples, scored=True)

    @property
    def selection(self) -> Selection | None:
        return self.select if isinstance(self.stop, Never) else None

    def plan(self, n: int, max_tokens: int, scorer: Scorer | None) -> Plan:
        check_scorer(self.stop, scorer)
        rounds = self.waves.rounds(self.stop, self.samples)
        return Plan(rounds, self.samples, self.samples * max_tokens, scorer.tokens(self.samples) if scorer else 0)

    async def search(self, session: Session) -> AsyncGenerator[Event]:
        assert session.scorer is not None, "the service resolves `scorer`, which has a default"
        call = Call(self.samples, derive(session.seed, self.type), logprobs=session.scorer.logprobs)
        if not isinstance(self.stop, Never):
            poll = Poll(session, self.stop, self.samples, self.select, self.aggregate)
            async with aclosing(sample_until_decided(poll, self.waves, call)) as rounds:
                async for found in rounds:
                    yield found
            return
        drawn = await session.sample(call, reserve=session.scorer.tokens(self.samples))
        answers = await session.read(drawn)
        yield by_vote(answers)  # what stands if the budget ends before the scores are in
        scored = await session.score(answers, self.aggregate)
        yield by_score(scored) if self.select == "best" else by_vote(scored, weight=score)
