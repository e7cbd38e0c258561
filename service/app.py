"""The application: `create_app(settings)` builds everything, and importing builds nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import DataError, OperationalError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from swagger_ui_bundle import swagger_ui_path

from service import presets, scorers
from service.admission import Admission
from service.benchmarks.run import Benchmarks
from service.catalogue import Catalogue
from service.context import Context, EngineFactory
from service.distilling import Distillations
from service.drain import Drain
from service.engines.command import EngineFailed, full_models
from service.engines.fleet import Fleet
from service.engines.managed import ManagedEngine, ManagedScorer, State
from service.engines.vllm import VllmClient, VllmEngine
from service.equality import Workers
from service.errors import ApiError, path, translate
from service.http import ClientGone, cancel
from service.jobs import Conflict, Missing, Store
from service.limits import Account
from service.metrics import Metrics
from service.middleware import Gate
from service.presets import Preset
from service.routes import aliases, benchmarks, chat, distillations, files, fine_tuning, graders, info, plain
from service.scorers import Scorers, Server
from service.settings import Settings
from service.worker import keep_worker, trainable
from strategies.errors import EngineError, EngineUnavailable, StrategyError
from strategies.types import Engine

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0  # how often a remote engine is asked for its health
START_POLL_SECONDS = 0.25


def create_app(
    settings: Settings, *, engine: EngineFactory | None = None, workers: Workers | None = None, manage: bool = True
) -> FastAPI:
    """Build the service; raise ValueError for settings that make no sense.

    `engine` replaces vLLM, and `workers` are lent by the caller, for tests and examples; `manage=False` starts no vLLM.
    """
    metrics, drain = Metrics(), Drain()
    named = presets.load(settings.presets)
    if settings.default_strategy and settings.default_strategy not in named:
        raise ValueError(f"OUTTHINK_DEFAULT_STRATEGY: there is no preset {settings.default_strategy!r}")
    scorers.load(settings.scorers)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.context = await opened(stack, settings, metrics, drain, named, workers)
            await attached(stack, app.state.context, engine, manage)
            for doer in (Distillations, Benchmarks):
                background(stack, doer(app.state.context).work())
            yield

    app = FastAPI(
        title="Outthink",
        summary="OpenAI-compatible server that spends compute at inference time, with the strategy chosen per request.",
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.drain = drain
    for router in (
        chat.router,
        plain.router,
        files.router,
        fine_tuning.router,
        graders.router,
        distillations.router,
        aliases.router,
        benchmarks.router,
        info.router,
    ):
        app.include_router(router)
    app.mount("/docs/assets", StaticFiles(directory=swagger_ui_path))
    app.add_middleware(Gate, settings=settings, metrics=metrics, drain=drain)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )
    add_handlers(app)
    return app


async def opened(
    stack: AsyncExitStack,
    settings: Settings,
    metrics: Metrics,
    drain: Drain,
    named: Mapping[str, Preset],
    workers: Workers | None,
) -> Context:
    """Open what the service needs; the stack closes it in reverse."""
    client = VllmClient(settings)
    stack.push_async_callback(client.close)
    if workers is None:
        workers = Workers(settings.answer_workers, settings.answer_seconds)
        stack.callback(workers.close)
        background(stack, workers.warm_up())

    store = await asyncio.to_thread(Store.open, settings.data_dir.absolute(), settings.database_url.get_secret_value())
    stack.callback(store.close)

    def from_vllm(model: str, session_id: str) -> Engine:
        return VllmEngine(client, model, session_id)

    context = Context(
        settings=settings,
        client=client,
        engine=from_vllm,
        catalogue=Catalogue(client, named, settings.served_name, store),
        workers=workers,
        admission=Admission(settings.max_branches, settings.max_live_tokens, settings.max_queue, settings.keys),
        metrics=metrics,
        scorers=scorers.opened(settings, VllmClient),
        drain=drain,
        store=store,
        jobs=Account("jobs", settings.model_copy(update={"requests_per_minute": None, "tokens_per_minute": None})),
        parameters=settings.model_parameters,
    )
    for server in context.scorers.distinct:
        stack.push_async_callback(server.client.close)
    await context.catalogue.reload()
    background(stack, context.catalogue.follow())
    metrics.watch(lambda: context.live_branches, lambda: context.admission.waiting, lambda: float(context.up))
    return context


async def attached(stack: AsyncExitStack, context: Context, engine: EngineFactory | None, manage: bool) -> None:
    """Give the context its engine: the one that was handed in, or vLLM."""
    if engine is not None:
        context.engine, context.up, context.detail = engine, True, "ready"
        context.client.gate = no_vllm
    else:
        await supervised(stack, context, manage)


def background(stack: AsyncExitStack, work: Coroutine[None, None, None]) -> None:
    """Run beside the requests until the end."""
    stack.push_async_callback(cancel, asyncio.create_task(work))


def no_vllm() -> None:
    """Keep what only vLLM can do from looking for one."""
    raise EngineUnavailable("there is no vLLM behind this engine")


async def supervised(stack: AsyncExitStack, context: Context, manage: bool) -> None:
    """Start the managed engine, if it is ours, and keep `context.up` true to the engine's state."""
    managed = ManagedEngine(context.settings) if context.settings.managed and manage else None
    if managed is not None:
        await managed.start()
        stack.push_async_callback(managed.stop)

        context.client.gate = partial(managed.check, "the engine")
        background(stack, give_up(context, managed))
        with_fleet(stack, context)
        if context.settings.worker:
            if trainable():
                background(stack, keep_worker(context.settings))
            else:
                log.warning("no training worker: what it needs is not installed; jobs wait for `outthink worker`")
    background(stack, watch(context, managed))
    await with_scorers(stack, context.scorers, context.settings, manage)


