"""The command: run what is left of the claims' stages, and write the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from benchmarks.claims import small
from benchmarks.claims.flops import Shape
from benchmarks.claims.page import pages
from benchmarks.claims.results import Results, small_folder
from benchmarks.claims.scale import QUICK, Amounts, agree
from benchmarks.claims.stages import EVERY, LARGE, SMALL, Claim, Size, small_stages, stages
from benchmarks.lab import scale as lab_scale
from benchmarks.lab.jobs import Lab, Stage, console, read_state
from benchmarks.lab.scale import Scale
from benchmarks.lab.server import serve
from benchmarks.lab.stages import show_plan
from benchmarks.machine import machine
from service.commands.client import CommandError, fail
from service.engines import demo_model
from service.settings import Settings


def main(
    claims: Annotated[list[Claim] | None, typer.Argument(help="Which claims; all of them.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="The lab's, whose stages are not done again; data/lab or data/lab-quick."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the page and its pictures are written; docs, or the folder.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="A few of everything, to see whether it runs.")] = False,
) -> None:
    """Run what is left, and write the page. It can be interrupted at any point and goes on from there."""
    scale, amounts = (lab_scale.QUICK, QUICK) if quick else (Scale(), Amounts())
    folder = folder or Path("data/lab-quick" if quick else "data/lab")
    out = out or (folder if quick else Path("docs"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        run(folder, scale, amounts, claims or EVERY)
        written = pages(read(folder, scale), scale, amounts)
    except (CommandError, httpx.HTTPError, RuntimeError, TimeoutError) as error:
        fail(str(error), 1)
    for name, text in written.items():
        (out / name).write_text(text)
    console.print(f"{', '.join(str(out / name) for name in written)}; reports in {folder}", highlight=False)


def run(folder: Path, scale: Scale, amounts: Amounts, claims: Sequence[Claim]) -> None:
    """On the demo model's server, then on the small model's, one after the other."""
    with serve(folder.absolute()) as client:
        lab = Lab(client, folder, scale)
        agree(lab, amounts)
        demo = demo_model.folder(Settings().cache_dir).absolute()
        note_shape(lab, LARGE, demo)
        measure(lab, stages(scale, amounts, claims))
    if Claim.SIZE in claims:
        own = small_folder(folder).absolute()
        model = small.ensure(demo, own / "smollm2-third")
        note_shape(lab, SMALL, model)
        with serve(own, model) as client:
            measure(Lab(client, own, scale), small_stages(scale, amounts))
    note(lab, {"machine": machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}"})


def measure(lab: Lab, every: Sequence[Stage]) -> None:
    show_plan(console, [stage for stage in every if "job" not in lab.state.get(stage.name, {})])
    lab.run(every)


def note_shape(lab: Lab, size: Size, model: Path) -> None:
    shapes = lab.state["claims"].get("shapes", {})
    note(lab, {"shapes": shapes | {size.name: asdict(Shape.read(model))}})


def note(lab: Lab, facts: dict[str, Any]) -> None:
    """What the page says of all of it."""
    lab.keep("claims", lab.state["claims"] | facts)


def read(folder: Path, scale: Scale) -> Results:
    return Results(folder, read_state(folder, scale), read_state(small_folder(folder), scale))


if __name__ == "__main__":
    typer.run(main)
