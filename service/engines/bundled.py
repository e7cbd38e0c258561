"""The checkpoint that comes with the product: `smollm2-sums`, an adapter of the demo model.

`make adapter` trains it (benchmarks/adapter.py). A server that starts the demo model itself installs it where the
engine's resolver finds adapters, as one that was made for the model in this machine's cache folder: the resolver wants
the base's very path. It is in no database, so it needs no job and cannot be deleted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.engines import demo_model
from service.jobs import Checkpoint
from service.jobs.published import CONFIG, MARKER, checksum, publish, whole
from service.settings import Settings

NAME = "smollm2-sums"
SOURCE = Path(__file__).with_name("adapters") / NAME
BASE = "base_model_name_or_path"


class Damaged(Exception):
    """It cannot be served; the message says why."""


def install(settings: Settings, source: Path = SOURCE) -> Checkpoint:
    """Put the adapter where the engine finds it; raise Damaged, or OSError, where that cannot be done."""
    base = demo_model.folder(settings.cache_dir).absolute()
    target = place(settings)
    about = check(source, base.name)
    if not (whole(target) and checksum(target) == checksum(source) and read(target / CONFIG)[BASE] == str(base)):
        shutil.rmtree(target, ignore_errors=True)  # of another version, or of a cache folder that was elsewhere

        def write(folder: Path) -> None:
            for path in source.iterdir():
                if path.name != MARKER:
                    shutil.copyfile(path, folder / path.name)
            config = read(source / CONFIG) | {BASE: str(base)}
            (folder / CONFIG).write_text(json.dumps(config, indent=1))

        publish(target, write, lambda folder: None, {name: about[name] for name in about if name != "sha256"})
    return installed(settings)


def check(source: Path, base: str) -> Mapping[str, Any]:
    """What the adapter says of itself; raise Damaged when it is not whole, or for another base."""
    if not whole(source):
        raise Damaged("its files are damaged or missing; reinstall Outthink")
    about = read(source / MARKER)
    if about["base"] != base:
        raise Damaged(f"it was trained on {about['base']}, and the demo model is {base}: make adapter trains it anew")
    return about


def installed(settings: Settings) -> Checkpoint:
    """The adapter as a checkpoint; raise OSError when it is not installed."""
    target = place(settings)
    about = read(target / MARKER)
    return Checkpoint(
        name=NAME,
        job_id="",
        parent=settings.served_name,
        method=about["method"],
        form="adapter",
        step=about["step"],
        path=str(target.relative_to(settings.data_dir.absolute())),
        sha256=checksum(target),
        metrics=about["metrics"],
        created_at=about["created_at"],
    )


def place(settings: Settings) -> Path:
    return settings.data_dir.absolute() / "checkpoints" / NAME


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found
