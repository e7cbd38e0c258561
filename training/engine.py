"""The serving vLLM, as a trainer uses it: for rollouts, and to load what was published.

Trainers are synchronous, so every call runs an event loop of its own until it is done. A vLLM that is down is waited
for, since its watcher starts it again.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import SecretStr

from service.engines import command, demo_model
from service.engines.backend import Backend
from service.engines.vllm.client import VllmClient
from service.engines.vllm.engine import VllmEngine
from service.engines.vllm.errors import check, translate_http
from service.jobs.training import ROLLOUTS
from service.settings import Settings
from strategies.branch import Branch
from strategies.errors import EngineError, EngineNonsense, EngineRefused, EngineUnavailable
from strategies.logprobs import Logprobs
from strategies.types import Call, Generation, Ids
from training.errors import TrainingError
from training.task import Task

T = TypeVar("T")
log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0


@dataclass(frozen=True, slots=True)
class Base:
    """A base model: where its weights are, and what the engine calls it.

    The engine's resolver loads an adapter only if the base that its config names is, letter by letter, what vLLM was
    told to load.
    """

    weights: str
    name: str
    max_rank: int | None = None


class Serving:
    """What serves `model`: the engine, or, of a model that has weights of its own, the service, which starts a vLLM."""

    def __init__(self, settings: Settings, model: str, *, own_weights: bool = False) -> None:
        self.settings = settings
        self.model = model
        self.runner = asyncio.Runner()
        self.client = VllmClient(through_service(settings) if own_weights else settings)

    def close(self) -> None:
        self.run(self.client.close())
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def patiently(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Call until it succeeds, for as long as the engine may take to start."""
        limit = time.monotonic() + self.settings.engine_start_seconds
        pause = FIRST_PAUSE
        while True:
            try:
                return self.run(call())
            except (EngineUnavailable, EngineNonsense) as error:
                if time.monotonic() + pause > limit:
                    raise
                log.warning("waiting for the engine: %s", error)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def base(self) -> Base:
        """The model that the engine was started with."""
        settings = self.settings
        if settings.managed:
            weights = settings.model or str(demo_model.folder(settings.cache_dir).absolute())
            return Base(weights, weights, lora_rank(settings))
        root = next((str(m["root"]) for m in self.patiently(self.client.models) if not m.get("parent")), "")
        return Base(settings.model or root, root)

    def merged(self, folder: Path) -> Base:
        """A published model that has an engine of its own."""
        return Base(str(folder), str(folder), lora_rank(self.settings) if self.settings.managed else None)

    def continue_prefixes(self, prefixes: Sequence[Ids], call: Call) -> list[list[Generation]]:
        """`call.n` continuations of every prefix, all in one request."""
        if not prefixes:
            return []
        engine = VllmEngine(Backend(self.client), self.model, "training")
        room = self.patiently(engine.context) - max(map(len, prefixes))
        if room < 1 or call.max_tokens is None:
            raise TrainingError("a question fills the engine's context: there is no room for an answer")
        bounded = replace(call, max_tokens=min(call.max_tokens, room))
        flat = self.patiently(lambda: gather(engine, prefixes, bounded))
        return [flat[i : i + call.n] for i in range(0, len(flat), call.n)]

    async def load(self, name: str, folder: Path) -> None:
        """Load an adapter, so that its first request need not wait; raise TrainingError when the engine refuses it."""
        try:
            await self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        except EngineRefused as error:
            if "already been loaded" not in str(error):
                raise TrainingError(f"the engine refuses the adapter: {error}", code="invalid_weights") from error

    def unload(self, name: str) -> None:
        """Forget an adapter; requests that run keep their weights."""
        try:
            self.run(self._post("/v1/unload_lora_adapter", {"lora_name": name}))
        except EngineError as error:
            log.info("%s was not unloaded: %s", name, error)

    async def _post(self, path: str, body: Mapping[str, Any]) -> None:
        async with self.client.open("POST", path, orjson.dumps(body)) as response:
            with translate_http():
                check(response.status_code, await response.aread())


def through_service(settings: Settings) -> Settings:
    """Settings whose engine is the service itself."""
    keys = settings.admin_keys or settings.api_keys  # whose requests no limits a minute hold up, if there is one
    key = keys[0] if keys else SecretStr("")
    return settings.model_copy(update={"engine_url": settings.service_base, "engine_api_key": key})


async def gather(engine: VllmEngine, prefixes: Sequence[Ids], call: Call) -> list[Generation]:
    branches = [Branch(Logprobs(0)) for _ in range(len(prefixes) * call.n)]
    async for batch in engine.extend(prefixes, call):
        for delta in batch.deltas:
            branches[delta.index].take(delta)
    return [branch.generation() for branch in branches]


def sweep(task: Task) -> None:
    """Forget the adapters that only a killed child's rollouts used, and what it had half written."""
    folder, name = task.target(task.name()).parent, task.name()
    for partial in folder.glob(f".{name}*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
    remove(task, list(folder.glob(f"{name}{ROLLOUTS}*")))


def sweep_unpublished(task: Task, published: Collection[str]) -> None:
    """Forget all that an ended job put in place and that nobody was told of."""
    sweep(task)
    found = task.target("").glob(f"{task.name()}*")
    remove(task, [path for path in found if path.name not in published])


def remove(task: Task, left: Sequence[Path]) -> None:
    """Have the engine forget adapters, and remove their folders."""
    if not left:
        return
    serving = Serving(task.settings, task.job.model)
    for path in left:
        serving.unload(path.name)
        shutil.rmtree(path, ignore_errors=True)
    serving.close()


def lora_rank(settings: Settings) -> int:
    """The largest rank that the managed vLLM is started with; 0 when it is told to serve no adapters."""
    words = command.vllm_command(settings, "", cpu=command.on_cpu())
    if any(word.replace("_", "-") == "--no-enable-lora" for word in words):
        return 0
    place = list(map(command.option_name, words)).index("max-lora-rank")
    return int(words[place].partition("=")[2] or words[place + 1])
