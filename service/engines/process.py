"""A process under the watcher, and its log: what a vLLM that starts is doing, and what a vLLM that ended died of."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from service.engines import watcher
from service.engines.command import LOOPBACK

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


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run, and in what environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


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

    def __init__(self, plan: Launch, log: BinaryIO, pidfile: Path, grace: float) -> None:
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
