"""Direct preference optimisation (Rafailov et al., 2023, arXiv:2305.18290): the preferred answer becomes likelier than
the other, relative to the model that training began with; `beta` holds it there.

The likelihood of both may fall, as long as that of the other falls more. With `rpo_alpha` SFT's loss on the preferred
answer is added, so that its own rises (Pang et al., 2024, arXiv:2404.19733; Llama 3 did so with 0.2).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from training import model
from training.conversations import render, shared
from training.recipe import Recipe
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
            **model.arguments(run.task, recipe, recipe.batch_size, longest),
            **losses(recipe),
            beta=recipe.beta,
            max_length=None,
        ),
        train_dataset=Dataset.from_list([asdict(found) for found in kept]),
        eval_dataset=Dataset.from_list([asdict(found) for found in held_out]) if held_out else None,
        processing_class=run.tokenizer,
    )
    return run.train(trainer, recipe)


def losses(recipe: Recipe) -> dict[str, Any]:
    """DPO's loss, and so much of SFT's: a mean over the tokens of the preferred answers. TRL once called it
    `rpo_alpha`, too."""
    if recipe.rpo_alpha is None:
        return {"loss_type": ["sigmoid"]}
    return {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, recipe.rpo_alpha]}


def pair(run: TrainingRun, row: Row) -> Pair:
    """One row of OpenAI's format as ids."""
    given, tools = row["input"]["messages"], row["input"].get("tools")
    prompt = render(run.tokenizer, given, tools, answer=True)
    chosen = render(run.tokenizer, [*given, *row["preferred_output"]], tools)
    rejected = render(run.tokenizer, [*given, *row["non_preferred_output"]], tools)
    start = min(shared(prompt, chosen), shared(prompt, rejected))
    return Pair(prompt[:start], chosen[start:], rejected[start:])
