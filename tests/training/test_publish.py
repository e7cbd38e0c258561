"""What reaches the folder of checkpoints, and what does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from service.jobs.published import MARKER, checksum, publish, sha256, whole
from training.errors import TrainingError
from training.publish import check_adapter

BASE = "/models/base"


def adapter(folder: Path, value: float = 1.0, **config: Any) -> None:
    """A LoRA of one layer, whose second factor has this value."""
    tensors = {"q.lora_A.weight": np.ones((4, 8), np.float32), "q.lora_B.weight": np.full((8, 4), value, np.float32)}
    save_file(tensors, folder / "adapter_model.safetensors")
    written = {"peft_type": "LORA", "base_model_name_or_path": BASE, "r": 4, **config}
    (folder / "adapter_config.json").write_text(json.dumps(written))


def put(target: Path, **changes: Any) -> str:
    return publish(
        target, lambda folder: adapter(folder, **changes), lambda folder: check_adapter(folder, BASE, 16), {"step": 3}
    )


def test_a_published_folder_is_whole_and_says_what_it_is(tmp_path: Path) -> None:
    target = tmp_path / "checkpoints" / "ft:base:x:1"
    digest = put(target)
    assert digest == sha256(target / "adapter_model.safetensors") == checksum(target)
    assert json.loads((target / MARKER).read_text())["step"] == 3
    assert whole(target)
    assert [path.name for path in target.parent.iterdir()] == [target.name], "nothing half written is left"


def test_a_byte_that_changed_is_noticed(tmp_path: Path) -> None:
    put(tmp_path / "a")
    (tmp_path / "a" / "adapter_config.json").write_text("{}")
    assert not whole(tmp_path / "a")


def test_what_is_there_already_is_kept_if_it_is_whole(tmp_path: Path) -> None:
    first = put(tmp_path / "a")
    assert put(tmp_path / "a", value=2.0) == first
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    assert put(tmp_path / "a", value=2.0) != first
    assert whole(tmp_path / "a")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"value": 0.0}, "nothing was learnt"),
        ({"value": float("nan")}, "q.lora_B.weight holds values that are not finite"),
        ({"value": float("inf")}, "not finite"),
        ({"r": 32}, "its rank is 32, the engine takes 16 at most"),
        ({"base_model_name_or_path": "other"}, "it was made for other, the engine serves /models/base"),
        ({"peft_type": "IA3"}, "it is a IA3, not a LoRA"),
    ],
)
def test_an_adapter_that_would_do_harm_is_not_published(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(TrainingError, match=why) as caught:
        put(tmp_path / "a", **changes)
    assert caught.value.code == "invalid_weights"
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_is_not_published(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        adapter(folder)
        path = folder / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-10])

    with pytest.raises(TrainingError, match="cannot be read"):
        publish(tmp_path / "a", half, lambda folder: check_adapter(folder, BASE, 16), {})
    with pytest.raises(TrainingError, match="there are none"):
        publish(
            tmp_path / "a",
            lambda folder: (folder / "adapter_config.json").write_text(
                json.dumps({"peft_type": "LORA", "base_model_name_or_path": BASE, "r": 4})
            ),
            lambda folder: check_adapter(folder, BASE, 16),
            {},
        )


def test_an_adapter_for_rollouts_may_have_learnt_nothing_yet(tmp_path: Path) -> None:
    adapter(tmp_path, value=0.0)
    check_adapter(tmp_path, BASE, None, learnt=False)
