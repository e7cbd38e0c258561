"""`outthink settings`: every setting, for a terminal or as the table of docs/settings.md."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from service.settings import PREFIX, Settings


def show_settings(markdown: Annotated[bool, typer.Option(help="As the table of docs/settings.md.")] = False) -> None:
    """List every setting: its variable, its default, what it means."""
    rows = [
        (f"{PREFIX}{name.upper()}", default_of(name, field), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    if markdown:
        print("| variable | default | meaning |\n| --- | --- | --- |")
        for variable, default, meaning in rows:
            print(f"| `{variable}` | {f'`{default}`' if default else ''} | {meaning} |")
        return
    table = Table("variable", "default", "meaning")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def default_of(name: str, field: Any) -> str:
    if field.default_factory is not None:
        return {"cache_dir": "~/.cache/outthink"}.get(name, "")
    value = field.default
    hidden = value is None or value == "" or value == () or "SecretStr" in repr(value)
    return "" if hidden else str(value)
