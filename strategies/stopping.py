"""When to stop: rules that look at the samples so far, in the order in which they were asked for.

`adaptive`: Adaptive-Consistency (Aggarwal et al., 2023, arXiv:2305.11860), its Beta rule in closed form.
`window`: early-stopping self-consistency, ESC (Li et al., 2024, arXiv:2401.10480).
`verified`: enough answers that agree have a high enough score.

Deviations: samples come in waves that grow, where the papers draw one by one or a window at a time; a majority vote
that the samples to come cannot overturn stops under every rule but `none`, which draws all samples in one request;
where scores choose the answer, a rule stops only if they choose the answer that the rule is sure of.

Searches over steps take `verified` alone (`decide_search`). The other two reckon with independent samples. Paths share
their steps, so that one parent's children agree by descent, and the first to finish are the short ones.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import lru_cache
from itertools import accumulate
from typing import ClassVar, Literal

from strategies.errors import InvalidParameter
from strategies.knobs import knob
from strategies.select import Choice, by_selection, by_threshold, classes, confident
from strategies.types import Candidate, Decision, Round, Scorer

Classes = Mapping[int, Sequence[Candidate]]
"""The samples that vote, by class of equal answers, each class in the order of its samples."""
ROUNDING = 1e-9
"""What sums of scores may be wrong by, added in another order."""

Sure = dict[int, float]
"""The classes of equal answers that a rule would stop for, and how sure it is of each."""


@dataclass(frozen=True, slots=True)
class Never:
    """Draw all samples, in one request."""

    rule: Literal["none"] = knob("none", "Draw all samples, in one request.")


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Stop when it is likely enough that more samples would not change the majority."""

    rule: Literal["adaptive"] = knob("adaptive", "Stop when the majority is likely enough to stay one.")
    confidence: float = knob(0.95, "Probability of it, at which sampling stops.", gt=0.5, lt=1)

    def sure(self, samples: Sequence[Candidate], groups: Classes) -> Sure:
        sure = confidence(groups)
        return {max(groups, key=lambda group: len(groups[group])): sure} if sure >= self.confidence else {}


@dataclass(frozen=True, slots=True)
class Window:
    """Stop when a whole window of samples gave one answer. Windows are disjoint; one without an answer never agrees."""

    rule: Literal["window"] = knob("window", "Stop when a window of consecutive samples is unanimous.")
    size: int = knob(3, "Samples of a window; at most `samples`.", ge=2, le=64)

    def sure(self, samples: Sequence[Candidate], groups: Classes) -> Sure:
        """The unanimous answer, with the confidence of the vote of all samples, which may elect another."""
        if not samples or len(samples) % self.size:
            return {}
        first, *others = samples[-self.size :]
        if first.group is None or not all(c.votes and c.group == first.group for c in (first, *others)):
            return {}
        return {first.group: confidence(groups)}


@dataclass(frozen=True, slots=True)
class Verified:
    """Stop when enough answers that are equal have a high enough score. One that has no score is not verified."""

    rule: Literal["verified"] = knob("verified", "Stop when enough answers that agree have a high enough score.")
    score: float = knob(1.0, "Least score of a verified answer.", gt=0, le=1)
    count: int = knob(1, "Verified answers that have to agree; at most `samples`.", ge=1, le=1024)

    def meets(self, sample: Candidate) -> bool:
        return sample.score is not None and sample.score >= self.score

    def sure(self, samples: Sequence[Candidate], groups: Classes) -> Sure:
        """The verified answers, each with the least of its `count` best scores."""
        found: Sure = {}
        for group, members in groups.items():
            best = sorted((c.score for c in members if c.score is not None and self.meets(c)), reverse=True)
            if len(best) >= self.count:
                found[group] = best[self.count - 1]
        return found


Rule = Adaptive | Window | Verified


@dataclass(frozen=True, slots=True)
class Consensus:
    """Stop when the leading answer has so large a share of the scores that are high enough, from `least` samples on.
    It is DeepConf's own (strategies/deepconf.py): no request names it."""

    threshold: float
    least: int
    share: float = 0.95
    rule: ClassVar[str] = "consensus"

    def sure(self, samples: Sequence[Candidate], groups: Classes) -> Sure:
        if len(samples) < self.least or not confident(samples, self.threshold):
            return {}
        found = by_threshold(samples, self.threshold)
        share = found.votes[0].weight / sum(vote.weight for vote in found.votes)
        leader = found.ranked[0].group
        return {leader: share} if leader is not None and share >= self.share else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    """Stop when one of several rules would."""

    rule: Literal["any"] = knob("any", "Stop when one of the rules in `any` would.")
    any: tuple[Rule, ...] = knob(MISSING, "The rules; they do not nest.", min_length=1, max_length=8)


Stop = Never | Rule | AnyOf
"""What a request may say as `stop`."""


@dataclass(frozen=True, slots=True)
class Waves:
    """Samples under a stopping rule come in waves, each one request: small at first, so that little is wasted, and then
    larger, so that the engine stays busy."""

    start: int = knob(4, "Samples of the first wave.", ge=1, le=1024)
    growth: float = knob(2.0, "How many times larger each wave is than the one before it.", ge=1, le=8)
    cap: int = knob(64, "Most samples of a wave.", ge=1, le=1024)

    def sizes(self, most: int) -> Iterator[int]:
        """The sizes of the waves of so many samples."""
        size, left = float(self.start), most
        while left > 0:
            wave = min(int(size), self.cap, left)
            yield wave
            left -= wave
            size = min(size * self.growth, self.cap)

    def rounds(self, stop: Stop, most: int) -> int:
        """How many requests so many samples are at most."""
        return 1 if isinstance(stop, Never) else sum(1 for _ in self.sizes(most))


