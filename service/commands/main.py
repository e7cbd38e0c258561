"""The command `outthink`: one file a command."""

from __future__ import annotations

import typer

from service.commands.bench import bench
from service.commands.distill import distill
from service.commands.serve import serve
from service.commands.settings import show_settings
from service.commands.worker import worker

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Spend compute at inference time.")
app.command()(serve)
app.command()(bench)
app.command()(distill)
app.command()(worker)
app.command("settings")(show_settings)
