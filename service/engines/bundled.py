"""The checkpoint that comes with the product: `smollm2-sums`, an adapter of the demo model.

`make adapter` trains it (benchmarks/adapter.py). A server that starts the demo model itself installs it: as an adapter
where the engine's resolver finds those, made out to the model in this machine's cache folder, since the resolver wants
the base's very path; or, where the server loads weights beside its model, merged into the base, once: on a CPU an
adapter runs at a fifth of the speed. It is in no database, so it needs no job and cannot be deleted.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from service.engines import demo_model
from service.engines.command import checkpoints, full_models
from service.jobs import Checkpoint
from service.jobs.published import CONFIG, MARKER, checksum, publish, whole
from service.settings import Settings

NAME = "smollm2-sums"
SOURCE = Path(__file__).with_name("adapters") / NAME
BASE = "base_model_name_or_path"
WEIGHTS = "model.safetensors"


class NotInstalled(Exception):
    """It cannot be served; the message says why."""


def install(settings: Settings, source: Path = SOURCE) -> Checkpoint:
    """Put it where the engine finds it; raise NotInstalled, or OSError, where that cannot be done."""
    base = demo_model.folder(settings.cache_dir).absolute()
    about = check(source, base.name)
    if not full_models(settings):
        install_adapter(source, base, checkpoints(settings) / NAME, about)
    elif not demo_model.ready(target := merged(settings, source)):
        merge(source, base, target)
    return installed(settings, source)


def check(source: Path, base: str) -> Mapping[str, Any]:
    """What the adapter says of itself; raise NotInstalled when it is not whole, or for another base."""
    if not whole(source):
        raise NotInstalled("its files are damaged or missing; reinstall Outthink")
    about = read(source / MARKER)
    if about["base"] != base:
        raise NotInstalled(f"it was trained on {about['base']}, and the demo model is {base}: run make adapter")
    return about


def install_adapter(source: Path, base: Path, target: Path, about: Mapping[str, Any]) -> None:
    if whole(target) and checksum(target) == checksum(source) and read(target / CONFIG)[BASE] == str(base):
        return
    shutil.rmtree(target, ignore_errors=True)  # of another version, or of a cache folder that was elsewhere

    def write(folder: Path) -> None:
        for path in source.iterdir():
            if path.name not in (MARKER, CONFIG):
                shutil.copyfile(path, folder / path.name)
        (folder / CONFIG).write_text(json.dumps(read(source / CONFIG) | {BASE: str(base)}, indent=1))

    publish(target, write, lambda _: None, {name: about[name] for name in about if name != "sha256"})


def merged(settings: Settings, source: Path = SOURCE) -> Path:
    """Where the merged weights of this version of the adapter are, or will be, whatever the data folder."""
    return settings.cache_dir.absolute() / f"{NAME}-{checksum(source)[:12]}"


def merge(source: Path, base: Path, target: Path) -> None:
    """Write the merged weights, in a process of its own, since the service never imports torch."""
    command = [sys.executable, "-m", "service.engines.bundled", str(source), str(base), str(target)]
    done = subprocess.run(command, env=demo_model.environment(), capture_output=True, text=True)
    if not demo_model.ready(target):
        raise NotInstalled(f"its weights could not be merged: {done.stderr.strip().rpartition(chr(10))[2]}")


def write_merged(source: Path, base: Path, folder: Path) -> None:
    """The base with W + alpha / r · B · A in place of every weight W that the adapter changes (Hu et al., 2021)."""
    from safetensors.torch import load_file, save_file  # here only, since the service imports this module

    [adapter] = source.glob("*.safetensors")
    config, weights, changes = read(source / CONFIG), load_file(base / WEIGHTS), load_file(adapter)
    for name in (name for name in changes if ".lora_A." in name):
        target = name.removeprefix("base_model.model.").replace(".lora_A.", ".")
        change = changes[name.replace(".lora_A.", ".lora_B.")].float() @ changes[name].float()
        weight = weights[target]
        weights[target] = (weight.float() + config["lora_alpha"] / config["r"] * change).to(weight.dtype)
    for path in base.iterdir():
        if path.name != WEIGHTS:
            shutil.copyfile(path, folder / path.name)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def installed(settings: Settings, source: Path = SOURCE) -> Checkpoint:
    """It as a checkpoint; raise OSError when it is not installed."""
    whole_weights = merged(settings, source)
    form: Literal["adapter", "merged"] = "adapter"
    if full_models(settings) and demo_model.ready(whole_weights):
        form, path, about = "merged", str(whole_weights), read(source / MARKER)
    else:
        path, about = f"checkpoints/{NAME}", read(checkpoints(settings) / NAME / MARKER)
    return Checkpoint(
        name=NAME,
        job_id="",
        parent=settings.served_name,
        method=about["method"],
        form=form,
        step=about["step"],
        path=path,
        sha256=checksum(source),
        metrics=about["metrics"],
        created_at=about["created_at"],
    )


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def main() -> None:
    source, base, target = map(Path, sys.argv[1:])
    demo_model.install(target, lambda folder, _: write_merged(source, base, folder), print)


if __name__ == "__main__":
    main()
