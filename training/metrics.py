"""What a trainer measured, under our names, and what it saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
