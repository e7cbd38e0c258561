"""Direct preference optimisation (Rafailov et al., 2023, arXiv:2305.18290): the preferred answer becomes likelier than
the other, relative to the model that training began with; `beta` holds it there."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from training import model
from training.conversations import render, shared
from training.run import Row, TrainingRun
from training.task import Done, Note


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and two answers to it, as ids, under the names that the trainer's collator reads."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    def cut(self, length: int) -> Pair:
        left = max(length - len(self.prompt_ids), 0)
        return Pair(self.prompt_ids, self.chosen_ids[:left], self.rejected_ids[:left])

    @property
    def teaches(self) -> bool:
        return self.chosen_ids != self.rejected_ids


class PairTrainer(DPOTrainer):
    """Takes pairs that are tokenized already."""

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset


def train(run: TrainingRun) -> Done:
    training, validation = run.rows()
    kept, held_out = (
        [cut for row in part if (cut := pair(run, row).cut(run.max_length)).teaches] for part in (training, validation)
    )
    if len(kept) < len(training):
        run.send(Note(f"{len(training) - len(kept)} pairs do not differ within {run.max_length} tokens"))
    recipe = run.recipe(len(kept))
    weights = run.weights(recipe)
    longest = 2 * max(found.tokens for found in kept + held_out)  # both answers of a pair are one row of a batch
    trainer = PairTrainer(
        model=weights.model,
        peft_config=weights.adapter,
        args=DPOConfig(
            **model.arguments(run.task, recipe, recipe.batch_size, longest), beta=recipe.beta, max_length=None
        ),
        train_dataset=Dataset.from_list([asdict(found) for found in kept]),
        eval_dataset=Dataset.from_list([asdict(found) for found in held_out]) if held_out else None,
        processing_class=run.tokenizer,
    )
    return run.train(trainer, recipe)


def pair(run: TrainingRun, row: Row) -> Pair:
    """One row of OpenAI's format as ids."""
    given, tools = row["input"]["messages"], row["input"].get("tools")
    prompt = render(run.tokenizer, given, tools, answer=True)
    chosen = render(run.tokenizer, [*given, *row["preferred_output"]], tools)
    rejected = render(run.tokenizer, [*given, *row["non_preferred_output"]], tools)
    start = min(shared(prompt, chosen), shared(prompt, rejected))
    return Pair(prompt[:start], chosen[start:], rejected[start:])
