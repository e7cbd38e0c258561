"""docs/claims.md and its pictures, generated from the results, whatever they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite

from benchmarks.claims import pictures
from benchmarks.claims import results as measured
from benchmarks.claims.curves import BEST, CHOOSING, MAJORITY, STRATEGIES, Gap, Growth, Meeting, Track
from benchmarks.claims.flops import FORMULA
from benchmarks.claims.results import Budgets, Combined, Results, Sizes
from benchmarks.claims.scale import Amounts
from benchmarks.claims.stages import LARGE, LEAST_FALL, SMALL, Claim, Size, converged
from benchmarks.lab.gates import percent, points, told
from benchmarks.lab.measured import Difference
from benchmarks.lab.scale import Scale
from service.benchmarks.statistics import Fit, Interval

COMMAND = "python -m benchmarks.claims"
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Row:
    claim: str
    what: str
    figure: str
    holds: str
    of: Claim

    def __str__(self) -> str:
        return f"| {self.claim} | {self.what} | {self.figure} | {self.holds} | `{COMMAND} {self.of}` |"


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of every claim; None where it was not measured."""

    compute: Mapping[str, tuple[Track, Growth]] | None
    sizes: Sizes | None
    budgets: Budgets | None
    loop: Difference | None
    combined: Mapping[str, Combined] | None

    @classmethod
    def of(cls, results: Results, scale: Scale, amounts: Amounts) -> Found:
        both = {
            name: found
            for name in (MAJORITY, BEST)
            if (found := measured.combined(results, STRATEGIES[name], amounts.base_samples)) is not None
        }
        return cls(
            measured.compute(results),
            measured.sizes(results),
            measured.budgets(results, scale, amounts),
            measured.loop(results),
            both or None,
        )


def pages(results: Results, scale: Scale, amounts: Amounts) -> Mapping[str, str]:
    """The files, by their names."""
    found = Found.of(results, scale, amounts)
    parts = (
        setup(results, scale),
        table(found, scale, amounts),
        growing(found.compute),
        third(results, found.sizes, amounts),
        rewarded(found.budgets, scale),
        looped(found.loop),
        together(found.combined, amounts),
    )
    files = {"claims.md": "\n".join(line for part in parts for line in part)}
    if found.compute is not None:
        files["claims-compute.svg"] = pictures.compute(found.compute)
    if found.sizes is not None:
        files["claims-size.svg"] = pictures.sizes(found.sizes)
    return files


def setup(results: Results, scale: Scale) -> Iterator[str]:
    about = results.state["claims"]
    yield "# Claims"
    yield ""
    yield (
        "What is claimed of inference-time compute and of training, measured by the product itself, through its API: "
        "`make claims`, after `make lab`, whose models and samples it takes where they are done. This page is "
        "generated from the results, whatever they are."
    )
    yield ""
    yield (
        f"The task and the {scale.tests} test questions are those of [the lab](lab.md): {scale.operations} additions "
        f"or subtractions of numbers of up to {scale.digits} digit{'s' * (scale.digits > 1)}. One task and models of "
        "this size are all that is measured here. Differences are in percentage points, question by question; "
        "intervals are 95 %, of 2,000 bootstrap resamples of the questions. "
        f"Machine: {about['machine']}. Date: {about['date']}."
    )
    yield ""


def table(found: Found, scale: Scale, amounts: Amounts) -> Iterator[str]:
    yield "| claim | measured | figure (95 %) | holds | command |"
    yield "| --- | --- | --- | --- | --- |"
    yield from map(str, rows(found, scale, amounts))
    yield ""


def rows(found: Found, scale: Scale, amounts: Amounts) -> Iterator[Row]:
    yield from log_linear(found.compute)
    yield from ten_times(found.sizes)
    yield reinforcement(found.budgets)
    yield self_generated(found.loop)
    yield from more_than_the_sum(found.combined, amounts)


# The table's rows


def log_linear(found: Mapping[str, tuple[Track, Growth]] | None) -> Iterator[Row]:
    claim = "accuracy grows log-linearly with inference compute"
    if found is None:
        yield Row(claim, "", NOT_MEASURED, "", Claim.COMPUTE)
        return
    for name in CHOOSING:
        each, grown = found[name]
        what = f"{name}, 1 to {each.sizes[-1]} samples"
        yield Row(claim, what, rising(grown), straight(grown), Claim.COMPUTE)


def rising(grown: Growth) -> str:
    said = "no rise that can be told from zero"
    if grown.fit is not None:
        said = f"{points(grown.fit.slope, grown.fit.ci)} a doubling, from {span(grown.fit)} tokens"
    return f"{said}; {stops(grown)}"


