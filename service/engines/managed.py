"""Starts vLLM, keeps it running and stops it.

    STARTING --/health answers--> READY --exits, or its engine is dead--> DOWN --after a pause--> STARTING
        '------exits three times without ever having been ready------> STOPPED <------stop()------'

The processes are the watcher's (watcher.py): it ends all of vLLM when this service ends, however it ends. What vLLM
prints goes to `logs/vllm.log` in the data folder, the run before to `vllm.log.1`; `detail` says in one line what it is
doing, so that nobody has to wait in the dark.
"""

import asyncio
import importlib.util
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import httpx

from service.engines import demo_model, watcher
from service.engines.command import (
    LOOPBACK,
    EngineFailed,
    Reward,
    beside,
    checkpoints,
    given_arguments,
    model_context,
    on_cpu,
    policy_share,
    scorer_command,
    vllm_command,
    vllm_environment,
)
from service.engines.process import Launch, Log, Watched, advice, port_free
from service.settings import Settings
from strategies.errors import EngineUnavailable


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DOWN = "down"  # it will be started again
    STOPPED = "stopped"  # it will not


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to look and how long to wait, in seconds."""

    starting: float = 0.25  # between two looks at /health
    ready: float = 2.0
    health: float = 5.0  # for one answer of /health
    first_pause: float = 1.0  # before the first restart; doubles every time
    longest_pause: float = 60.0
    healthy: float = 60.0  # after that long, the pauses begin anew
    grace: float = 10.0  # between SIGTERM and SIGKILL
    attempts: int = 3  # before giving up on a vLLM that has never been ready


@dataclass(frozen=True, slots=True)
class Status:
    state: State
    text: str
    since: float = field(default_factory=time.monotonic)
    until: float = 0.0  # of a pause

    @property
    def detail(self) -> str:
        now = time.monotonic()
        if self.state is State.STARTING:
            return f"{self.text}, {now - self.since:.0f} s"
        if self.state is State.DOWN:
            return f"{self.text}; restart in {max(0, math.ceil(self.until - now))} s"
        return self.text


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a run is over, and for how many seconds it was ready; None: it never was."""

    reason: str
    ready_for: float | None = None


