"""Base weights, the adapter on them, and what all trainers are told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import trl.trainer.utils
from peft import LoraConfig, PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from service.engines.command import context_length
from service.jobs.methods import METHODS
from service.jobs.published import CONFIG
from training.engine import Base
from training.recipe import Recipe, Room
from training.task import Task

GPU = torch.cuda.is_available()
BFLOAT16 = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
"""Whether the CPU multiplies bfloat16, which takes half the time or less, whatever the weights are kept in. Its steps
are coarse for methods that learn from small differences between two sums of log-probabilities."""
if not GPU:
    # Where there is no Triton, TRL scores every position, taught or not, for compilers that want the same sizes always.
    trl.trainer.utils._use_triton = lambda device: True
TOKENS_AT_ONCE = 16_384 if GPU else 2_048
"""Tokens of one forward and backward pass; longer batches are accumulated."""

UNKNOWN_CONTEXT = 4096


def room(base: Base, parent: Path | None) -> Room:
    """What the model's configuration and the engine allow."""
    config = AutoConfig.from_pretrained(base.weights)
    adapter = None
    if parent is not None:
        known = json.loads((parent / CONFIG).read_text())
        adapter = int(known["r"]), int(known["lora_alpha"])
    context = context_length(config.to_dict()) or UNKNOWN_CONTEXT
    return Room(config.get_text_config().hidden_size, context, base.max_rank, adapter)


def tokenizer(base: Base) -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base.weights)
    return found


@dataclass(frozen=True, slots=True)
class Weights:
    """A model and, where it is to get a new adapter, that adapter's configuration."""

    model: PreTrainedModel | PeftModel
    adapter: LoraConfig | None = None


def load(base: Base, recipe: Recipe, parent: Path | None) -> Weights:
    """What is to be trained: all weights, the adapter of `parent`, or a new one."""
    full = recipe.rank is None  # small steps of weights would be lost in bfloat16
    dtype = torch.bfloat16 if GPU and not full else torch.float32
    model = AutoModelForCausalLM.from_pretrained(base.weights, dtype=dtype)
    if full:
        return Weights(model)
    if parent is not None:
        return Weights(PeftModel.from_pretrained(model, str(parent), is_trainable=True))
    lora = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return Weights(model, lora)


def divided(batch: int, longest: int) -> int:
    """The largest part of a batch that is done at once: a divisor, so that all parts are alike."""
    parts = (part for part in range(1, batch + 1) if batch % part == 0)
    return max(part for part in parts if part == 1 or part * longest <= TOKENS_AT_ONCE)


def arguments(task: Task, recipe: Recipe, sequences: int, longest: int) -> dict[str, Any]:
    """What every trainer is told; a step is of so many sequences, the longest of so many tokens."""
    part = divided(sequences, longest)
    evaluated = {"eval_strategy": "steps", "eval_steps": recipe.eval_interval} if recipe.eval_interval else {}
    return {
        "output_dir": str(task.folder),
        "per_device_train_batch_size": part,
        "per_device_eval_batch_size": part,
        "gradient_accumulation_steps": sequences // part,
        "learning_rate": recipe.learning_rate,
        "max_steps": recipe.total_steps,
        "seed": task.spec.seed % 2**32,
        "use_cpu": not GPU,
        "bf16": GPU or (BFLOAT16 and METHODS[task.spec.method].bfloat16),
        "gradient_checkpointing": GPU,
        "dataloader_pin_memory": GPU,
        "logging_steps": max(1, recipe.total_steps // 500),
        "logging_first_step": True,
        "warmup_steps": recipe.total_steps // 20,
        "save_strategy": "no",  # when to save is for `Progress` to say
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
        **evaluated,
    }


def save(model: PreTrainedModel | PeftModel, base: Base, folder: Path) -> None:
    """Write an adapter that names its base as the engine does."""
    assert isinstance(model, PeftModel)
    model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": base.name}, indent=1))


def save_merged(model: PreTrainedModel | PeftModel, base: Base, folder: Path) -> None:
    """Write whole weights and all that it takes to serve them. The model is of no use afterwards."""
    whole: PreTrainedModel = model.merge_and_unload() if isinstance(model, PeftModel) else model
    whole.to(torch.bfloat16).save_pretrained(folder)
    tokenizer(base).save_pretrained(folder)
