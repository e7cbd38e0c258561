"""What a trainer reports while it runs, when it saves, and how it stops."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.metrics import headline, metrics, table, trained_tokens
from training.recipe import Recipe
from training.task import Facts, Note, Report

SAVE_SECONDS = 60.0
"""How much work a worker that dies may lose, when the job does not say it in steps."""

FACTS = {"loss": "train_loss", "reward": "train_reward", "learning_rate": "learning_rate"}
"""What of the last step a job shows, and what it is called among the metrics."""

Send = Callable[[Report], None]


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
        if step == self.recipe.total_steps:
            return  # what comes next is publishing
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
        left = self.seconds_left(step)
        data = {"step": step, "total_steps": total, **found, "eta_seconds": left}
        self.send(Note(headline(step, total, found), data))
        if "train_loss" not in found:
            return
        facts = {"step": step, "total_steps": total, "trained_tokens": trained_tokens(table(state.log_history))}
        facts |= {fact: found[name] for fact, name in FACTS.items() if name in found}
        self.send(Facts(facts | {"eta_seconds": left, "estimated_finish": int(time.time() + left)}))
        if step in self.to_publish:
            self.publish(step, dict(self.known))

    def seconds_left(self, step: int) -> float:
        """By the steps since the training was begun or taken up."""
        pace = (time.monotonic() - self.began) / max(step - self.first, 1)
        return round(pace * (self.recipe.total_steps - step), 1)
