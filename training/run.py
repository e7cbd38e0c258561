"""One job being done: its model, its numbers, its trainer from the first or the last saved step, its checkpoints."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from transformers import Trainer

from service.jobs import rows
from service.jobs.methods import METHODS
from service.jobs.published import publish
from service.jobs.records import Checkpoint
from strategies.errors import EngineError
from training import model
from training.conversations import hides
from training.engine import Serving
from training.errors import Paused, TrainingError
from training.metrics import last_save, table, trained_tokens
from training.model import Weights
from training.progress import Progress, Send
from training.publish import check_adapter, check_weights
from training.recipe import Recipe, longest, resolve
from training.task import Done, Facts, Note, Published, Task

Row = dict[str, Any]


class TrainingRun:
    """What the methods share. `stopping` is set when the job is to stop where it is."""

    def __init__(self, task: Task, send: Send, stopping: Event) -> None:
        self.task, self.send, self.stopping = task, send, stopping
        self.spec = task.spec
        self.method = METHODS[task.spec.method]
        own_weights = task.parent is not None and task.parent.form == "merged"
        self.serving = Serving(task.settings, task.job.model, own_weights=own_weights)
        self.base = self.serving.base()
        self.parent: Path | None = None
        if task.parent is not None:
            folder = task.data / task.parent.path
            if task.parent.form == "adapter":
                self.parent = folder
            else:
                self.base = self.serving.merged(folder)
        self.room = model.room(self.base, self.parent)
        self.tokenizer = model.tokenizer(self.base)

    def close(self) -> None:
        self.serving.close()

    @property
    def max_length(self) -> int:
        return longest(self.spec, self.room)

    def rows(self) -> tuple[list[Row], list[Row]]:
        """The rows of the training and of the validation file; a question becomes a conversation."""
        training = self.read("training_file", self.task.training)
        tools = next(filter(None, map(self.method.tools, training)), None)
        if tools and hides(self.tokenizer, tools):
            self.send(Note("the model's chat template does not show tools or calls: they are left out", level="warn"))
        return training, self.read("validation_file", self.task.validation)

    def read(self, param: str, path: Path | None) -> list[Row]:
        try:
            return [self.method.prepare(row) for row in rows.read(path, self.method.row)] if path else []
        except rows.BadLine as error:
            raise TrainingError(f"{param}: {error}", param) from error

    def recipe(self, examples: int) -> Recipe:
        """The numbers for so many examples, shown in the job."""
        if not examples:
            raise TrainingError("the training file has nothing to learn from", "training_file")
        recipe = resolve(self.spec, examples, self.room)
        self.send(Facts({"hyperparameters": recipe.describe(), "total_steps": recipe.total_steps}))
        return recipe

    def weights(self, recipe: Recipe) -> Weights:
        return model.load(self.base, recipe, self.parent)

    def pause_if_asked(self) -> None:
        if self.stopping.is_set():
            raise Paused

    def train(self, trainer: Trainer, recipe: Recipe) -> Done:
        """Run the trainer, from its last save if there is one, and publish what came out."""

        def publish_epoch(step: int, metrics: dict[str, float]) -> None:
            if self.spec.outthink.publish == "adapter":  # merging would end the training
                self.publish(trainer, step, metrics, last=False)

        extras = self.spec.outthink
        trainer.add_callback(Progress(recipe, self.send, self.stopping, publish_epoch, extras.save_steps))
        save = last_save(self.task.folder)
        if save is not None:
            self.send(Note(f"Going on from step {save.rpartition('-')[2]}"))
            # DPO's reference is made anew from the parent; where the trainer finds it saved, it loads nothing else.
            shutil.rmtree(Path(save, "ref"), ignore_errors=True)
        trainer.train(resume_from_checkpoint=save)
        if trainer.state.global_step < recipe.total_steps:
            raise Paused
        measured = table(trainer.state.log_history)
        known = {name: value for row in measured for name, value in row.items()}
        self.publish(trainer, recipe.total_steps, known, last=True)
        return Done({"fine_tuned_model": self.task.name(), "trained_tokens": trained_tokens(measured)}, measured)

    def warm(self, name: str, target: Path) -> None:
        """Have the engine load an adapter; one that it refuses does not stay. An engine that is down loads it later."""
        try:
            self.serving.run(self.serving.load(name, target))
        except TrainingError:
            shutil.rmtree(target)
            raise
        except EngineError as error:
            self.send(Note(f"{name} will be loaded by its first request: {error}", level="warn"))

    def publish(self, trainer: Trainer, step: int, metrics: dict[str, float], *, last: bool) -> None:
        """Put the weights in place, have the engine load them, and say so; the last ones must have learnt something."""
        merged = self.spec.outthink.publish == "merged"
        name = self.task.name(None if last else step)
        target = self.task.target(name)
        write = model.save_merged if merged else model.save
        fits = partial(check_adapter, base=self.base.name, max_rank=self.base.max_rank, learnt=last)
        checks = check_weights if merged else fits
        about = {"name": name, "job": self.task.job.id, "step": step, "method": self.spec.method}
        weights = trainer.accelerator.unwrap_model(trainer.model)
        checksum = publish(target, lambda folder: write(weights, self.base, folder), checks, about)
        if not merged:
            self.warm(name, target)
        checkpoint = Checkpoint(
            name=name,
            job_id=self.task.job.id,
            parent=self.task.job.model,
            method=self.spec.method,
            form="merged" if merged else "adapter",
            step=step,
            path=str(target.relative_to(self.task.data)),
            sha256=checksum,
            metrics=metrics | {"step": step},
            created_at=int(time.time()),
        )
        self.send(Published(checkpoint))
