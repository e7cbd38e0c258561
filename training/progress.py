"""What a trainer reports while it runs, and how it stops and is taken up again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.recipe import Recipe
from training.task import Facts, Note, Report

NAMES = {
    "loss": "loss",
    "mean_token_accuracy": "mean_token_accuracy",
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "zero_variance_groups",
    "completions/mean_length": "mean_tokens",
    "completions/clipped_ratio": "cut_completions",
    "kl": "kl",
    "entropy": "entropy",
}
"""TRL's names of what is measured on the training and on the validation set, and ours behind `train_` and `valid_`."""

PLAIN = {"learning_rate": "learning_rate", "grad_norm": "grad_norm", "num_tokens": "tokens"}

SAVE_SECONDS = 60.0
"""How much work a worker that dies may lose, when the job does not say it in steps."""

Send = Callable[[Report], None]


def metrics(logs: Mapping[str, Any]) -> dict[str, float]:
    """What a line of the trainer's log says, under our names."""
    found: dict[str, float] = {}
    for name, value in logs.items():
        if name in PLAIN:
            found[PLAIN[name]] = float(value)
        elif (ours := NAMES.get(name.removeprefix("eval_"))) is not None:
            found[f"{'valid' if name.startswith('eval_') else 'train'}_{ours}"] = float(value)
    return found


def table(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """A row for every step that was logged, from the trainer's memory, which survives a restart."""
    rows: dict[int, dict[str, float]] = {}
    for line in history:
        if found := metrics(line):
            rows.setdefault(line["step"], {"step": line["step"]}).update(found)
    return [rows[step] for step in sorted(rows)]


def trained_tokens(rows: list[dict[str, float]]) -> int:
    """Tokens of all rows: the trainer counts them anew after a restart."""
    counts = [row["tokens"] for row in rows if "tokens" in row]
    return int(sum(now - before if now >= before else now for before, now in zip([0.0, *counts], counts, strict=False)))


class Progress(TrainerCallback):
    """Reports every logged step, saves now and then, publishes at the ends of epochs, and stops when it is asked to."""

    def __init__(
        self,
        recipe: Recipe,
        send: Send,
        stopping: Event,
        publish: Callable[[int, dict[str, float]], None],
        save_steps: int | None = None,
    ) -> None:
        self.recipe, self.send, self.stopping = recipe, send, stopping
        self.publish, self.save_steps = publish, save_steps
        self.to_publish = {recipe.steps_per_epoch * epoch for epoch in recipe.published_epochs}
        self.began = self.saved = time.monotonic()
        self.first = 0
        self.known: dict[str, float] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.began = self.saved = time.monotonic()
        self.first = state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, now = state.global_step, time.monotonic()
        if step in self.to_publish:
            control.should_log = True
        due = now - self.saved > SAVE_SECONDS if self.save_steps is None else step % self.save_steps == 0
        if due or self.stopping.is_set():
            control.should_save = True
            self.saved = now
        if self.stopping.is_set():
            control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        found = metrics(logs or {})
        if not found:
            return
        step, total = state.global_step, self.recipe.total_steps
        self.known |= found
        self.send(Note(headline(step, total, found), {"step": step, "total_steps": total, **found}))
        if "train_loss" not in found:
            return
        self.send(Facts(self.facts(step, total, found, trained_tokens(table(state.log_history)))))
        if step in self.to_publish:
            self.publish(step, dict(self.known))

    def facts(self, step: int, total: int, found: dict[str, float], tokens: int) -> dict[str, Any]:
        """How far the training is; the time left goes by the steps since it was begun or taken up."""
        pace = (time.monotonic() - self.began) / max(step - self.first, 1)
        facts: dict[str, Any] = {"step": step, "total_steps": total, "trained_tokens": tokens}
        named = {"loss": "train_loss", "reward": "train_reward", "learning_rate": "learning_rate"}
        facts |= {fact: found[name] for fact, name in named.items() if name in found}
        left = pace * (total - step)
        return facts | {"eta_seconds": round(left, 1), "estimated_finish": int(time.time() + left)}


def headline(step: int, total: int, found: Mapping[str, float]) -> str:
    """One line for people, as OpenAI words it."""
    words = {
        "train_loss": "training loss",
        "train_reward": "training reward",
        "valid_loss": "validation loss",
        "valid_reward": "validation reward",
    }
    said = ", ".join(f"{text}={found[name]:.4g}" for name, text in words.items() if name in found)
    return f"Step {step}/{total}: {said}"


def last_save(folder: Path) -> str | None:
    """The newest whole save of a trainer; its state is what the trainer writes last."""
    saves = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if readable(path)]
    newest = max(saves, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


def readable(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True
