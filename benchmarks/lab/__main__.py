"""The command: run what is left of the lab, and write the page."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import httpx
import typer

from benchmarks.lab.jobs import Lab, console
from benchmarks.lab.page import pages
from benchmarks.lab.scale import QUICK, Scale
from benchmarks.lab.server import serve
from benchmarks.lab.stages import show_plan, stages
from benchmarks.machine import machine
from service.commands.client import CommandError, fail


def main(
    folder: Annotated[
        Path | None,
        typer.Option(help="Where its server keeps everything, and the lab what is done; data/lab or data/lab-quick."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the page and its picture are written; docs, or the folder.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="A few of everything, to see whether it runs.")] = False,
) -> None:
    """Run what is left of the lab, and write the page. It can be interrupted at any point and goes on from there."""
    scale = QUICK if quick else Scale()
    folder = folder or Path("data/lab-quick" if quick else "data/lab")
    out = out or (folder if quick else Path("docs"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        written = pages(run(folder, scale).state, folder, stages(scale), scale)
    except (CommandError, httpx.HTTPError, RuntimeError, TimeoutError) as error:
        fail(str(error), 1)
    for name, text in written.items():
        (out / name).write_text(text)
    console.print(f"{', '.join(str(out / name) for name in written)}; reports in {folder}", highlight=False)


def run(folder: Path, scale: Scale) -> Lab:
    every = stages(scale)
    with serve(folder.absolute()) as client:
        lab = Lab(client, folder, scale)
        show_plan(console, [stage for stage in every if "job" not in lab.state.get(stage.name, {})])
        lab.run(every)
        if "date" not in lab.state:
            lab.keep("machine", machine())
            lab.keep("date", f"{datetime.now(UTC):%Y-%m-%d}")
    return lab


if __name__ == "__main__":
    typer.run(main)
