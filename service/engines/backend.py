"""The vLLM behind a model: one noun for its HTTP client, its process where it is ours, and what is known of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from service.engines.command import EngineFailed
from service.engines.managed import ManagedEngine, State
from service.engines.parameters import count_parameters
from service.engines.vllm.client import VllmClient
from strategies.errors import EngineError, EngineUnavailable

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""Between two looks at a remote engine that is up."""
START_POLL_SECONDS = 0.25
"""Between two looks at a managed one, whose state costs nothing to read, and at one that is not up."""

Listing = dict[str, dict[str, Any]]
"""Models by name, each as the engine lists it."""


class Serving(Protocol):
    """Who knows which vLLM serves a model."""

    async def serving(self, model: str) -> Backend:
        """Return the backend of a model, started if need be; raise EngineUnavailable if that fails."""


class Backend:
    """One vLLM. `name` is what errors call it; `process` is None where somebody else runs it.

    `up` (and introduced) and `parameters` (of its model, for FLOPs; None: unknown) are kept true by `follow`. `failure`
    says why a process of ours never came up, and what to do.
    """

    def __init__(
        self,
        client: VllmClient,
        name: str = "the engine",
        process: ManagedEngine | None = None,
        parameters: int | None = None,
        models: Listing | None = None,
    ) -> None:
        self.client = client
        self.name = name
        self.process = process
        self.stated_parameters = self.parameters = parameters
        self.models: Listing = models or {}  # what it listed last; it stays while the engine is down
        self.up = False
        self.answer = "starting"  # of a server that is not ours, when it was looked at last
        self.failure = ""
        self.active = 0  # requests that run
        self.used = time.monotonic()  # when the last one began or ended

    async def serving(self, model: str) -> Backend:
        """A backend by itself serves all that it is asked for."""
        return self

    def check(self) -> None:
        """Raise EngineUnavailable while a process of ours does not answer."""
        if self.process is not None:
            self.process.check(self.name)

    @property
    def state(self) -> State:
        if self.process is not None:
            return self.process.state
        return State.READY if self.up else State.DOWN

    @property
    def detail(self) -> str:
        """One line for people: how it is."""
        return self.answer if self.process is None else self.process.detail

    @contextmanager
    def request(self) -> Iterator[VllmClient]:
        """The connections, for one request, which counts for as long as it runs."""
        self.check()
        with self.in_use():
            yield self.client

    @contextmanager
    def in_use(self) -> Iterator[None]:
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
            self.used = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """How long it has had nothing to do."""
        return 0.0 if self.active else time.monotonic() - self.used

    async def list_models(self) -> None:
        """Ask which models it serves; raise EngineError when it does not say."""
        with self.request() as client:
            listed = await client.models()
        self.models = {model["id"]: model for model in listed} or self.models

    async def follow(self) -> None:
        """Keep what is known of it true, for ever."""
        while True:
            up = await self.look()
            if up and not self.up:
                up = await self.introduce()
            if up != self.up:
                log.info("%s %s: %s", self.name, "up" if up else "down", self.detail)
            self.up = up
            await asyncio.sleep(START_POLL_SECONDS if self.process or not up else POLL_SECONDS)

    async def look(self) -> bool:
        """Whether it would answer now."""
        if self.process is not None:
            return self.process.state is State.READY
        healthy = await self.client.healthy()
        self.answer = "ready" if healthy else f"no answer from {self.client.base_url}"
        return healthy

    async def introduce(self) -> bool:
        """Ask one that came up who it is and what it can do; False when it did not answer after all."""
        try:
            with self.request() as client:
                await client.probe()
            await self.list_models()
        except EngineError as error:
            log.warning("%s did not introduce itself: %s", self.name, error)
            return False
        root = next((Path(model.get("root") or "") for model in self.models.values()), Path())
        self.parameters = self.stated_parameters or await asyncio.to_thread(count_parameters, root)
        return bool(self.models)

    async def wait_ready(self, seconds: float) -> None:
        """Return when a process of ours answers; raise EngineFailed if it will not, or not in that time."""
        if self.process is not None:
            await self.process.wait_ready(seconds)

    async def report_failure(self, seconds: float) -> None:
        """Wait for it to come up, and keep the reason when it does not."""
        try:
            await self.wait_ready(seconds)
        except EngineFailed as error:
            self.failure = str(error)
            log.error("%s", error)

    async def close(self) -> None:
        try:
            if self.process is not None:
                await self.process.stop()
        finally:
            await self.client.close()


class NoBackend(Backend):
    """What stands in the place of a vLLM where another engine answers: whatever only vLLM can do is unavailable."""

    async def follow(self) -> None:
        self.up, self.answer = True, "ready"

    def check(self) -> None:
        raise EngineUnavailable("there is no vLLM behind this engine")

    async def list_models(self) -> None:
        """There are those that the settings name."""
