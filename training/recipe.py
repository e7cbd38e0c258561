"""Every number that a job leaves to us, in one place; a job shows what was chosen as its `hyperparameters`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

from service.jobs.training import Dpo, Method, Reinforcement, ReinforcementExtras, TrainingSpec, VerifierExtras
from training.errors import TrainingError

T = TypeVar("T")

BATCH: dict[Method, int] = {"supervised": 16, "dpo": 16, "reinforcement": 4, "verifier": 16}
EPOCHS: dict[Method, int] = {"supervised": 3, "dpo": 1, "reinforcement": 1, "verifier": 1}
FEW, MOST_EPOCHS = 100, 25
"""Fewer examples than this are shown more often, but not more often than that."""
GENTLE = 0.1
"""DPO and GRPO, which begin with a model that can do the task, take this part of SFT's learning rate."""
RANK, ALPHA = 16, 32
GROUP = 8
SOLUTIONS, ROLLOUTS = 8, 4
MAX_TOKENS = 512
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
    samples: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    compute_multiplier: float | None = None
    publish_every: int | None = None
    kl: float | None = None
    rollouts: int | None = None
    eval_interval: int | None = None
    eval_samples: int | None = None

    def shown(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def published_epochs(self) -> range:
        """The epochs, counted from 1, whose ends are published before the last one's."""
        return range(max(1, self.n_epochs - PUBLISHED + 1), self.n_epochs)


def resolve(spec: TrainingSpec, rows: int, room: Room) -> Recipe:
    """The numbers for a training on so many rows; raise TrainingError where it cannot be."""
    asked, extras = spec.hyperparameters, spec.outthink
    batch = min(chosen(asked.batch_size, BATCH[spec.method]), rows)
    # TRL leaves the incomplete last batch of an epoch of reinforcement out.
    per_epoch = rows // batch if spec.method == "reinforcement" else -(-rows // batch)
    total = per_epoch * chosen(asked.n_epochs, epochs(spec.method, rows))
    total = min(total, extras.max_steps or total)
    multiplier = chosen(asked.learning_rate_multiplier, 1.0)
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
    return of_method(recipe, spec, room)


def of_method(recipe: Recipe, spec: TrainingSpec, room: Room) -> Recipe:
    """With the numbers that only one method has."""
    match spec.hyperparameters, spec.outthink:
        case Dpo() as asked, _:
            return replace(recipe, beta=chosen(asked.beta, 0.1))
        case Reinforcement() as asked, ReinforcementExtras() as extras:
            multiplier = chosen(asked.compute_multiplier, 1.0)
            interval = chosen(asked.eval_interval, recipe.eval_interval or 0)
            return replace(
                recipe,
                compute_multiplier=multiplier,
                samples=max(2, round((extras.samples or GROUP) * multiplier)),
                max_tokens=min(extras.max_tokens or MAX_TOKENS, room.context - 1),
                temperature=extras.temperature or 1.0,
                publish_every=extras.publish_every or 1,
                kl=extras.kl or 0.0,
                eval_interval=interval if spec.validation_file else None,
                eval_samples=chosen(asked.eval_samples, 1) if spec.validation_file else None,
            )
        case _, VerifierExtras() as extras:
            return replace(
                recipe,
                samples=extras.samples or SOLUTIONS,
                rollouts=extras.rollouts or ROLLOUTS,
                max_tokens=min(extras.max_tokens or MAX_TOKENS, room.context - 1),
                temperature=extras.temperature or 0.8,
            )
    return recipe


def longest(spec: TrainingSpec, room: Room) -> int:
    """The most tokens of a conversation."""
    return min(spec.outthink.max_length or room.context, room.context)


def chosen(value: Literal["auto"] | T, otherwise: T) -> T:
    return otherwise if isinstance(value, str) else value


def epochs(method: Method, rows: int) -> int:
    """More for few rows, as OpenAI's own default was (its cookbook, "Data preparation for chat model fine-tuning")."""
    return max(EPOCHS[method], min(MOST_EPOCHS, FEW // rows))


def learning_rate(method: Method, hidden: int, *, full: bool) -> float:
    """5e-4 · (2000 / width)^0.78 for LoRA, a tenth for all weights.

    Ten times is what "LoRA Without Regret" (Schulman et al., 2025) found between the two, at alpha 32; the power is
    its authors' fit over Llama models (tinker-cookbook, `hyperparam_utils`).
    """
    rate: float = 5e-4 * (2000 / hidden) ** 0.781
    return rate * (0.1 if full else 1) * (GENTLE if method in ("dpo", "reinforcement") else 1)


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
    served = extras.publish == "adapter" or spec.method == "reinforcement"  # whose rollouts need an adapter
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
