"""The command `outthink worker`."""

from __future__ import annotations

import importlib.util
import sys

from rich.console import Console

NEEDED = ("trl", "peft", "datasets")
console = Console(stderr=True)


def worker() -> None:
    """Take fine-tuning jobs and train, until it is told to stop."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        console.print(
            f"A worker needs {', '.join(missing)}, which the training extra brings: pip install 'outthink[training]', "
            "or make setup",
            style="red",
            markup=False,
            highlight=False,
        )
        sys.exit(1)
    from service import logs
    from service.cli import prepare, settings_or_exit
    from training.worker import serve

    settings = settings_or_exit()
    logs.configure(settings.log_level)
    if settings.demo:
        prepare(settings)
    serve(settings)
