"""The command `outthink`."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, NoReturn

import typer
import uvicorn
from fastapi import FastAPI
from rich.console import Console
from rich.table import Table
from uvicorn.config import STARTUP_FAILURE

from service import logs
from service.app import create_app
from service.benchmarks.cli import bench
from service.context import Context
from service.distill import distill
from service.engines import demo_model
from service.server import LAST_SECONDS, Server
from service.settings import PREFIX, Settings, load
from training.cli import worker

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Spend compute at inference time.")
app.command("bench")(bench)
app.command("distill")(distill)
console = Console(stderr=True)


@app.command()
def serve() -> None:
    """Start the server and, unless OUTTHINK_ENGINE_URL is set, vLLM with it."""
    settings = settings_or_exit()
    logs.configure(settings.log_level)
    application = app_or_exit(settings)
    if settings.demo:
        prepare(settings)
    announce(application, settings)
    config = uvicorn.Config(
        application,
        host=settings.bind,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,  # longer than most clients keep a connection, so that they close first
        timeout_graceful_shutdown=LAST_SECONDS,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = Server(config, application, settings.drain_seconds)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


@app.command("settings")
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


app.command()(worker)


def default_of(name: str, field: Any) -> str:
    if field.default_factory is not None:
        return {"cache_dir": "~/.cache/outthink"}.get(name, "")
    value = field.default
    hidden = value is None or value == "" or value == () or "SecretStr" in repr(value)
    return "" if hidden else str(value)


def prepare(settings: Settings) -> None:
    try:
        demo_model.ensure(settings.cache_dir)
    except demo_model.DemoModelFailed as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        sys.exit(1)


def settings_or_exit() -> Settings:
    try:
        return load()
    except ValueError as error:
        wrong(error)


def app_or_exit(settings: Settings) -> FastAPI:
    try:
        return create_app(settings)
    except ValueError as error:
        wrong(error)


def wrong(error: ValueError) -> NoReturn:
    """Exit 2 with what is wrong and what is allowed."""
    console.print("[red]The settings are wrong:[/red]", highlight=False)
    console.print(explained(error), markup=False, highlight=False)
    sys.exit(2)


def explained(error: ValueError) -> str:
    errors: Callable[[], list[dict[str, Any]]] | None = getattr(error, "errors", None)
    if errors is None:
        return f"  {error}"
    return "\n".join(f"  {PREFIX}{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in errors())


def announce(server: FastAPI, settings: Settings) -> None:
    """Show what the engine is doing until it is ready, then a curl to paste."""
    inner = server.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with inner(app):
            task = asyncio.create_task(progress(app.state.context, settings))
            try:
                yield
            finally:
                task.cancel()

    server.router.lifespan_context = lifespan


async def progress(context: Context, settings: Settings) -> None:
    """A live line with the engine's stage on a terminal, a line for each stage otherwise; stop if it never comes."""
    with console.status("starting vLLM") as status:
        said = ""
        while not context.up:
            if context.failure:
                console.print(context.failure, style="red", markup=False, highlight=False)
                signal.raise_signal(signal.SIGTERM)
                return
            status.update(f"engine: {context.detail}")
            stage = context.detail.rsplit(",", 1)[0]
            if stage != said and not console.is_terminal:
                console.print(f"engine: {context.detail}", markup=False, highlight=False)
            said = stage
            await asyncio.sleep(0.25)
    print(welcome(context, settings), flush=True)


def welcome(context: Context, settings: Settings) -> str:
    key = ' \\\n  -H "Authorization: Bearer $OUTTHINK_API_KEY"' if settings.keys_needed else ""
    question = "What is 17 + 25? Put the answer in \\\\boxed{}."
    return f"""
Outthink is ready on http://127.0.0.1:{settings.port} (documentation: /docs). Try:

curl http://127.0.0.1:{settings.port}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{{
  "model": "{context.catalogue.default}",
  "messages": [{{"role": "user", "content": "{question}"}}],
  "strategy": {{"type": "self_consistency", "samples": 16}}, "max_tokens": 200}}'
"""