def span(fit: Fit) -> str:
    low, high = fit.tokens
    return f"{low:.0f} to {high:.0f}"


def stops(grown: Growth) -> str:
    if grown.end is None:
        return "no stop within what was measured"
    return f"stops after {grown.end} sample{'s' * (grown.end > 1)}"


def straight(grown: Growth) -> str:
    if grown.fit is None or grown.bend is None:
        return "no"
    low, high = grown.bend
    if low <= 0 <= high:
        return "yes" if grown.end is None else "yes, up to there"
    return "it rises, but not in a line"


def ten_times(found: Sizes | None) -> Iterator[Row]:
    claim = "10 × inference compute equals a 3 × larger model"
    if found is None:
        yield Row(claim, "", NOT_MEASURED, "", Claim.SIZE)
        return
    for name in CHOOSING:
        each = found.greedy[name]
        figure = f"met at {multiple(each.own)} its own single answer; at {times(each.spent)}: {gap(each.gap)}"
        yield Row(claim, f"a third of the size, {name}, against greedy", figure, equals(each.gap), Claim.SIZE)


def equals(found: Gap) -> str:
    """At ten times the compute."""
    low, high = found.ci
    return "no" if high < 0 else "yes, and more" if low > 0 else "yes, within the interval"


def reinforcement(found: Budgets | None) -> Row:
    claim, what = "RL's gain is log-linear in training compute", "pass@1 after GRPO"
    if found is None:
        return Row(claim, what, NOT_MEASURED, "", Claim.REINFORCEMENT)
    steps = f"of {', '.join(map(str, found.steps))} steps"
    figure = f"{points(found.found.slope, found.found.ci)} a doubling"
    low, high = found.found.ci
    holds = "yes" if low > 0 else "no: it falls" if high < 0 else "no: not to be told from zero"
    return Row(claim, f"{what} {steps}", figure, holds, Claim.REINFORCEMENT)


def self_generated(found: Difference | None) -> Row:
    claim = "self-generated and curated data beat human-like data alone"
    what = "two rounds of the loop against as many human-like solutions, pass@1"
    if found is None:
        return Row(claim, what, NOT_MEASURED, "", Claim.LOOP)
    return Row(claim, what, told(found), yes(found.positive), Claim.LOOP)


def more_than_the_sum(found: Mapping[str, Combined] | None, amounts: Amounts) -> Iterator[Row]:
    claim = "combined is more than the sum"
    if found is None:
        yield Row(claim, "", NOT_MEASURED, "", Claim.BOTH)
        return
    for name, each in found.items():
        what = f"both − search − SFT + base; {name}, {amounts.base_samples} samples"
        yield Row(claim, what, gap(each.gap), yes(each.gap.ci[0] > 0), Claim.BOTH)


def yes(holds: bool) -> str:
    return "yes" if holds else "no"


def gap(found: Gap) -> str:
    return points(found.mean, found.ci)


def multiple(found: Meeting) -> str:
    return f"{times(found.multiple)} ({between(found.ci)})"


def times(value: float) -> str:
    return f"{value:.2g} ×" if value < 10 else f"{value:.0f} ×" if isfinite(value) else "no multiple"


def between(ci: Interval) -> str:
    return " to ".join(times(value) for value in ci)


# What is below the table


def growing(found: Mapping[str, tuple[Track, Growth]] | None) -> Iterator[str]:
    if found is None:
        return
    yield "## More inference compute"
    yield ""
    yield (
        "All strategies are read off the same samples of the demo model, trained by SFT as below. The fit is accuracy "
        "= a + b · log₂(tokens), over the sizes up to the first doubling whose gain, question by question, has an "
        "interval that includes zero. Choosing that end by the data flatters b a little. A vote begins at two "
        "samples, which decide nothing. The bend is the interval of a parabola's coefficient of log₂(tokens)²: a line "
        "fits where it includes zero."
    )
    yield ""
    sizes = next(iter(found.values()))[0].sizes
    every = sorted({size for each, _ in found.values() for size in each.sizes} | {*sizes})
    yield f"| strategy | {' | '.join(map(str, every))} | b, a doubling | bend | stops |"
    yield f"| --- |{' --- |' * (len(every) + 3)}"
    for name, (each, grown) in found.items():
        rates = dict(zip(each.sizes, each.rates, strict=True))
        cells = [percent(float(rates[size])) if size in rates else "" for size in every]
        slope = points(grown.fit.slope, grown.fit.ci) if grown.fit else "none"
        bend = "" if grown.bend is None else f"{grown.bend[0] * 100:+.2f} to {grown.bend[1] * 100:+.2f}"
        yield f"| {name} | {' | '.join(cells)} | {slope} | {bend} | {stops(grown)} |"
    yield ""
    yield "![Accuracy against tokens, with the lines that were fitted](claims-compute.svg)"
    yield ""


