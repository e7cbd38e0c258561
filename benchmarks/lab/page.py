"""docs/lab.md and its picture, generated from the results, whatever they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults import Fault, Marks
from benchmarks.lab.gates import gates, percent, points, told
from benchmarks.lab.jobs import Stage, State, report_file
from benchmarks.lab.measured import FIGURES, Measurements, difference
from benchmarks.lab.policies import POLICIES, READINGS, TEMPERATURE, WEIGHTED
from benchmarks.lab.scale import Scale
from benchmarks.lab.training import BASE, HUMAN, MIN_DISTANCE, MODELS, ROUNDS, RPO_ALPHA, SECOND, SFT, results_in
from service.benchmarks import plot
from service.benchmarks.results import Cell, Point

FAULTS: dict[Fault, str] = {
    "result": "wrong result",
    "sign": "wrong sign",
    "number": "wrong number",
    "form": "no equation, or an extra one",
}
SHOWN = (*READINGS, *POLICIES)


def pages(state: State, folder: Path, stages: Sequence[Stage], scale: Scale) -> Mapping[str, str]:
    """The files, by their names."""
    measured = Measurements.read(state, folder)
    marks = Marks.of(report_file(folder, WEIGHTED, "samples.jsonl"))
    return {"lab.md": page(state, measured, marks, stages, scale), "lab.svg": draw(measured)}


def page(state: State, measured: Measurements, marks: Marks, stages: Sequence[Stage], scale: Scale) -> str:
    parts = (
        setup(state, stages, scale),
        reached(measured),
        compared(measured),
        trained(state, measured, scale),
        worth(marks),
        took(state, stages),
    )
    return "\n".join(line for part in parts for line in (*part, ""))


def setup(state: State, stages: Sequence[Stage], scale: Scale) -> Iterator[str]:
    yield "# The lab"
    yield ""
    yield (
        "`make lab` post-trains one small model on one task and compares what inference-time search makes of it, all "
        "of it through the product's own API. This page is generated from the results, whatever they are."
    )
    yield ""
    yield "## Setup"
    yield ""
    yield (
        f"A question has {scale.operations} additions or subtractions of numbers of up to {scale.digits} "
        f"digit{'s' * (scale.digits > 1)}; its solution has one equation per step "
        f"(`service/benchmarks/arithmetic.py`). The {scale.tests} test questions are in no training, and no question "
        f"is in two trainings; searches by equations are measured on the first {scale.searched} of them, searches by "
        f"the verifier on the first {scale.guided}. Temperature {TEMPERATURE}, at most {scale.max_tokens} tokens per "
        "answer, one seed."
    )
    yield ""
    yield (
        f"Model: the demo model, SmolLM2-135M-Instruct. Machine: {state['machine']}. Date: {state['date']}. Time: "
        f"{sum(minutes(state, stage) for stage in stages):.0f} minutes."
    )


def reached(measured: Measurements) -> Iterator[str]:
    yield "## Gates"
    yield ""
    yield (
        "Differences are in percentage points, question by question, with the 95 % interval of 2,000 bootstrap "
        "resamples of the questions. One model beats another when the whole interval is above zero."
    )
    yield ""
    yield "| what was to be reached | figure | reached |"
    yield "| --- | --- | --- |"
    for gate in gates(measured):
        yield f"| {gate.what} | {gate.figure} | {'yes' if gate.reached else 'no'} |"


def compared(measured: Measurements) -> Iterator[str]:
    yield "## Accuracy against tokens"
    yield ""
    yield "All on the model after SFT. One sample is the majority of 1."
    yield ""
    yield "| policy | size | accuracy (95 %) | at equal tokens, against | pass@k | tokens, policy + scorer |"
    yield "| --- | --- | --- | --- | --- | --- |"
    equal = {(cell["name"], cell["samples"]): cell for cell in measured.equal_tokens()}
    for name in SHOWN:
        for point in measured.curves[name]:
            yield row(point.cell, equal.get((name, point.cell["samples"])))
    yield ""
    yield "![Accuracy against tokens and seconds of every policy](lab.svg)"
    yield ""
    yield (
        "The size is the number of samples, the most of them under a rule that stops, the beams, the particles, or "
        "the iterations. `pass@k` is the accuracy of a perfect selector among what was drawn; of a search, whether "
        "any final answer is right. Rules that stop draw one by one, windows three by three. The comparison at equal "
        "tokens is with the named policy, between two of its sizes; empty where it was not measured at so many "
        "tokens. [benchmarks.md](benchmarks.md#the-figures) explains how the figures are computed. For every policy "
        "and model, `make lab` writes an HTML report with all questions and answers to `data/lab`."
    )


def row(cell: Cell, equal: Cell | None) -> str:
    low, high = cell["ci"]
    rate = f"{percent(cell['accuracy'])} ({percent(low)} to {percent(high)})"
    against = f"{points(equal['difference'], equal['ci'])}, {equal['against']['name']}" if equal else ""
    tokens = f"{cell['tokens']['policy']:.0f} + {cell['tokens']['scorer']:.0f}"
    return f"| {cell['name']} | {cell['samples']} | {rate} | {against} | {percent(cell['pass_at_k'])} | {tokens} |"


def trained(state: State, measured: Measurements, scale: Scale) -> Iterator[str]:
    yield "## What training did"
    yield ""
    yield "Each figure with its difference from the model in the second column."
    yield ""
    yield f"| model | from | {' | '.join(FIGURES)} | k |"
    yield f"| --- | --- |{' --- |' * (len(FIGURES) + 1)}"
    for name in (BASE, SFT, *(name for name in MODELS if name != BASE)):
        if measured.has(name):
            yield model_row(name, BASE if name == SFT else MODELS[name].parent, measured)
    yield ""
    yield (
        f"GRPO: {scale.grpo_steps} steps of 4 questions with {scale.group} answers each, graded by `math`. "
        "DeepSeekMath (Shao et al., 2024) saw the majority rise under GRPO, and pass@k not."
    )
    yield ""
    yield (
        f"DPO: pairs whose texts differ in {percent(MIN_DISTANCE, 0)} of their characters or more (`min_distance`), "
        f"and SFT's loss beside DPO's (`rpo_alpha` {RPO_ALPHA:g}, as in Pang et al., 2024)."
    )
    yield ""
    yield (
        f"The loop begins with SFT on {scale.weak} examples. A round asks {scale.asked} new questions {scale.tries} "
        f"times each, keeps up to {scale.kept} right answers of each, asks those that were never solved again with the "
        "answer as a hint and keeps what is right, without the hint (STaR's rationalization); it trains by SFT on "
        "them, then by DPO on right and wrong answers. The last model has the same start, and SFT on as many of the "
        "generator's own solutions as both rounds kept, for as many steps."
    )
    yield ""
    if measured.has(SECOND, HUMAN):
        against = difference(measured.figure(SECOND, "pass@1", 1), measured.figure(HUMAN, "pass@1", 1))
        yield f"Two rounds of the loop against human-like solutions, at pass@1: {told(against)}."
        yield ""
    yield "| round | questions | solved | answers kept | with a hint | pairs |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for each in ROUNDS:
        found, hinted = results_in(state, f"{each.name}: answers"), results_in(state, f"{each.name}: hints")
        kept = f"{found['sft_rows']} | {hinted['sft_rows']} | {found['dpo_rows']}"
        yield f"| {each.number} | {found['questions']} | {found['solved']} | {kept} |"


def model_row(name: str, parent: str | None, measured: Measurements) -> str:
    compared = parent if parent and measured.has(parent) else None
    k = min(measured.most(model) for model in (name, compared) if model)
    cells = []
    for figure in FIGURES:
        point = measured.figure(name, figure, k)
        cells.append(
            percent(point.cell["accuracy"]) + (moved(point, measured.figure(compared, figure, k)) if compared else "")
        )
    return f"| {name} | {compared or ''} | {' | '.join(cells)} | {k} |"


def moved(point: Point, before: Point) -> str:
    found = difference(point, before)
    return f", {points(found.mean, found.ci)}"


def worth(marks: Marks) -> Iterator[str]:
    yield "## What the verifier learned"
    yield ""
    yield (
        "How often the verifier scores the first wrong step of a solution lower than the correct equation in its "
        "place (0.5 is chance), for solutions sampled after SFT, by type of error (`benchmarks/faults.py`)."
    )
    yield ""
    yield "| type of error | wrong steps | scored lower |"
    yield "| --- | --- | --- |"
    for fault, what in FAULTS.items():
        area = marks.area(fault)
        yield f"| {what} | {len(marks.told[fault])} | {'' if area is None else f'{area:.2f}'} |"


def took(state: State, stages: Sequence[Stage]) -> Iterator[str]:
    yield "## Time per stage"
    yield ""
    yield "| stage | minutes | expected | what |"
    yield "| --- | --- | --- | --- |"
    for stage in stages:
        yield f"| {stage.name} | {minutes(state, stage):.1f} | {stage.minutes:.1f} | {outcome(state, stage)} |"


def minutes(state: State, stage: Stage) -> float:
    return float(state[stage.name].get("seconds", 0.0)) / 60


def outcome(state: State, stage: Stage) -> str:
    """What a stage was, and what came of it."""
    record = state[stage.name]
    if "skipped" in record:
        return f"{stage.about}: nothing to do, {record['skipped']}"
    job: Mapping[str, Any] = record["job"]
    if job["object"] == "distillation":
        found = job["results"]
        return (
            f"{stage.about}: {found['questions']} questions, {found['solved']} solved, {found['sft_rows']} answers "
            f"kept, {found['dpo_rows']} pairs"
        )
    if job["object"] == "fine_tuning.job":
        now = job["outthink"]["progress"]
        return f"{stage.about}: {now['total_steps']} steps of {now['hyperparameters']['batch_size']}"
    return stage.about


def draw(measured: Measurements) -> str:
    """The accuracy of every policy against its tokens."""
    cells = [point.cell for name in SHOWN for point in measured.curves[name]]
    return plot.as_file(plot.svg(cells))
