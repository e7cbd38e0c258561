"""DeepConf while it samples (Fu et al., 2025, "Deep Think with Confidence", arXiv:2508.15260, algorithm 2).

The first `warmup` samples are drawn in full. Of their lowest group confidences the percentile 100 - `keep` is the
threshold: a later sample is aborted, while it is decoded, as soon as the confidence of its last group is below it, and
a sample of the warm-up that is below it does not vote. Sampling ends when the leading answer has 95 % of the weights.

Deviations: the samples behind the warm-up are all asked for at once, each in a request of its own; they count in the
order in which they were asked for. The window that nobody chose is one for all: that of the warm-up's median length.
Where no sample is above the threshold, every vote counts the same.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from statistics import median_low
from typing import Any

from strategies.errors import EngineError, InvalidParameter
from strategies.knobs import type_of
from strategies.scorers.deepconf import MOST, DeepConf, Watch
from strategies.select import ThresholdVote, percentile
from strategies.session import Session
from strategies.stopping import Consensus, Never, Stop
from strategies.types import Call, Candidate, Round, Scorer
from strategies.waves import Poll, draw


async def sample_while_confident(session: Session, call: Call, warmup: int, keep: float) -> AsyncGenerator[Round]:
    """Sample at most `call.n` answers, and yield a round after the warm-up and one at the end, which is the result."""
    drawn = await session.sample(replace(call, n=warmup))
    scorer = session.scorer = with_one_window(session.scorer, drawn)
    threshold = threshold_of(drawn, scorer, keep)
    poll = Poll(session, Consensus(threshold / MOST, len(drawn)), call.n, ThresholdVote(threshold / MOST))
    await poll.take(drawn)
    left = call.n - warmup
    if poll.decision is not None:
        session.saved = left
    yield poll.round()
    if poll.decision is not None or session.stopped is not None:
        return
    try:
        await draw(poll, call.part(warmup, left), [Watch(scorer.window(0), threshold) for _ in range(left)])
    except EngineError:
        if len(poll.seen) > len(drawn):
            yield poll.round()
        raise
    if poll.decision is not None:
        session.unused = max(call.n - len(poll.seen) - session.failed, 0)
    note_aborted(session, poll.seen, threshold)
    yield poll.round()


def with_one_window(scorer: Scorer | None, warmup: Sequence[Candidate]) -> DeepConf:
    """The scorer with a window that is the same for all samples."""
    assert isinstance(scorer, DeepConf), "the strategy takes no other"
    return replace(scorer, group=scorer.window(median_low(len(sample.last.confidences) for sample in warmup)))


def threshold_of(warmup: Sequence[Candidate], scorer: DeepConf, keep: float) -> float:
    """The confidence, in nats, that every group must have; 0, which all have, where nothing could be read."""
    known = [lowest for lowest in map(scorer.of, warmup) if lowest is not None]
    return percentile(known, 100 - keep) if known else 0.0


def note_aborted(session: Session, samples: Sequence[Candidate], threshold: float) -> None:
    if aborted := sum(sample.last.finish_reason == "abort" for sample in samples):
        session.note(f"{aborted} samples were aborted: a group's confidence fell below {threshold:.4g} nats")


def check(scorer: str | dict[str, Any] | None, stop: Stop, samples: int, warmup: int | None) -> None:
    """Raise InvalidParameter where the parameters of a DeepConf vote do not fit each other."""
    if type_of(scorer) != DeepConf.type:
        raise InvalidParameter(
            "strategy.scorer", f"a DeepConf vote is by the scorer {DeepConf.type!r}, or by none named"
        )
    if not isinstance(stop, Never):
        raise InvalidParameter("strategy.stop", "a DeepConf vote compares all samples: set `warmup` to stop early")
    if warmup is None:
        return
    if warmup >= samples:
        raise InvalidParameter("strategy.warmup", f"must be less than {samples}, the number of samples, not {warmup}")
    if isinstance(scorer, dict) and scorer.get("measure", "lowest_group") != "lowest_group":
        message = "with a `warmup` it must be lowest_group, which is known while a sample is decoded"
        raise InvalidParameter("strategy.scorer.measure", message)