def rules(stop: Stop | Consensus) -> Mapping[str, Rule | Consensus]:
    """The single rules of a stopping rule, by their paths in a request."""
    if isinstance(stop, AnyOf):
        return {f"strategy.stop.any[{i}]": rule for i, rule in enumerate(stop.any)}
    return {} if isinstance(stop, Never) else {"strategy.stop": stop}


def check(stop: Stop, waves: Waves, samples: int, *, scored: bool) -> None:
    """Raise InvalidParameter where a rule does not fit its strategy; `scored`: the strategy has a scorer."""
    if isinstance(stop, Never) and waves != Waves():
        raise InvalidParameter("strategy.waves", "without a rule in `stop` all samples are drawn in one request")
    for path, rule in rules(stop).items():
        if isinstance(rule, Verified) and not scored:
            raise InvalidParameter(path, "a strategy without a scorer verifies nothing: set a scorer, or another rule")
        name = {Window: "size", Verified: "count"}.get(type(rule))
        value = getattr(rule, name) if name else 0
        if value > samples:
            raise InvalidParameter(f"{path}.{name}", f"must be at most {samples}, as many as `samples`, not {value}")


def check_scorer(stop: Stop | Consensus, scorer: Scorer | None) -> None:
    """Raise InvalidParameter for a scorer whose scores of a few samples say nothing of those among all."""
    if scorer is not None and scorer.comparative and not isinstance(stop, Never):
        raise InvalidParameter("strategy.stop", "this scorer compares all samples at once, so all must be drawn first")


def decide(
    stop: Stop | Consensus, samples: Sequence[Candidate], most: int, selection: Choice = "majority"
) -> Decision | None:
    """What stops sampling after these samples of at most `most`, in the order of their submission; None: nothing does.

    Sampling is not stopped when all are drawn. Of several rules that would stop it, the first is named; `majority`
    is the vote that cannot be overturned.
    """
    if isinstance(stop, Never) or not 0 < len(samples) < most:
        return None
    groups = classes(samples)
    for rule in rules(stop).values():
        if found := rule.sure(samples, groups):
            group = next(iter(found)) if selection == "majority" else by_selection(samples, selection).ranked[0].group
            if group in found:
                return Decision(rule.rule, len(samples), found[group])
    if selection == "majority" and cannot_be_overturned(groups, most - len(samples)):
        return Decision("majority", len(samples), 1.0)
    return None


def check_search(stop: Stop, most: int) -> None:
    """Raise InvalidParameter where a rule does not fit a search over steps in which so many paths may finish."""
    for path, rule in rules(stop).items():
        if not isinstance(rule, Verified):
            problem = f"`{rule.rule}` is for independent samples, and the paths of a search share their steps"
            raise InvalidParameter(path, f"{problem}: use `verified`")
        if rule.count > most:
            raise InvalidParameter(f"{path}.count", f"must be at most {most}, as many paths as may finish")


def decide_search(stop: Stop, found: Round, judged: Container[int], left: int, *, weighted: bool) -> Decision | None:
    """What ends a search with these finished paths, of which at most `left` more may come; None: nothing does.

    A path is verified by a score of its own (`judged` has its number), and several that are spelled alike are one: the
    clones of a particle, or what was sampled twice. `weighted`: the vote is by the scores, which are 1 at most.
    """
    if isinstance(stop, Never) or not left:
        return None
    complete = [path for path in found.candidates if path.complete]
    distinct = {path.text: path for path in sorted(complete, key=lambda path: -path.id) if path.id in judged}
    verified = [*distinct.values()]
    for rule in rules(stop).values():
        sure = rule.sure(verified, classes(verified))
        if (winner := found.ranked[0].group) in sure:
            return Decision(rule.rule, len(complete), sure[winner])
    if weighted and lead(found) > left + ROUNDING:
        return Decision("majority", len(complete), 1.0)
    return None


def may_decide(stop: Stop, path: Candidate) -> bool:
    """Whether a score verifies this path."""
    return any(isinstance(rule, Verified) and rule.meets(path) for rule in rules(stop).values())


def lead(found: Round) -> float:
    """By how much the heaviest answer is heavier than the second."""
    first, second, *_ = (*(vote.weight for vote in found.votes), 0.0, 0.0)
    return first - second


def cannot_be_overturned(groups: Classes, left: int) -> bool:
    """Whether the majority stays, whatever `left` more samples say; of equal votes the answer that came first wins.

    Classes of answers are taken to stay apart, though a later answer may prove to be equal to both of two.
    """
    order = sorted((-len(members), members[0].id) for members in groups.values())
    if not order:
        return False
    leader, *others = order
    rivals = [(votes - left, first) for votes, first in others]
    return all(leader < rival for rival in rivals) and -leader[0] >= left


def confidence(groups: Classes) -> float:
    """The probability that the leading answer has more votes than the second in the end (see `beta`)."""
    first, second, *_ = (*sorted(map(len, groups.values()), reverse=True), 0, 0)
    return beta(first, second)


@lru_cache(4096)
def beta(a: int, b: int) -> float:
    """P(p > 1/2) for p of a Beta(a + 1, b + 1) distribution, which is 2^-(a+b+1) · Σ_{j=0..a} C(a+b+1, j).

    Rounded once: the sum is exact, and taken over the shorter side.
    """
    n = a + b + 1
    binomials = accumulate(range(1, b + 1), lambda binomial, j: binomial * (n - j + 1) // j, initial=1)
    return int(2**n - sum(binomials)) / int(2**n)