class ManagedEngine:
    """The policy's vLLM, kept running; `command` replaces its command line."""

    offset = 0  # of its port from OUTTHINK_ENGINE_PORT
    log_name = "vllm.log"

    def __init__(self, settings: Settings, *, command: Sequence[str] | None = None, pace: Pace | None = None) -> None:
        self.settings = settings
        self.command = command
        self.pace = pace or Pace()
        self.port = settings.engine_port + self.offset
        self.pidfile = settings.data_dir.absolute() / f"engine-{self.port}.pid"
        self.log = Log(settings.data_dir.absolute() / "logs" / self.log_name)
        self.process: Watched | None = None
        self._status = Status(State.STARTING, "not started")
        self._changed = asyncio.Event()
        self._failure = "vLLM was stopped"
        self._ever_ready = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> State:
        return self._status.state

    @property
    def since(self) -> float:
        """When the state changed last, on the clock of `time.monotonic`."""
        return self._status.since

    @property
    def detail(self) -> str:
        """One line for people."""
        return self._status.detail

    async def start(self) -> None:
        """Begin to start vLLM, and return at once."""
        if self._task is None:
            self._status = Status(State.STARTING, "starting vLLM")
            self._task = asyncio.create_task(self._supervise(), name="managed vLLM")

    async def stop(self) -> None:
        """End vLLM; when this returns, none of its processes is left."""
        if self._task is not None:
            if not self._stopping:  # a second cancellation would cut the clearing up short
                self._stopping = True
                self._task.cancel()
            await asyncio.wait({self._task})
        self._set(State.STOPPED, self._failure.partition("\n")[0])
        if self._task is not None and not self._task.cancelled():
            self._task.result()  # raises if the supervision itself was at fault

    async def wait_change(self) -> State:
        """Return the next state, when there is one."""
        await self._changed.wait()
        return self.state

    async def wait_ready(self, timeout: float) -> None:
        """Return when vLLM answers; raise EngineFailed if it will not, or not within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self.state not in (State.READY, State.STOPPED):
                    await self._changed.wait()
        except TimeoutError as error:
            raise EngineFailed(self._explain(f"vLLM is not ready after {timeout:.0f} s ({self.detail})")) from error
        if self.state is State.STOPPED:
            raise EngineFailed(self._failure)

    def check(self, what: str) -> None:
        """Raise EngineUnavailable, by the name that callers know it by, while it is not up."""
        if self.state is not State.READY:
            raise EngineUnavailable(f"{what} is not ready: {self.detail}", retry_after=5)

    def _set(self, state: State, text: str, pause: float = 0.0) -> None:
        before, now = self._status, time.monotonic()
        since = before.since if before.state is state else now
        self._status = Status(state, text, since, now + pause)
        if state is not before.state:
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def _explain(self, reason: str) -> str:
        lines = self.log.last_lines()
        return f"{reason}\n{lines}\nWhat to do: {advice(lines)}. Log: {self.log.path}"

    async def _supervise(self) -> None:
        try:
            async with httpx.AsyncClient(
                base_url=f"http://{LOOPBACK}:{self.port}", timeout=self.pace.health, trust_env=False
            ) as client:
                await self._keep_running(client)
        except EngineFailed as error:
            self._failure = str(error)
        except OSError as error:  # the data folder, most likely
            self._failure = f"vLLM cannot be started: {error}; set OUTTHINK_DATA_DIR to a folder that can be written to"
        finally:
            self._set(State.STOPPED, self._failure.partition("\n")[0])

    async def _keep_running(self, client: httpx.AsyncClient) -> None:
        """Run vLLM again and again; raise EngineFailed when there is no use in it."""
        plan = await self._plan()
        failures = restarts = 0
        while True:
            ended = await self._run(plan, client)
            failures = 0 if self._ever_ready else failures + 1
            if failures >= self.pace.attempts:
                raise EngineFailed(self._explain(f"vLLM failed {failures} times to start: {ended.reason}"))
            if ended.ready_for is not None and ended.ready_for >= self.pace.healthy:
                restarts = 0
            pause = min(self.pace.longest_pause, self.pace.first_pause * 2**restarts)
            restarts += 1
            self._set(State.DOWN, ended.reason, pause)
            await asyncio.sleep(pause)
            self._set(State.STARTING, "starting vLLM")

    async def _plan(self) -> Launch:
        """Prepare what vLLM needs, and decide how to call it."""
        cpu = on_cpu()
        checkpoints(self.settings).mkdir(parents=True, exist_ok=True)
        environment = vllm_environment(self.settings, os.environ, cpu=cpu)
        if self.command is not None:
            return Launch(tuple(self.command), environment)
        given_arguments(self.settings.vllm_args)  # before half a minute of conversion
        if importlib.util.find_spec("vllm") is None:
            raise EngineFailed("vLLM is not installed; run: pip install 'outthink[cpu]' (or [cuda])")
        model = await self._demo_model() if self.settings.demo else self.settings.model
        context = await model_context(model, environment) if cpu else None
        share = policy_share(self.settings)
        return Launch(tuple(vllm_command(self.settings, model, cpu=cpu, context=context, share=share)), environment)

    async def _demo_model(self) -> str:
        """The demo model's folder; whoever starts the service has mostly prepared it, with a bar to look at."""
        cache = self.settings.cache_dir
        try:
            target = demo_model.folder(cache)
            if not demo_model.ready(target):
                await self._convert(cache, target)
        except demo_model.DemoModelFailed as error:
            raise EngineFailed(str(error)) from error
        return str(target.absolute())

    async def _convert(self, cache: Path, target: Path) -> None:
        self._set(State.STARTING, "preparing the demo model (once)")
        await self._clear()
        log = Log(self.log.path.with_name("demo-model.log"))
        process = self._spawn(Launch(tuple(demo_model.command(cache)), demo_model.environment()), log)
        try:
            await process.exits_within(None)
        finally:
            status = await process.end()
        if not demo_model.ready(target):
            raise EngineFailed(demo_model.explanation(status, log.last_lines()))

    def _spawn(self, plan: Launch, log: Log) -> Watched:
        with log.rotate() as file:
            self.process = Watched(plan, file, self.pidfile, self.pace.grace)
        return self.process

    async def _clear(self) -> None:
        """End what a killed service and its killed watcher left behind."""
        try:
            await asyncio.to_thread(watcher.clean, self.pidfile, self.pace.grace + 5)
        except BlockingIOError as error:
            raise EngineFailed(
                f"another Outthink runs a vLLM on port {self.port} from {self.settings.data_dir}; stop it, "
                "or set OUTTHINK_ENGINE_PORT and OUTTHINK_DATA_DIR"
            ) from error

    async def _run(self, plan: Launch, client: httpx.AsyncClient) -> Ended:
        """Run vLLM once, until it ends or has to be ended."""
        await self._clear()
        if not port_free(self.port):
            taken = f"port {self.port} is taken by another program; set OUTTHINK_ENGINE_PORT"
            if not self._ever_ready:
                raise EngineFailed(taken)
            return Ended(taken)
        process = self._spawn(plan, self.log)
        try:
            reason = await self._until_ready(process, client) or await self._while_ready(process, client)
            ready_for = time.monotonic() - self.since if self.state is State.READY else None
            self._set(State.DOWN, reason or "crashed")  # at once, since clearing up may take a while
        finally:
            status = await process.end()
        return Ended(reason or f"crashed (exit {status})", ready_for)

    async def _until_ready(self, process: Watched, client: httpx.AsyncClient) -> str | None:
        """Return None when vLLM answers or has exited, else why it should be ended."""
        limit = time.monotonic() + self.settings.engine_start_seconds
        while not await process.exits_within(self.pace.starting):
            if await health(client) == httpx.codes.OK:
                self._ever_ready = True
                self._set(State.READY, "ready")
                return None
            if stage := self.log.stage():
                self._set(State.STARTING, stage)
            if time.monotonic() > limit:
                return f"not ready after {self.settings.engine_start_seconds:.0f} s"
        return None

    async def _while_ready(self, process: Watched, client: httpx.AsyncClient) -> str | None:
        """Return None when vLLM has exited, else why it should be ended."""
        while not await process.exits_within(self.pace.ready):
            # No answer is no reason: busy is not dead. 503 is vLLM's word for a dead engine behind a living server.
            if await health(client) == httpx.codes.SERVICE_UNAVAILABLE:
                return "its engine died"
        return None


