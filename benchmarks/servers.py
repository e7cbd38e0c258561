"""Starting what is measured, as processes of their own, and stopping it again."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_SECONDS = 900.0
ENGINE_KEY = secrets.token_urlsafe()
"""Of the vLLMs that the services here start, for measurements that ask vLLM itself."""
ENGINE_HEADERS = {"Authorization": f"Bearer {ENGINE_KEY}"}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it answers, and its process."""

    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """User and system time that the process has used, all its threads together."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, ready: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """Run a command until the block ends, also by SIGTERM; it is ready when GET `ready` answers 200."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    process = subprocess.Popen([sys.executable, "-m", *command], env={**os.environ, **(environment or {})})
    try:
        server = Server(f"http://127.0.0.1:{port}", process.pid)
        wait(server.url + ready, process)
        yield server
    finally:
        process.terminate()
        process.wait(60)
        signal.signal(signal.SIGTERM, before)


def wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server for {url} exited with {process.returncode}")
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{url} was not ready after {START_SECONDS:g} s")


@contextmanager
def service(**settings: str | int) -> Iterator[Server]:
    """The service with these settings (names without `OUTTHINK_`), on a free port and with a data folder of its own."""
    port = free_port()
    with tempfile.TemporaryDirectory() as data:
        own = {"port": port, "data_dir": data, "log_level": "WARNING", "engine_api_key": ENGINE_KEY, **settings}
        environment = {f"OUTTHINK_{name.upper()}": str(value) for name, value in own.items()}
        with running(["service", "serve"], port, "/ready", environment) as server:
            yield server


@contextmanager
def upstream() -> Iterator[Server]:
    """The synthetic engine."""
    port = free_port()
    with running(["benchmarks.upstream", str(port)], port, "/v1/models") as server:
        yield server


def vllm_metric(url: str, name: str) -> int:
    """The sum of a vLLM's samples of this name."""
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(f"vllm:{name}{{"))


def vllm_tokens(url: str) -> int:
    """The tokens that a vLLM has generated since it started."""
    return vllm_metric(url, "generation_tokens_total")


def idle(url: str) -> None:
    """Wait until a vLLM has nothing to do."""
    while vllm_metric(url, "num_requests_running") + vllm_metric(url, "num_requests_waiting"):
        time.sleep(0.02)
