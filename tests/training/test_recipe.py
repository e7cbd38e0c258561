"""The numbers that a job leaves to us."""

from __future__ import annotations

from typing import Any

import pytest

from service.engines import command
from service.settings import Settings
from tests.training.support import spec
from training.engine import lora_rank
from training.errors import TrainingError
from training.recipe import Recipe, Room, learning_rate, resolve

ROOM = Room(hidden=576, context=8192, max_rank=16)


def recipe(method: str = "supervised", rows: int = 160, room: Room = ROOM, **asked: Any) -> Recipe:
    return resolve(spec(method, **asked), rows, room)


def test_everything_has_a_number() -> None:
    found = recipe()
    assert (found.n_epochs, found.batch_size, found.steps_per_epoch, found.total_steps) == (3, 16, 10, 30)
    assert (found.rank, found.alpha, found.max_length) == (16, 32, 8192)
    assert found.learning_rate == pytest.approx(1.32e-3, rel=0.01)
    assert "beta" not in found.describe()
    assert "eval_interval" not in found.describe()


@pytest.mark.parametrize(("rows", "epochs"), [(1, 25), (4, 25), (10, 10), (33, 3), (50, 3), (10_000, 3)])
def test_few_rows_are_shown_more_often(rows: int, epochs: int) -> None:
    assert recipe(rows=rows).n_epochs == epochs


def test_what_was_asked_for_is_honoured() -> None:
    found = recipe(n_epochs=2, batch_size=8, learning_rate_multiplier=0.5, extras={"learning_rate": 0.01, "rank": 4})
    assert (found.n_epochs, found.batch_size, found.learning_rate, found.rank) == (2, 8, 0.005, 4)
    assert recipe("dpo", beta=0.5).beta == 0.5
    assert recipe("dpo", extras={"rpo_alpha": 0.2}).rpo_alpha == 0.2
    assert "rpo_alpha" not in recipe("dpo").describe()
    assert recipe("reinforcement", compute_multiplier=2.0).samples == 16
    assert recipe("reinforcement", compute_multiplier=2.0, extras={"samples": 6}).samples == 12
    assert recipe("reinforcement", extras={"kl": 0.04, "publish_every": 3, "temperature": 0.7}).describe().items() >= {
        ("kl", 0.04),
        ("publish_every", 3),
        ("temperature", 0.7),
    }
    assert recipe("verifier", extras={"rollouts": 2, "samples": 3}).rollouts == 2
    assert recipe(extras={"max_length": 100}).max_length == 100


def test_max_steps_ends_a_training_early() -> None:
    found = recipe(extras={"max_steps": 11})
    assert (found.total_steps, found.n_epochs) == (11, 2)
    assert recipe(extras={"max_steps": 99}).total_steps == 30


def test_a_batch_is_no_larger_than_the_file() -> None:
    assert recipe(rows=3).batch_size == 3


def test_reinforcement_leaves_the_incomplete_batch_out() -> None:
    assert recipe("reinforcement", rows=11, n_epochs=1).total_steps == 2


def test_validation_is_looked_at_ten_times() -> None:
    assert recipe(validation_file="file-2").eval_interval == 3
    found = recipe("reinforcement", rows=40, validation_file="file-2", eval_interval=4, eval_samples=2)
    assert (found.eval_interval, found.eval_samples) == (4, 2)


def test_the_last_three_epochs_are_published() -> None:
    assert list(recipe().published_epochs) == [1, 2]
    assert list(recipe(n_epochs=6).published_epochs) == [4, 5]
    assert list(recipe(n_epochs=1).published_epochs) == []


def test_full_weights_have_no_rank_and_a_lower_rate() -> None:
    found = recipe(extras={"weights": "full", "publish": "merged"})
    assert found.rank is None
    assert found.learning_rate == pytest.approx(recipe().learning_rate / 10)


def test_wider_models_learn_slower_and_preferences_more_gently() -> None:
    assert learning_rate("supervised", 4096, full=False) == pytest.approx(2.86e-4, rel=0.01)
    assert learning_rate("dpo", 4096, full=False) == pytest.approx(2.86e-5, rel=0.01)


def test_a_rank_that_the_engine_does_not_take_is_refused() -> None:
    with pytest.raises(TrainingError, match="rank 16 at most, not 32") as caught:
        recipe(extras={"rank": 32})
    assert caught.value.param == "outthink.rank"
    assert recipe(extras={"rank": 32, "publish": "merged"}).rank == 32, "merged weights have no rank"
    with pytest.raises(TrainingError, match="rank 16 at most"):
        recipe("reinforcement", extras={"rank": 32, "publish": "merged"})
    assert recipe(room=Room(576, 8192, max_rank=8)).rank == 8
    assert recipe(room=Room(576, 8192), extras={"rank": 256}).rank == 256, "who does not say what it takes may take it"
    with pytest.raises(TrainingError, match="told to serve no adapters"):
        recipe(room=Room(576, 8192, max_rank=0))


def test_an_adapter_keeps_its_size_when_it_is_trained_further() -> None:
    room = Room(576, 8192, 16, adapter=(8, 24))
    assert (recipe(room=room).rank, recipe(room=room).alpha) == (8, 24)
    with pytest.raises(TrainingError, match="rank 8 and alpha 24"):
        recipe(room=room, extras={"rank": 16})


@pytest.mark.parametrize(
    ("arguments", "cpu", "rank"),
    [
        ("", True, 16),
        ("", False, 64),
        ("--max-lora-rank 8", True, 8),
        ("--max_lora_rank=32", False, 32),
        ("--no-enable-lora", True, 0),
    ],
)
def test_the_managed_engine_says_which_ranks_it_takes(
    arguments: str, cpu: bool, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "on_cpu", lambda: cpu)
    assert lora_rank(Settings(vllm_args=arguments)) == rank
