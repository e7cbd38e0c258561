"""A verifier from questions with answers: Math-Shepherd (Wang et al., 2023, arXiv:2312.08935), as a generative one.

1. Sample solutions of every question on the serving engine and cut them into steps.
2. From each step, sample `rollouts` completions. How many of them end in the right answer is the step's label. The last
   step is as good as the answer it gives. Otherwise than in the paper, the sampled solutions that have a step are
   rollouts from it as well, since they are there.
3. Train the model to say so, by supervised fine-tuning on the prompt of the `generative` scorer, with the loss on the
   label's token alone. `hard` estimation: Yes where any rollout led to the right answer, as in the paper's experiments.
   `soft`: every rollout is a row of its own, so that the label's probability becomes the share of rollouts that did. In
   the format `rlhflow` one sequence holds the labels of all steps of a solution, up to the first wrong one.

Step labels are kept in the job's folder, question by question, so that a worker that takes the job up goes on there.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from service.graders import Sample
from service.jobs.journal import Journal
from service.jobs.methods.verifier import VerifierExtras
from strategies.seeds import derive
from strategies.types import Call, Chat, Ids
from training.conversations import Example, render
from training.errors import TrainingError
from training.grading import BatchGrader, judge, structured
from training.recipe import Recipe, resolve
from training.run import Row, TrainingRun
from training.sft import on_examples
from training.step_labels import LabelTokens, StepLabel, questions, read_labels, steps, turns
from training.task import Done, Facts, Note

WAVE = 64
"""Solutions that are sampled at once; their rollouts are then a few hundred."""
RIGHT = 0.5
"""The score from which an answer counts as right."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A solution of a row up to one of its steps: the ids that were sampled."""

    row: int
    ids: Ids


def train(run: TrainingRun) -> Done:
    extras = run.spec.outthink
    assert isinstance(extras, VerifierExtras)
    tokens = LabelTokens.of(run.tokenizer, extras.format)
    training, validation = run.rows()
    recipe = resolve(run.spec, len(training), run.room)
    with judge(run) as graded:
        labels = Labelling(run, graded, recipe, "training", training).labels()
        held_out = Labelling(run, graded, recipe, "validation", validation).labels()
    good = sum(label.right > 0 for label in labels)
    run.send(Note(f"{len(labels)} steps were labelled; from {good} of them a rollout led to the right answer"))
    if good in (0, len(labels)):
        raise TrainingError(
            "all steps got the same label, so there is nothing to tell apart: take easier or harder questions, or more "
            "samples",
            "training_file",
        )

    def to_examples(labels: Sequence[StepLabel]) -> list[Example]:
        if extras.format == "rlhflow":
            return list(turns(run.tokenizer, labels, tokens, extras.delimiter))
        return list(questions(run.tokenizer, labels, tokens, soft=extras.estimation == "soft"))

    done = on_examples(run, to_examples(labels), to_examples(held_out))
    scorer = {"type": "generative", "model": done.result["fine_tuned_model"], "format": extras.format}
    run.send(Facts({"scorer": scorer}))
    return Done(done.result | {"scorer": scorer}, done.metrics)


class Labelling:
    """Labels the steps of sampled solutions, a wave of questions at a time."""

    def __init__(self, run: TrainingRun, graded: BatchGrader, recipe: Recipe, name: str, rows: Sequence[Row]) -> None:
        extras = run.spec.outthink
        assert isinstance(extras, VerifierExtras)
        assert recipe.samples
        assert recipe.rollouts
        self.run, self.graded, self.recipe, self.rows = run, graded, recipe, rows
        self.samples, self.rollouts, self.delimiter = recipe.samples, recipe.rollouts, extras.delimiter
        self.name = f"step-labels-{name}"
        self.journal = Journal(run.task.folder / f"{self.name}.jsonl")

    def labels(self) -> list[StepLabel]:
        """The labels of all rows, those that are known already included."""
        self.journal.recover()
        known = read_labels(self.journal)
        todo = [i for i in range(len(self.rows)) if i not in known]
        began, size = time.monotonic(), max(1, WAVE // self.samples)
        for start in range(0, len(todo), size):
            self.run.pause_if_asked()
            wave = todo[start : start + size]
            found = self.label_wave(wave)
            self.journal.append({"row": i, "labels": [asdict(label) for label in found[i]]} for i in wave)
            known |= found
            left = (time.monotonic() - began) / (start + len(wave)) * (len(todo) - start - len(wave))
            self.run.send(Facts({"marked": len(known), "questions": len(self.rows), "eta_seconds": round(left, 1)}))
            self.run.send(Note(f"Labelled the solutions of {len(known)} of {len(self.rows)} questions"))
        return [label for i in sorted(known) for label in known[i]]

    def label_wave(self, wave: Sequence[int]) -> dict[int, list[StepLabel]]:
        """The labels of a few rows: one request for their solutions, one for all rollouts from all their steps."""
        prompts = {i: tuple(render(self.run.tokenizer, self.rows[i]["messages"], answer=True)) for i in wave}
        solutions = self.run.serving.continue_prefixes(
            list(prompts.values()), self.call(self.samples, "solutions", wave[0])
        )
        whole: dict[Prefix, None] = {}
        parts: dict[Prefix, list[Prefix | None]] = {}  # to where the solutions lead that begin so; None: to no answer
        for i, family in zip(wave, solutions, strict=True):
            for solution in family:
                *before, last = [Prefix(i, ids) for ids in steps(self.run.tokenizer, solution.ids, self.delimiter)]
                for part in before:
                    parts.setdefault(part, []).append(last if solution.complete else None)
                if solution.complete:
                    whole[last] = None
        further = self.run.serving.continue_prefixes(
            [prompts[part.row] + part.ids for part in parts], self.call(self.rollouts, "rollouts", wave[0])
        )
        for (part, ends), family in zip(parts.items(), further, strict=True):
            ends += [Prefix(part.row, part.ids + rollout.ids) if rollout.complete else None for rollout in family]
        right = self.right({*whole, *(end for ends in parts.values() for end in ends if end)})
        counts = {part: (sum(end in right for end in ends), len(ends)) for part, ends in parts.items()}
        counts |= {end: (self.rollouts * (end in right), self.rollouts) for end in whole}
        found: dict[int, list[StepLabel]] = {i: [] for i in wave}
        for prefix, (good, rollouts) in counts.items():
            question = Chat(tuple(self.rows[prefix.row]["messages"])).transcript
            found[prefix.row].append(StepLabel(question, self.text(prefix.ids), good, rollouts))
        return found

    def call(self, n: int, *what: str | int) -> Call:
        return Call(
            n=n,
            seed=derive(self.run.spec.seed, self.name, *what),
            max_tokens=self.recipe.max_tokens,
            temperature=self.recipe.temperature,
            fields=structured(self.run.spec.response_format),
        )

    def right(self, answers: Collection[Prefix]) -> set[Prefix]:
        samples = [Sample(self.text(answer.ids)) for answer in answers]
        scores = self.graded.grade([self.rows[answer.row] for answer in answers], samples)
        return {answer for answer, score in zip(answers, scores, strict=True) if score >= RIGHT}

    def text(self, ids: Ids) -> str:
        text: str = self.run.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()
