"""`make adapter`: train the adapter that comes with the product anew, by the product's own SFT, and measure it.

Its training questions are those of the lab's SFT: generated arithmetic of the training split, which shares no question
with the test split that it is measured on. Its weights are kept in bfloat16, in which the engine computes, too.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from benchmarks.lab import training
from benchmarks.lab.jobs import Lab, Request, Stage
from benchmarks.lab.policies import TEMPERATURE, benchmark
from benchmarks.lab.scale import Scale, train_parts
from benchmarks.lab.server import serve
from benchmarks.machine import machine
from service.commands.client import CommandError, fail
from service.engines import demo_model
from service.engines.bundled import BASE, NAME, SOURCE
from service.jobs.published import CONFIG, MARKER, publish
from service.settings import Settings

RANK = 8
"""The largest whose file stays below 5 MB."""
TESTS = 200
"""Questions of the test split."""
WEIGHTS = "adapter_model.safetensors"

console = Console()


def train(lab: Lab) -> Request:
    rows = [training.conversation(problem) for problem in train_parts(lab.scale)["sft"]]
    told = {"publish": "adapter", "max_steps": lab.scale.sft_steps, "rank": RANK}
    return training.tune(lab, "sums", lab.base(), rows, training.supervised(), **told)


def measure(lab: Lab) -> Request:
    return benchmark(lab, "accuracy", NAME, {"type": "self_consistency", "samples": [1, 4]}, TESTS)


TRAINING = Stage("sums", "SFT", 10, train)
MEASURING = Stage("accuracy", "one sample, and a majority of four", 4, measure)


def pack(trained: Path, target: Path, base: str, cells: dict[str, Any], scale: Scale) -> None:
    """Write the adapter in bfloat16, its card and its marker to `target`, in place of what is there."""
    about = {
        "base": base,
        "method": "supervised",
        "step": scale.sft_steps,
        "created_at": int(time.time()),
        "metrics": {"accuracy": round(cells["1"]["accuracy"], 4), "questions": TESTS} if cells else {},
    }

    def write(folder: Path) -> None:
        narrow(trained / WEIGHTS, folder / WEIGHTS)
        config = json.loads((trained / CONFIG).read_text()) | {BASE: base}
        (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        if cells:
            (folder / "README.md").write_text(card(base, cells, scale))

    shutil.rmtree(target, ignore_errors=True)
    publish(target, write, lambda folder: None, about)
    (target / MARKER).write_text((target / MARKER).read_text() + "\n")


def narrow(source: Path, target: Path) -> None:
    """Copy weights in bfloat16."""
    import torch
    from safetensors.torch import load_file, save_file

    save_file({name: tensor.to(torch.bfloat16) for name, tensor in load_file(source).items()}, target)


def card(base: str, cells: dict[str, Any], scale: Scale) -> str:
    def rate(size: str) -> str:
        low, high = cells[size]["ci"]
        return f"{cells[size]['accuracy']:.1%} ({low:.1%} to {high:.1%})".replace("%", " %")

    return f"""---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
library_name: peft
tags: [lora, arithmetic]
---

# {NAME}

A LoRA adapter (rank {RANK}) that teaches SmolLM2-135M-Instruct to solve chains of small sums, one equation a step. It
comes with Outthink so that a newcomer can see what compute at inference time buys; it is of no other use.

| | |
| --- | --- |
| Base | {base}, from the package `{demo_model.PACKAGE}` (Apache-2.0) |
| Data | {scale.examples} generated questions of {scale.operations} additions or subtractions of numbers of up to \
{10**scale.digits - 1}, with worked solutions (`service/benchmarks/arithmetic.py`, training split) |
| Training | SFT by Outthink's own fine-tuning API: {scale.sft_steps} steps of 16 examples, all linear layers |
| Accuracy | on {TESTS} questions of the test split at temperature {TEMPERATURE}: one sample {rate("1")}, \
majority of 4 {rate("4")} |
| Licence | Apache-2.0 |
| Made by | `make adapter`, {time.strftime("%Y-%m-%d")}, {machine()} |

Test and training questions are told apart by a hash of their text, so no test question was trained on.
"""


def run(folder: Path, scale: Scale, stage: Stage) -> Lab:
    """Do one stage on a server that is started for it, with the adapter that is in its place by then."""
    with serve(folder.absolute()) as client:
        lab = Lab(client, folder, scale)
        lab.do(stage)
    return lab


def main(
    folder: Annotated[Path, typer.Option(help="Where its server keeps everything.")] = Path("data/adapter"),
) -> None:
    """Train the adapter that comes with Outthink, measure it, and put it in its place."""
    scale = Scale()
    folder.mkdir(parents=True, exist_ok=True)
    base = demo_model.folder(Settings().cache_dir).name
    try:
        trained = run(folder, scale, TRAINING)
        weights = folder / "data" / "checkpoints" / trained.model("sums")
        pack(weights, SOURCE, base, {}, scale)
        measured = run(folder, scale, MEASURING).job("accuracy") or {}
    except (CommandError, httpx.HTTPError, RuntimeError, TimeoutError) as error:
        fail(str(error), 1)
    cells = {str(cell["samples"]): cell for cell in measured["results"]}
    pack(weights, SOURCE, base, cells, scale)
    size = sum(path.stat().st_size for path in SOURCE.iterdir())
    console.print(f"{NAME}: {cells['1']['accuracy']:.1%} with one sample, {size:,} bytes in {SOURCE}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
