"""The application: `create_app(settings)` builds everything, and importing builds nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware
from swagger_ui_bundle import swagger_ui_path

from service.answers.pool import AnswerPool
from service.background.distillation import Distillations
from service.benchmarks.run import Benchmarks
from service.context import Context, EngineFactory
from service.engines import bundled, demo_model
from service.engines.access import with_engine_key
from service.engines.backend import Backend, Listing, NoBackend
from service.engines.backends import Backends
from service.engines.command import full_models, serves_adapters
from service.engines.fleet import Fleet
from service.engines.managed import ManagedEngine
from service.engines.training_worker import keep_worker, missing_packages
from service.engines.vllm.client import VllmClient
from service.engines.vllm.engine import VllmEngine
from service.engines.vllm.salts import read_salts
from service.jobs import Checkpoint, Store
from service.registry import presets, scorers
from service.registry.models import Models
from service.registry.presets import Preset
from service.registry.scorers import Scorers, Tables
from service.routes import aliases, benchmarks, chat, distillations, files, fine_tuning, graders, info, plain
from service.sandbox import open_sandbox
from service.settings import Settings
from service.web.admission import Admission
from service.web.bodies import cancel
from service.web.handlers import add_handlers
from service.web.metrics import Metrics
from service.web.middleware import Gate
from service.web.rate_limits import Account
from service.web.shutdown import Shutdown
from strategies.types import Engine

log = logging.getLogger(__name__)

ROUTES = (chat, plain, files, fine_tuning, graders, distillations, aliases, benchmarks, info)


def create_app(
    settings: Settings, *, engine: EngineFactory | None = None, workers: AnswerPool | None = None, manage: bool = True
) -> FastAPI:
    """Build the service; raise ValueError for settings that make no sense.

    `engine` replaces vLLM, and `workers` are lent by the caller, for tests and examples; `manage=False` starts no vLLM.
    """
    named = presets.load(settings.presets)
    if settings.default_strategy and settings.default_strategy not in named:
        raise ValueError(f"OUTTHINK_DEFAULT_STRATEGY: there is no preset {settings.default_strategy!r}")
    parts = Parts(settings, named, scorers.load(settings.scorers), engine, workers, manage and engine is None)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.context = await parts.open(stack)
            await parts.start(stack, app.state.context)
            for executor in (Distillations, Benchmarks):
                background(stack, executor(app.state.context).work())
            yield

    app = FastAPI(
        title="Outthink",
        summary="OpenAI-compatible server that spends compute at inference time, with the strategy chosen per request.",
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.shutdown = parts.shutdown
    for module in ROUTES:
        app.include_router(module.router)
    app.mount("/docs/assets", StaticFiles(directory=swagger_ui_path))
    app.add_middleware(Gate, settings=settings, metrics=parts.metrics, shutdown=parts.shutdown)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )
    add_handlers(app)
    return app


@dataclass(frozen=True, slots=True)
class Parts:
    """What a service is made of, and how it is opened and started. `manage`: whether to start a vLLM of ours."""

    settings: Settings
    presets: Mapping[str, Preset]
    tables: Tables
    engine: EngineFactory | None
    workers: AnswerPool | None
    manage: bool
    metrics: Metrics = field(default_factory=Metrics)
    shutdown: Shutdown = field(default_factory=Shutdown)

    def backends(self) -> Backends:
        """The vLLMs behind this service, none of them started; a stand-in where another engine answers."""
        settings, manage = with_engine_key(self.settings), self.manage and self.settings.managed
        process = ManagedEngine(settings) if manage else None
        kind = Backend if self.engine is None else NoBackend
        base = kind(VllmClient(settings), "the engine", process, settings.model_parameters, first_models(settings))
        return Backends(base, scorers.open_backends(settings, self.tables, manage=self.manage))

    async def open(self, stack: AsyncExitStack) -> Context:
        """Open what the requests share; the stack closes it in reverse."""
        settings, backends = self.settings, self.backends()
        for backend in backends.fixed:
            stack.push_async_callback(backend.close)
        workers = self.workers or open_workers(stack, settings)
        sandbox = open_sandbox(settings)
        stack.callback(sandbox.pool.close)
        database = settings.database_url.get_secret_value()
        store = await asyncio.to_thread(Store.open, settings.data_dir.absolute(), database)
        stack.callback(store.close)

        def from_vllm(model: str, session_id: str, salt: str = "", priority: int = 0) -> Engine:
            return VllmEngine(backends, model, session_id, salt, priority)

        context = Context(
            settings=settings,
            backends=backends,
            engine=self.engine or from_vllm,
            models=Models(backends, self.presets, store, await self.bundled()),
            workers=workers,
            sandbox=sandbox,
            admission=Admission(settings.max_branches, settings.max_live_tokens, settings.max_queue, settings.keys),
            metrics=self.metrics,
            scorers=Scorers(self.tables, backends.rewards),
            salts=read_salts(settings),
            shutdown=self.shutdown,
            store=store,
            jobs=Account("jobs", settings.of_key("jobs"), charged=self.metrics.key_tokens.labels("jobs").inc),
        )
        await context.models.reload()
        background(stack, context.models.follow())
        up = backends.base
        self.metrics.watch(lambda: context.live_branches, lambda: context.admission.waiting, lambda: float(up.up))
        return context

    async def bundled(self) -> dict[str, Checkpoint]:
        """The adapter that comes with the product, where the demo model is ours; without it where it is damaged."""
        settings = self.settings
        if not (self.manage and settings.demo and (full_models(settings) or serves_adapters(settings))):
            return {}
        try:
            return {bundled.NAME: await asyncio.to_thread(bundled.install, settings)}
        except (bundled.NotInstalled, demo_model.DemoModelFailed, OSError) as error:
            log.warning("%s is not served: %s", bundled.NAME, error)
            return {}

    async def start(self, stack: AsyncExitStack, context: Context) -> None:
        """Start what is ours and follow all of it; a fleet and a training worker stand beside a vLLM of ours."""
        settings, backends = self.settings, context.backends
        for backend in backends.fixed:
            if backend.process is not None:
                await backend.process.start()
            background(stack, backend.follow())
        if backends.base.process is None:
            return
        background(stack, backends.base.report_failure(settings.engine_start_seconds))
        if limit := full_models(settings):
            backends.fleet = Fleet(with_engine_key(settings), limit, context.models.full_weights_folder)
            stack.push_async_callback(backends.fleet.close)
            background(stack, backends.fleet.keep())
        if settings.worker and not missing_packages():
            background(stack, keep_worker(settings))
        elif settings.worker:
            log.warning("no training worker: what it needs is not installed; jobs wait for `outthink worker`")


def open_workers(stack: AsyncExitStack, settings: Settings) -> AnswerPool:
    workers = AnswerPool(settings.answer_workers, settings.answer_seconds, settings.answer_memory_bytes)
    stack.callback(workers.close)
    background(stack, workers.warm_up())
    return workers


def first_models(settings: Settings) -> Listing:
    """The model by the name that the settings give it, so that it is listed before the engine is up."""
    name = settings.served_name
    entry = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "outthink"}
    return {name: entry} if name else {}


def background(stack: AsyncExitStack, work: Coroutine[None, None, None]) -> None:
    """Run beside the requests until the end."""
    stack.push_async_callback(cancel, asyncio.create_task(work))
