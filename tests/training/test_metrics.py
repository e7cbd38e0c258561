"""What a trainer's log becomes, and which of its saves is gone on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.metrics import headline, last_save, metrics, table, trained_tokens


def test_a_log_line_gets_our_names_and_loses_the_rest() -> None:
    assert metrics({"loss": "0.5", "epoch": 1.0, "num_tokens": 10, "rewards/margins": 2.0}) == {
        "train_loss": 0.5,
        "tokens": 10.0,
        "train_reward_margin": 2.0,
    }
    assert metrics({"eval_loss": 0.25, "eval_runtime": 3.0, "eval_num_tokens": 10}) == {"valid_loss": 0.25}
    assert metrics({"train_runtime": 3.0, "train_loss": 0.5, "total_flos": 1.0}) == {}


def test_training_and_validation_of_a_step_share_a_row() -> None:
    history: list[dict[str, Any]] = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.0},
        {"step": 2, "eval_loss": 1.5},
        {"step": 2, "x": 1},
    ]
    assert table(history) == [{"step": 1, "train_loss": 2.0}, {"step": 2, "train_loss": 1.0, "valid_loss": 1.5}]


def test_tokens_are_counted_over_restarts() -> None:
    assert trained_tokens([]) == 0
    assert trained_tokens([{"tokens": 10.0}, {"tokens": 25.0}, {"step": 3}]) == 25
    assert trained_tokens([{"tokens": 10.0}, {"tokens": 25.0}, {"tokens": 5.0}, {"tokens": 8.0}]) == 33


def test_a_step_is_told_in_one_line() -> None:
    assert headline(3, 10, {"train_loss": 0.12345, "train_reward": 1.0, "grad_norm": 2.0}) == (
        "Step 3/10: training loss=0.1235, training reward=1"
    )


def test_the_newest_whole_save_is_gone_on_from(tmp_path: Path) -> None:
    assert last_save(tmp_path) is None
    for step, state in ((9, "{}"), (10, "{}"), (11, '{"half'), (12, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_save(tmp_path) == str(tmp_path / "checkpoint-10")
