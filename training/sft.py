"""Supervised fine-tuning: the loss is on what the assistant said, and on nothing else."""

from __future__ import annotations

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from training import model
from training.conversations import Example, examples
from training.run import Row, TrainingRun
from training.task import Done, Note


def train(run: TrainingRun) -> Done:
    """Train on the assistant's messages of every conversation."""
    training, validation = run.rows()
    return on_examples(run, tokenize(run, training), tokenize(run, validation))


def tokenize(run: TrainingRun, rows: list[Row]) -> list[Example]:
    return [found for row in rows for found in examples(run.tokenizer, row["messages"], row.get("tools"))]


def on_examples(run: TrainingRun, training: list[Example], validation: list[Example]) -> Done:
    """Train on sequences with labels; what is longer than the model can read, or was told to, is cut."""
    kept, held_out = (
        [cut for example in part if (cut := example.cut(run.max_length)).teaches] for part in (training, validation)
    )
    if len(kept) < len(training):
        run.send(Note(f"{len(training) - len(kept)} conversations have nothing to learn in {run.max_length} tokens"))
    recipe = run.recipe(len(kept))
    weights = run.weights(recipe)
    longest = max(len(example.input_ids) for example in kept + held_out)
    trainer = SFTTrainer(
        model=weights.model,
        peft_config=weights.adapter,
        args=SFTConfig(**model.arguments(run.task, recipe, recipe.batch_size, longest), max_length=None),
        train_dataset=dataset(kept),
        eval_dataset=dataset(held_out) if held_out else None,
        processing_class=run.tokenizer,
    )
    return run.train(trainer, recipe)


def dataset(rows: list[Example]) -> Dataset:
    return Dataset.from_dict(
        {"input_ids": [example.input_ids for example in rows], "labels": [example.labels for example in rows]}
    )
