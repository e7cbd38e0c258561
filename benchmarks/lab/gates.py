"""What the lab was to reach, each with its figure, whatever it is."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.lab.measured import Difference, Measurements, difference
from benchmarks.lab.policies import ADAPTIVE, MAJORITY, SEARCHES, VERIFIED
from benchmarks.lab.training import BASE, FIRST, GRPO, SECOND, SFT

MOST_OF_MAJORITY, MOST_OF_VERIFIED = 0.55, 0.2
"""Shares of the majority's tokens."""
LEAST_OF_VERIFIED = 0.1
"""What it has to be better by."""


@dataclass(frozen=True, slots=True)
class Gate:
    what: str
    figure: str
    reached: bool


def gates(measured: Measurements) -> list[Gate]:
    return [
        rises("SFT beats the base at pass@1", measured, SFT, BASE),
        as_good_for_less(measured),
        better_for_less(measured),
        searching(measured),
        rises("GRPO beats SFT at pass@1", measured, GRPO, SFT),
        rises("the loop's second round beats its first at pass@1", measured, SECOND, FIRST),
    ]


def rises(what: str, measured: Measurements, model: str, other: str) -> Gate:
    if not measured.has(model, other):
        return Gate(what, "not measured", reached=False)
    found = difference(measured.figure(model, "pass@1", 1), measured.figure(other, "pass@1", 1))
    return Gate(what, told(found), found.positive)


def as_good_for_less(measured: Measurements) -> Gate:
    found = difference(adaptive := measured.at(ADAPTIVE), majority := measured.at(MAJORITY))
    share = adaptive.tokens / majority.tokens
    what = f"stopping (adaptive) is as good as the majority at {percent(MOST_OF_MAJORITY, 0)} of its tokens or less"
    return Gate(
        what, f"{told(found)}, at {percent(share, 0)} of the tokens", found.ci[1] >= 0 and share <= MOST_OF_MAJORITY
    )


def better_for_less(measured: Measurements) -> Gate:
    found = difference(verified := measured.at(VERIFIED), majority := measured.at(MAJORITY))
    share = verified.tokens / majority.tokens
    what = (
        f"stopping when the equations hold beats the majority by {LEAST_OF_VERIFIED * 100:.0f} points or more at "
        f"{percent(MOST_OF_VERIFIED, 0)} of its tokens or less"
    )
    reached = found.mean >= LEAST_OF_VERIFIED and share <= MOST_OF_VERIFIED
    return Gate(what, f"{told(found)}, at {percent(share, 0)} of the tokens", reached)


def searching(measured: Measurements) -> Gate:
    """The search whose interval reaches least far down; of so many, one may lie above zero by chance."""
    what = "some search beats sampling by the same scorer at equal tokens"
    found = [cell for cell in measured.equal_tokens() if cell["name"].startswith(tuple(SEARCHES))]
    if not found:
        return Gate(what, "not measured", reached=False)
    best = max(found, key=lambda cell: float(cell["ci"][0]))
    which = f"{best['name']}, size {best['samples']}, the best of {len(found)} cells"
    return Gate(what, f"{points(best['difference'], best['ci'])}: {which}", best["ci"][0] > 0)


def told(found: Difference) -> str:
    rates = f"{percent(found.first.cell['accuracy'])} against {percent(found.second.cell['accuracy'])}"
    return f"{rates}: {points(found.mean, found.ci)}"


def points(mean: float, ci: tuple[float, float]) -> str:
    """A difference in percentage points, with its interval."""
    low, high = ci
    return f"{mean * 100:+.1f} ({low * 100:+.1f} to {high * 100:+.1f})"


def percent(rate: float, digits: int = 1) -> str:
    return f"{rate * 100:.{digits}f} %"
