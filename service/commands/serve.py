"""`outthink serve`: the server, what it shows while vLLM starts, and the curl to paste when it is ready."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from service.app import create_app
from service.commands.common import console, exit_wrong, prepare_demo_model, settings_or_exit
from service.context import Context
from service.settings import Settings
from service.web import logs
from service.web.server import LAST_SECONDS, Server


def serve() -> None:
    """Start the server and, unless OUTTHINK_ENGINE_URL is set, vLLM with it."""
    settings = settings_or_exit()
    logs.configure(settings.log_level, settings.log_format, console)
    application = app_or_exit(settings)
    if settings.demo:
        prepare_demo_model(settings)
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
    gc.collect()
    gc.freeze()  # what was imported is never garbage; to look through it would stop the event loop for 0.1 s
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def app_or_exit(settings: Settings) -> FastAPI:
    try:
        return create_app(settings)
    except ValueError as error:
        exit_wrong(error)


def announce(server: FastAPI, settings: Settings) -> None:
    """Show what the engine is doing until it is ready, then a curl to paste."""
    inner = server.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with inner(app):
            task = asyncio.create_task(show_progress(app.state.context, settings))
            try:
                yield
            finally:
                task.cancel()

    server.router.lifespan_context = lifespan


async def show_progress(context: Context, settings: Settings) -> None:
    """A live line with the engine's stage on a terminal, a line for each stage otherwise; stop if it never comes."""
    engine = context.backends.base
    with console.status("starting vLLM") as status:
        said = ""
        while not engine.up:
            if engine.failure:
                console.print(engine.failure, style="red", markup=False, highlight=False)
                signal.raise_signal(signal.SIGTERM)
                return
            status.update(f"engine: {engine.detail}")
            stage = engine.detail.rsplit(",", 1)[0]
            if stage != said and not console.is_terminal:
                console.print(f"engine: {engine.detail}", markup=False, highlight=False)
            said = stage
            await asyncio.sleep(0.25)
    print(welcome(context, settings), flush=True)


def welcome(context: Context, settings: Settings) -> str:
    key = ' \\\n  -H "Authorization: Bearer $OUTTHINK_API_KEY"' if settings.keys_needed else ""
    docs = " (documentation: /docs)" if not settings.keys_needed or "docs" in settings.open_endpoints else ""
    question = "What is 17 + 25? Put the answer in \\\\boxed{}."
    return f"""
Outthink is ready on http://127.0.0.1:{settings.port}{docs}. Try:

curl http://127.0.0.1:{settings.port}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{{
  "model": "{context.models.default}",
  "messages": [{{"role": "user", "content": "{question}"}}],
  "strategy": {{"type": "self_consistency", "samples": 16}}, "max_tokens": 200}}'
"""
