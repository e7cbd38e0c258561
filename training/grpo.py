"""Group relative policy optimisation (Shao et al., 2024, arXiv:2402.03300): of several answers to one question, those
that a grader likes better than their mean become likelier.

The answers come from the serving engine, as token ids with the log-probabilities that it gave them. It samples with an
adapter that is published anew every few steps, so the answers may be older than the weights: the policy ratio is
therefore taken to what the engine really did, and clipped as ever. A group whose answers are all equally good teaches
nothing; the share of such groups is reported as `train_zero_variance_groups`.
"""

from __future__ import annotations

import shutil
from itertools import chain
from typing import Any
from uuid import uuid4

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from service.graders import Sample
from service.jobs.published import publish
from service.jobs.training import ROLLOUTS
from strategies.seeds import derive
from strategies.types import Call
from training import model, tools
from training.conversations import render
from training.engine import sweep
from training.errors import TrainingError
from training.grading import BatchGrader, judge, structured
from training.publish import check_adapter
from training.recipe import Recipe
from training.run import Row, TrainingRun
from training.task import Done


class EngineTrainer(GRPOTrainer):
    """Compares the policy with the one that the engine sampled from."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.temperature == 1:  # at any other, the engine's log-probabilities are not those it sampled by
            batch["old_per_token_logps"] = batch["sampling_per_token_logps"]
        return batch


class Rollouts:
    """Implements TRL's `rollout_func`: all answers of a step in one request to the engine."""

    def __init__(self, run: TrainingRun, recipe: Recipe) -> None:
        self.run, self.recipe = run, recipe
        self.attempt = uuid4().hex[:8]
        self.published: int | None = None
        self.name = run.task.job.model
        self.calls = 0
        sweep(run.task)  # of an attempt whose worker died

    def __call__(self, prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        """Answer every prompt; they come in groups of equal ones."""
        self.follow(trainer)
        n = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        ids = [tuple(self.run.tokenizer.encode(prompt, add_special_tokens=False)) for prompt in prompts]
        room = self.recipe.max_length - max(map(len, ids))
        if room < 1:
            length = self.recipe.max_length
            message = f"a question fills the {length} tokens of a conversation: there is no room for an answer"
            raise TrainingError(message, "outthink.max_length")
        call = self.call(n, trainer.state.global_step, room)
        answers = list(chain.from_iterable(self.run.serving.continue_prefixes(ids[::n], call)))
        return {
            "prompt_ids": [list(prompt) for prompt in ids],
            "completion_ids": [list(answer.ids) for answer in answers],
            "logprobs": [[entry["logprob"] for entry in answer.logprobs] for answer in answers],
        }

    def call(self, n: int, step: int, room: int) -> Call:
        assert self.recipe.max_tokens
        self.calls += 1
        return Call(
            n=n,
            seed=derive(self.run.spec.seed, "rollouts", step, self.calls),
            max_tokens=min(self.recipe.max_tokens, room),
            temperature=self.recipe.temperature,
            logprobs=0,
            model=self.name,
            fields=structured(self.run.spec.response_format),
        )

    def follow(self, trainer: GRPOTrainer) -> None:
        """Publish the adapter to the engine when the one it has is too old; the job's own model needs no publishing."""
        step = trainer.state.global_step
        every = self.recipe.publish_every or 1
        if step == 0 or (self.published is not None and step - self.published < every):
            return
        before = self.name
        self.published, self.name = step, f"{self.run.task.name()}{ROLLOUTS}{step}-{self.attempt}"
        target, base = self.run.task.target(self.name), self.run.base
        weights = trainer.accelerator.unwrap_model(trainer.model)
        publish(
            target,
            lambda folder: model.save(weights, base, folder),
            lambda folder: check_adapter(folder, base.name, base.max_rank, learnt=False),
            {"name": self.name, "job": self.run.task.job.id, "step": step},
        )
        self.run.serving.patiently(lambda: self.run.serving.load(self.name, target))
        self.discard(before)

    def discard(self, name: str) -> None:
        """Forget an adapter that only rollouts used."""
        if name != self.run.task.job.model:
            self.run.serving.unload(name)
            shutil.rmtree(self.run.task.target(name), ignore_errors=True)

    def close(self) -> None:
        self.discard(self.name)


def train(run: TrainingRun) -> Done:
    training, validation = run.rows()
    if any(row.get("tools") for row in training + validation):
        tools.prepare(run.tokenizer)
    recipe = run.recipe(len(training))
    rollouts = Rollouts(run, recipe)
    with judge(run) as graded:
        try:
            return run.train(trainer(run, recipe, rollouts, graded, training, validation), recipe)
        finally:
            rollouts.close()


def trainer(
    run: TrainingRun,
    recipe: Recipe,
    rollouts: Rollouts,
    graded: BatchGrader,
    training: list[Row],
    validation: list[Row],
) -> GRPOTrainer:
    """A step is of `batch_size` questions with `samples` answers each."""
    rows = training + validation

    def reward(completions: list[str], completion_ids: list[list[int]], index: list[int], **_: Any) -> list[float]:
        said = zip(index, completions, completion_ids, strict=True)
        return graded.grade([rows[i] for i in index], [as_sample(run, rows[i], text, ids) for i, text, ids in said])

    questions = Dataset.from_dict({"prompt": [prompt(run, row) for row in rows], "index": list(range(len(rows)))})
    assert recipe.samples
    assert recipe.max_tokens
    longest = recipe.max_tokens + max(len(run.tokenizer.encode(text)) for text in questions["prompt"])
    told = model.arguments(run.task, recipe, recipe.batch_size * recipe.samples, longest)
    if recipe.eval_samples:
        told["per_device_eval_batch_size"] = recipe.eval_samples * min(len(validation), recipe.batch_size)
    weights = run.weights(recipe)
    return EngineTrainer(
        model=weights.model,
        peft_config=weights.adapter,
        reward_funcs=reward,
        args=GRPOConfig(
            **told,
            lr_scheduler_type="constant",
            num_generations=recipe.samples,
            num_generations_eval=recipe.eval_samples,
            max_completion_length=recipe.max_tokens,
            temperature=recipe.temperature,
            beta=recipe.kl,
        ),
        train_dataset=questions.select(range(len(training))),
        eval_dataset=questions.select(range(len(training), len(rows))) if validation else None,
        processing_class=run.tokenizer,
        rollout_func=rollouts,
    )


def prompt(run: TrainingRun, row: Row) -> str:
    """The rendered question: TRL hands it to `rollout_func` as it is."""
    text: str = run.tokenizer.decode(render(run.tokenizer, row["messages"], row.get("tools"), answer=True))
    return text


def as_sample(run: TrainingRun, row: Row, text: str, ids: list[int]) -> Sample:
    """An answer to a row as its grader sees it."""
    if not row.get("tools"):
        return Sample(text)
    asked = run.tokenizer.encode(prompt(run, row), add_special_tokens=False)
    return tools.sample(run.tokenizer, asked, ids, row["tools"])
