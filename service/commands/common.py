"""What the commands share: settings that make sense or an end that says why not, and the demo model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from rich.console import Console

from service.engines import bundled, demo_model
from service.settings import PREFIX, Settings, load

console = Console(stderr=True)


def settings_or_exit() -> Settings:
    try:
        return load()
    except ValueError as error:
        exit_wrong(error)


def exit_wrong(error: ValueError) -> NoReturn:
    """Exit 2 with what is wrong and what is allowed."""
    console.print("[red]The settings are wrong:[/red]", highlight=False)
    console.print(explain(error), markup=False, highlight=False)
    sys.exit(2)


def explain(error: ValueError) -> str:
    errors: Callable[[], list[dict[str, Any]]] | None = getattr(error, "errors", None)
    if errors is None:
        return f"  {error}"
    return "\n".join(f"  {PREFIX}{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in errors())


def prepare_demo_model(settings: Settings) -> None:
    """Convert it, and merge what comes with it into it, where that was not done before."""
    try:
        demo_model.ensure(settings.cache_dir)
        with console.status(f"Preparing {bundled.NAME}"), suppress(bundled.NotInstalled, OSError):
            bundled.install(settings)  # what is wrong with it is for the server to say
    except demo_model.DemoModelFailed as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        sys.exit(1)
