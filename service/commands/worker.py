"""The command `outthink worker`."""

from __future__ import annotations

import sys

from service.commands.common import console, prepare_demo_model, settings_or_exit
from service.engines.training_worker import missing_packages
from service.web import logs


def worker() -> None:
    """Take fine-tuning jobs and train, until it is told to stop."""
    if missing := missing_packages():
        console.print(
            f"A worker needs {', '.join(missing)}, which the training extra brings: pip install 'outthink[training]', "
            "or make setup",
            style="red",
            markup=False,
            highlight=False,
        )
        sys.exit(1)
    from training.worker import serve

    settings = settings_or_exit()
    logs.configure(settings.log_level, settings.log_format, console)
    if settings.demo:
        prepare_demo_model(settings)
    serve(settings)