class ManagedScorer(ManagedEngine):
    """The vLLM of a reward model, on the next port."""

    offset = 1
    log_name = "scorer.log"

    def __init__(self, settings: Settings, reward: Reward, *, pace: Pace | None = None) -> None:
        super().__init__(settings, pace=pace)
        self.reward = reward

    async def _plan(self) -> Launch:
        cpu = on_cpu()
        of_its_own = self.settings.model_copy(update={"model": self.reward.model})  # not the demo: it may be fetched
        environment = beside(vllm_environment(of_its_own, os.environ, cpu=cpu), cpu=cpu)
        context = await model_context(self.reward.model, environment)
        return Launch(tuple(scorer_command(self.settings, self.reward, cpu=cpu, context=context)), environment)

    def _explain(self, reason: str) -> str:
        return super()._explain(reason).replace("OUTTHINK_MODEL", "`model`").replace("OUTTHINK_VLLM_ARGS", "`args`")


class ManagedCheckpoint(ManagedEngine):
    """The vLLM of a checkpoint that has weights of its own, one of at most `places` and one more in a change.

    It serves no adapters: on a CPU they cost speed, and those that there are fit the base model.
    """

    def __init__(
        self, settings: Settings, name: str, folder: Path, port: int, places: int, *, pace: Pace | None = None
    ) -> None:
        self.log_name = f"vllm-{port}.log"
        own = settings.model_copy(update={"model_name": name, "engine_port": port})
        super().__init__(own, pace=pace or Pace(attempts=1))
        self.folder, self.places = str(folder), places

    async def _plan(self) -> Launch:
        cpu = on_cpu()
        environment = beside(vllm_environment(self.settings, os.environ, cpu=cpu), cpu=cpu)
        context = await model_context(self.folder, environment) if cpu else None
        shared = policy_share(self.settings)
        share = None if shared is None else shared / (self.places + 1)
        own = vllm_command(self.settings, self.folder, cpu=cpu, context=context, share=share, adapters=False)
        return Launch(tuple(own), environment)


async def health(client: httpx.AsyncClient) -> int | None:
    """The status of /health; None without an answer."""
    try:
        return (await client.get("/health")).status_code
    except httpx.TransportError:
        return None
