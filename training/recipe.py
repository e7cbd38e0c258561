"""Every number that a job leaves to us, in one place; a job shows what was chosen as its `hyperparameters`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from service.jobs.methods import METHODS
from service.jobs.methods.base import Asked, choose
from service.jobs.training import TrainingSpec
from training.errors import TrainingError

FEW, MOST_EPOCHS = 100, 25
"""Fewer examples than this are shown more often, but not more often than that."""
RANK, ALPHA = 16, 32
EVALUATIONS = 10
PUBLISHED = 3
"""How many of the last epochs are published, as OpenAI does; the last one is the job's result."""


@dataclass(frozen=True, slots=True)
class Room:
    """What the model and the engine allow: the model's width, its context, the largest LoRA rank that the engine takes
    (None: unknown; 0: it takes no adapters), and rank and alpha of an adapter that is trained further."""

    hidden: int
    context: int
    max_rank: int | None = None
    adapter: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """The numbers of one training; None where its method has no such thing."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    learning_rate: float
    max_length: int
    steps_per_epoch: int
    total_steps: int
    rank: int | None = None
    alpha: int | None = None
    beta: float | None = None
    rpo_alpha: float | None = None
    samples: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    compute_multiplier: float | None = None
    publish_every: int | None = None
    kl: float | None = None
    rollouts: int | None = None
    eval_interval: int | None = None
    eval_samples: int | None = None

    def describe(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def published_epochs(self) -> range:
        """The epochs, counted from 1, whose ends are published before the last one's."""
        return range(max(1, self.n_epochs - PUBLISHED + 1), self.n_epochs)


def resolve(spec: TrainingSpec, rows: int, room: Room) -> Recipe:
    """The numbers for a training on so many rows; raise TrainingError where it cannot be."""
    asked, extras, method = spec.hyperparameters, spec.outthink, METHODS[spec.method]
    batch = min(choose(asked.batch_size, method.batch), rows)
    per_epoch = rows // batch if method.whole_batches else -(-rows // batch)
    total = per_epoch * choose(asked.n_epochs, epochs(spec.method, rows))
    total = min(total, extras.max_steps or total)
    multiplier = choose(asked.learning_rate_multiplier, 1.0)
    own = learning_rate(spec.method, room.hidden, full=extras.weights == "full")
    rank, alpha = (None, None) if extras.weights == "full" else adapter(spec, room)
    recipe = Recipe(
        n_epochs=-(-total // per_epoch),
        batch_size=batch,
        learning_rate_multiplier=multiplier,
        learning_rate=(extras.learning_rate or own) * multiplier,
        max_length=longest(spec, room),
        steps_per_epoch=per_epoch,
        total_steps=total,
        rank=rank,
        alpha=alpha,
        eval_interval=max(1, total // EVALUATIONS) if spec.validation_file else None,
    )
    return replace(recipe, **method.numbers(Asked(asked, extras, room.context, recipe.eval_interval)))


def longest(spec: TrainingSpec, room: Room) -> int:
    """The most tokens of a conversation."""
    return min(spec.outthink.max_length or room.context, room.context)


def epochs(method: str, rows: int) -> int:
    """More for few rows, as OpenAI's own default was (its cookbook, "Data preparation for chat model fine-tuning")."""
    return max(METHODS[method].epochs, min(MOST_EPOCHS, FEW // rows))


def learning_rate(method: str, hidden: int, *, full: bool) -> float:
    """5e-4 · (2000 / width)^0.78 for LoRA, a tenth for all weights.

    Ten times is what "LoRA Without Regret" (Schulman et al., 2025) found between the two, at alpha 32; the power is
    its authors' fit over Llama models (tinker-cookbook, `hyperparam_utils`).
    """
    rate: float = 5e-4 * (2000 / hidden) ** 0.781
    return rate * (0.1 if full else 1) * METHODS[method].learning_rate


def adapter(spec: TrainingSpec, room: Room) -> tuple[int, int]:
    """Rank and alpha: what was asked for, those of the adapter that is trained further, or ours."""
    extras = spec.outthink
    if room.adapter is not None:
        if (extras.rank or room.adapter[0], extras.alpha or room.adapter[1]) != room.adapter:
            raise TrainingError(
                f"{spec.method} goes on with an adapter of rank {room.adapter[0]} and alpha {room.adapter[1]}: "
                "leave rank and alpha out",
                "outthink.rank",
            )
        return room.adapter
    served = extras.publish == "adapter" or METHODS[spec.method].rollouts == "adapter"
    limit = room.max_rank if served else None
    if limit == 0:
        raise TrainingError("the engine was told to serve no adapters (OUTTHINK_VLLM_ARGS)", "outthink.publish")
    rank = extras.rank or min(RANK, limit or RANK)
    if limit is not None and rank > limit:
        raise TrainingError(
            f"the engine takes adapters of rank {limit} at most, not {rank}: lower it, raise the engine's "
            "--max-lora-rank (OUTTHINK_VLLM_ARGS), or publish merged weights",
            "outthink.rank",
        )
    return rank, extras.alpha or ALPHA
