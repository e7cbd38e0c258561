"""The adapter that comes with the product: installed for this machine's demo model, or left out with a reason."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from service.app import Parts
from service.engines import bundled, demo_model
from service.engines.bundled import BASE, NAME, NotInstalled
from service.jobs.published import CONFIG, publish, whole
from service.registry import scorers
from service.settings import Settings

WEIGHTS = "adapter_model.safetensors"
CHANGED, KEPT = "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a server that loads no weights beside its model."""
    return Settings(cache_dir=tmp_path / "cache", data_dir=tmp_path / "data", full_models=0)


@pytest.fixture
def source(settings: Settings, tmp_path: Path) -> Path:
    """An adapter for the demo model, as `make adapter` leaves one."""
    return made(tmp_path / "source", demo_model.folder(settings.cache_dir).name)


def made(folder: Path, base: str, value: float = 1.0) -> Path:
    def write(into: Path) -> None:
        changed = f"base_model.model.{CHANGED}".removesuffix("weight")
        factors = {"lora_A.weight": np.ones((4, 8), np.float32), "lora_B.weight": np.full((8, 4), value, np.float32)}
        save_file({changed + name: factor for name, factor in factors.items()}, into / WEIGHTS)
        (into / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 2, BASE: base}))

    about = {"base": base, "method": "supervised", "step": 28, "created_at": 7, "metrics": {"accuracy": 0.65}}
    publish(folder, write, lambda _: None, about)
    return folder


def config(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((settings.data_dir / "checkpoints" / NAME / CONFIG).read_text())
    return found


def test_it_is_installed_for_the_model_of_this_machine(settings: Settings, source: Path) -> None:
    checkpoint = bundled.install(settings, source)
    assert (checkpoint.name, checkpoint.parent, checkpoint.form, checkpoint.step) == (NAME, "smollm2", "adapter", 28)
    assert checkpoint == bundled.installed(settings, source)
    assert config(settings)[BASE] == str(demo_model.folder(settings.cache_dir))
    assert whole(settings.data_dir / checkpoint.path)


def test_a_second_start_writes_nothing(settings: Settings, source: Path) -> None:
    first = settings.data_dir / bundled.install(settings, source).path
    inode = first.stat().st_ino
    bundled.install(settings, source)
    assert first.stat().st_ino == inode


def test_a_cache_folder_elsewhere_and_a_new_version_replace_it(
    settings: Settings, source: Path, tmp_path: Path
) -> None:
    first = bundled.install(settings, source)
    moved = settings.model_copy(update={"cache_dir": tmp_path / "elsewhere"})
    bundled.install(moved, source)
    assert config(settings)[BASE].startswith(str(tmp_path / "elsewhere"))
    newer = made(tmp_path / "newer", demo_model.folder(settings.cache_dir).name, value=2.0)
    assert bundled.install(moved, newer).sha256 != first.sha256


def test_what_was_damaged_after_it_was_installed_is_repaired(settings: Settings, source: Path) -> None:
    target = settings.data_dir / bundled.install(settings, source).path
    (target / WEIGHTS).write_bytes(b"")
    bundled.install(settings, source)
    assert whole(target)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")])
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "outthink.json"])
def test_a_damaged_one_is_not_installed(settings: Settings, source: Path, name: str, damage: Any) -> None:
    damage(source / name)
    with pytest.raises(NotInstalled, match="damaged or missing"):
        bundled.install(settings, source)
    assert not (settings.data_dir / "checkpoints" / NAME).exists()


def test_on_a_cpu_it_is_merged_into_the_model_once(settings: Settings, source: Path) -> None:
    """W + alpha / r · B · A: here 1 + 2 / 4 · 4."""
    base = demo_model.folder(settings.cache_dir)
    base.mkdir(parents=True)
    weights = {CHANGED: np.ones((8, 8), np.float32), KEPT: np.ones(8, np.float32)}
    save_file(weights, base / "model.safetensors")
    for name in demo_model.NEEDED:
        (base / name).touch()
    on_cpu = settings.model_copy(update={"full_models": 1})
    checkpoint = bundled.install(on_cpu, source)
    merged = load_file(Path(checkpoint.path) / "model.safetensors")
    assert (checkpoint.form, merged[CHANGED].tolist()) == ("merged", np.full((8, 8), 3.0).tolist())
    assert merged[KEPT].tolist() == weights[KEPT].tolist()
    written = (Path(checkpoint.path) / "model.safetensors").stat().st_mtime_ns
    assert bundled.install(on_cpu, source) == checkpoint
    assert (Path(checkpoint.path) / "model.safetensors").stat().st_mtime_ns == written


def test_without_the_model_nothing_is_merged_and_it_says_so(settings: Settings, source: Path) -> None:
    with pytest.raises(NotInstalled, match=r"could not be merged: .*No such file"):
        bundled.install(settings.model_copy(update={"full_models": 1}), source)


async def test_the_server_starts_without_one_for_another_base_and_says_so(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = made(tmp_path / "other", "another-model")
    monkeypatch.setattr(bundled.install, "__defaults__", (other,))
    parts = Parts(settings, {}, scorers.load({}), None, None, manage=True)
    with caplog.at_level(logging.WARNING):
        assert await parts.bundled() == {}
    assert "smollm2-sums is not served: it was trained on another-model" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [{"model": "some/model"}, {"engine_url": "http://127.0.0.1:1/v1"}, {"vllm_args": "--no-enable-lora"}],
    ids=str,
)
async def test_it_is_for_the_demo_model_that_takes_adapters(settings: Settings, changes: dict[str, str]) -> None:
    parts = Parts(settings.model_copy(update=changes), {}, scorers.load({}), None, None, manage=True)
    assert await parts.bundled() == {}
    assert not (settings.data_dir / "checkpoints").exists()