def with_fleet(stack: AsyncExitStack, context: Context) -> None:
    """Let checkpoints that have weights of their own be served beside the managed model."""
    limit = full_models(context.settings)
    if limit:
        context.fleet = Fleet(context.settings, limit, context.client, context.catalogue.own_weights)
        context.client.route = context.fleet.route
        stack.push_async_callback(context.fleet.close)
        background(stack, context.fleet.keep())


async def with_scorers(stack: AsyncExitStack, named: Scorers, settings: Settings, manage: bool) -> None:
    """Start the vLLM of a reward model that is ours, and follow the servers of all scorers that have one."""
    for server in named.distinct:
        managed = None
        if server.managed and manage:
            managed = ManagedScorer(settings, named.reward(server))
            await managed.start()
            stack.push_async_callback(managed.stop)
            server.client.gate = partial(managed.check, "its server")
        background(stack, follow(server, managed))


async def follow(server: Server, managed: ManagedEngine | None) -> None:
    """Keep what is known of a scorer's server true; when it comes up, learn how large its model is."""
    while True:
        up = managed.state is State.READY if managed else await server.client.healthy()
        if up and not server.up and server.parameters is None:
            with suppress(EngineError):
                server.parameters = await asyncio.to_thread(parameters_of, root_of(await server.client.models()))
        server.up = up
        server.detail = managed.detail if managed else ("ready" if up else "no answer")
        await asyncio.sleep(POLL_SECONDS)


async def give_up(context: Context, managed: ManagedEngine) -> None:
    """Say why when the managed engine will not start; whoever runs the server decides what then."""
    try:
        await managed.wait_ready(context.settings.engine_start_seconds)
    except EngineFailed as error:
        context.failure = str(error)
        log.error("%s", error)


async def watch(context: Context, managed: ManagedEngine | None) -> None:
    """Follow the engine's health; when it comes up, learn its models and what it can do."""
    while True:
        up = managed.state is State.READY if managed else await context.client.healthy()
        detail = managed.detail if managed else ("ready" if up else f"no answer from {context.settings.engine_base}")
        if up and not context.up:
            up = await introduced(context)
        if up != context.up:
            log.info("engine %s: %s", "up" if up else "down", detail)
        context.up, context.detail = up, detail
        await asyncio.sleep(START_POLL_SECONDS if managed or not up else POLL_SECONDS)


async def introduced(context: Context) -> bool:
    """Ask a new engine who it is; false when it did not answer after all."""
    try:
        await context.client.probe()
        await context.catalogue.refresh()
    except EngineError as error:
        log.warning("the engine did not introduce itself: %s", error)
        return False
    root = root_of(context.catalogue.models.values())
    context.parameters = context.settings.model_parameters or await asyncio.to_thread(parameters_of, root)
    return bool(context.catalogue.models)


def root_of(models: Iterable[Mapping[str, Any]]) -> Path:
    """Where the engine says that it has its first model from."""
    return next((Path(model.get("root") or "") for model in models), Path())


def parameters_of(folder: Path) -> int | None:
    """Count the parameters of a local checkpoint from the headers of its safetensors files; None if it is not local."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_absolute() and folder.is_dir() else []
    return sum(map(tensor_parameters, files)) or None


def tensor_parameters(file: Path) -> int:
    """A safetensors file begins with the length of its header (8 bytes, little-endian) and the header, in JSON."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    shapes = (tensor["shape"] for name, tensor in header.items() if name != "__metadata__")
    total = 0
    for shape in shapes:
        size = 1
        for side in shape:
            size *= side
        total += size
    return total


def add_handlers(app: FastAPI) -> None:
    """Every error leaves in OpenAI's shape."""

    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def strategy_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, StrategyError)
        return translate(error).response()

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {error.detail}"
        return ApiError(error.status_code, message, None, "not_found" if error.status_code == 404 else None).response()

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        param = path(first["loc"][1:])
        return ApiError(400, f"{param}: {first['msg']}", param, "invalid_value").response()

    async def missing(request: Request, error: Exception) -> Response:
        return ApiError(404, str(error), None, "not_found").response()

    async def conflict(request: Request, error: Exception) -> Response:
        return ApiError(400, str(error), None, "conflict").response()  # not 409, which SDKs would try again

    async def no_database(request: Request, error: Exception) -> Response:
        log.error("the database does not answer: %s", error)
        return ApiError(503, "the database does not answer", None, "database_unavailable").response()

    async def unkept(request: Request, error: Exception) -> Response:
        assert isinstance(error, DataError)
        message = f"the database cannot hold a value of this request: {error.orig}"
        return ApiError(400, message, None, "invalid_value").response()

    async def client_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    async def unexpected(request: Request, error: Exception) -> Response:
        return ApiError(500, "the server failed; its log has the request id", None, "internal_error").response()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(StrategyError, strategy_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(Missing, missing)
    app.add_exception_handler(Conflict, conflict)
    app.add_exception_handler(OperationalError, no_database)
    app.add_exception_handler(DataError, unkept)
    app.add_exception_handler(ClientGone, client_gone)
    app.add_exception_handler(Exception, unexpected)
