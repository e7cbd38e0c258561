"""`make peers`: the options of the comparison (racing.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.peers.racing import OUT, Settings, run

DEFAULTS = Settings()
Only = Annotated[list[str] | None, typer.Option(help="A peer, or one of its methods (its-hub/beta); may be repeated.")]
Questions = Annotated[int, typer.Option(min=1, help="Questions of generated arithmetic, the same for all.")]
Samples = Annotated[int, typer.Option(min=4, help="Samples, beams or particles of every method: a multiple of 4.")]
Model = Annotated[str, typer.Option(help="The model that answers, as the service serves it.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew, whatever is in the file.")]
Out = Annotated[Path, typer.Option(help="The file of the results; with the usual one docs/performance.md is written.")]


def main(
    only: Only = None,
    questions: Questions = DEFAULTS.questions,
    samples: Samples = DEFAULTS.samples,
    model: Model = DEFAULTS.model,
    fresh: Fresh = False,
    out: Out = OUT,
) -> None:
    """Measure the methods that the file has no figures of yet, under these settings; print the table."""
    if samples % 4:
        raise typer.BadParameter(f"must be a multiple of 4, not {samples}", param_hint="--samples")
    run(Settings(model=model, questions=questions, samples=samples), only or (), fresh, out)


if __name__ == "__main__":
    typer.run(main)