def third(results: Results, found: Sizes | None, amounts: Amounts) -> Iterator[str]:
    if found is None:
        return
    large, small = results.shape(LARGE), results.shape(SMALL)
    yield "## A third of the size"
    yield ""
    yield (
        f"The small model has {small.layers} of the demo model's {large.layers} layers, spread evenly, first and last "
        f"included (`benchmarks/claims/small.py`): {small.parameters / 1e6:.1f} of "
        f"{large.parameters / 1e6:.1f} million parameters, 1 to {large.parameters / small.parameters:.2f}. Both were "
        "trained by SFT of all weights on the same rows, "
        f"{amounts.rows}, in rounds, until a round's validation loss was not {percent(LEAST_FALL, 0)} below all before "
        f"it, but for {amounts.rounds} rounds at most; the best round's weights are measured. A model that was "
        "pre-trained at that size would begin with more than layers that do not fit each other."
    )
    yield ""
    yield "| model | steps a round | learning rate | validation loss after each round | converged |"
    yield "| --- | --- | --- | --- | --- |"
    for size in (LARGE, SMALL):
        yield losses_row(size, results, amounts)
    yield ""
    yield (
        f"FLOPs: {FORMULA}. Parameters include the embeddings, which are the output's weights as well. A prompt is "
        "read once for all samples of a question (the service's own `flops` have it for every sample, and no "
        "attention). The scorer, `equations`, computes and takes no tokens. Multiples are of the small model's own "
        "single sampled answer, and of what the large model took to be as accurate. The curve is linear in "
        "log₂(FLOPs) between its sizes; no multiple: not met within what was measured. In the table of claims, equal "
        "is an interval that includes zero, which excludes no difference within it."
    )
    yield ""
    yield "| small model's strategy | large model's | its accuracy | met at, own answers | large one's compute |"
    yield "| --- | --- | --- | --- | --- |"
    for name, each in found.greedy.items():
        yield met_row(name, "greedy answer", each)
    for name, by_samples in found.curve.items():
        for samples, each in by_samples.items():
            yield met_row(name, f"{name}, {samples}", each)
    yield ""
    yield "![Accuracy of both sizes of model against FLOPs](claims-size.svg)"
    yield ""


def losses_row(size: Size, results: Results, amounts: Amounts) -> str:
    ends = [found[-1][1] for found in results.losses(size).values()]
    said = ", ".join(f"{end:.4f}" for end in ends)
    rate = f"{size.rate(amounts):g} × the worker's"
    return f"| {size.name} | {size.steps(amounts)} | {rate} | {said} | {yes(converged(ends))} |"


def met_row(name: str, other: str, each: measured.Against) -> str:
    return f"| {name} | {other} | {percent(each.wanted)} | {multiple(each.own)} | {multiple(each.other)} |"


def rewarded(found: Budgets | None, scale: Scale) -> Iterator[str]:
    if found is None:
        return
    yield "## GRPO at several budgets"
    yield ""
    yield (
        f"Each a training of its own from SFT, on the first of the same questions, four a step with {scale.group} "
        "answers each, so that steps are in proportion to FLOPs. SFT alone: pass@1 "
        f"{percent(float(found.before.mean()))}."
    )
    yield ""
    yield "| steps | pass@1 | from SFT |"
    yield "| --- | --- | --- |"
    for place, steps in enumerate(found.steps):
        yield f"| {steps} | {percent(float(found.right[:, place].mean()))} | {gap(found.gain(place))} |"
    yield ""


def looped(found: Difference | None) -> Iterator[str]:
    if found is None:
        return
    yield "## The loop"
    yield ""
    yield (
        "What the loop asks, keeps and trains on, and the model that has the same start and human-like solutions "
        "alone, are in [the lab](lab.md#what-training-did): the generator's own solutions stand for human ones, and "
        "are never wrong."
    )
    yield ""


def together(found: Mapping[str, Combined] | None, amounts: Amounts) -> Iterator[str]:
    if found is None:
        return
    yield "## Search and training together"
    yield ""
    yield (
        f"Search: {amounts.base_samples} samples of a question. Training: the lab's SFT. Where the base is right on "
        "hardly any question, a search alone finds little to choose from, and whatever it gains after training "
        "counts as more than the sum."
    )
    yield ""
    yield "| search | base | + search | + training | + both | beyond the sum |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, each in found.items():
        yield f"| {name} | {' | '.join(map(percent, each.rates))} | {gap(each.gap)} |"
    yield ""
