"""One real server: `python -m service serve` with its own vLLM, and what can be asked of both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from service.engines import demo_model
from service.engines.command import MODULE
from service.engines.secret_files import read_secret
from service.settings import Settings
from tests.conftest import free_port

CLIENT_KEY = "sk-client-71f0c2d4"
LIMITED_KEY = "sk-client-2c5e88a9"
ADMIN_KEY = "sk-admin-98a1d3b7"
START_SECONDS = 600.0
STOP_SECONDS = 60.0
BRANCHES = 16
QUEUE = 2  # of one key, which leaves a place to others
REQUESTS, TOKENS = 3, 900  # a minute, of the limited key
BODY_BYTES = 1_000_000
TAG_ID = 49152  # of `<extra_0>`, the first token behind the demo model's vocabulary
ROOT = Path(__file__).parents[2]

CONFIG = """
max_body_bytes = {body_bytes}
max_branches = {branches}
max_queue = {queue}

[presets.small]
strategy = {{ type = "self_consistency", samples = 4 }}
temperature = 0.9
budget = {{ tokens = 400 }}

[scorers.prm]
kind = "prm"
model = "{rewards}/prm"
args = "--dtype float32"

[scorers.qwen]
kind = "prm"
format = "qwen"
model = "qwen"
url = "http://127.0.0.1:{qwen}/v1"

[scorers.outcome]
kind = "outcome"
model = "outcome"
url = "http://127.0.0.1:{outcome}/v1"

[scorers.nowhere]
kind = "outcome"
model = "nobody"
url = "http://127.0.0.1:{nowhere}/v1"

[key_limits.client-2]
requests_per_minute = {requests}
tokens_per_minute = {tokens}
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Counters:
    """vLLM's own: what it generated and read, and what it is busy with."""

    generation: int
    prompt: int
    running: int
    waiting: int

    @property
    def idle(self) -> bool:
        return self.running == self.waiting == 0


@dataclass(frozen=True, slots=True)
class Server:
    """Where the service and its engine listen, and where they write. `log` is None for a server that is not ours."""

    url: str
    engine: str
    data: Path | None = None
    log: Path | None = None
    scorer: str = ""
    remote: Mapping[str, int] = field(default_factory=dict)  # the ports of reward models that Outthink does not serve
    given_engine_key: str = ""  # of an engine whose data directory is not ours

    @property
    def rewards(self) -> Path:
        """The folder of the small reward models."""
        assert self.log is not None
        return self.log.parent / "rewards"

    @property
    def engine_key(self) -> str:
        """Of the vLLM that the service started, as its training worker finds it."""
        return self.given_engine_key or (read_secret(self.data, "engine.key") if self.data else "")

    @property
    def engine_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.engine_key}"}

    def ready(self) -> httpx.Response:
        """Whether it would answer, and how everything behind it is."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        return httpx.get(f"{self.url}/ready", headers=headers, trust_env=False)

    @property
    def api(self) -> str:
        return f"{self.url}/v1"

    def counters(self) -> Counters:
        found = samples(httpx.get(f"{self.engine}/metrics", trust_env=False, timeout=60).text)
        names = ("generation_tokens_total", "prompt_tokens_total", "num_requests_running", "num_requests_waiting")
        return Counters(*(int(sum(found[f"vllm:{name}"].values())) for name in names))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the service's own samples of this name that carry these labels."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        text = httpx.get(f"{self.url}/metrics", headers=headers, trust_env=False, timeout=60).text
        found = samples(text).get(name, {})
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(value for shown, value in found.items() if all(label in shown for label in wanted))

    def logs(self) -> str:
        """All that the service and vLLM have written."""
        assert self.log is not None, "OUTTHINK_TEST_LOG names the log of a server that is not ours"
        files = [self.log, *(self.data / "logs").glob("*")] if self.data else [self.log]
        return "\n".join(file.read_text(errors="replace") for file in files)


def samples(text: str) -> dict[str, dict[str, float]]:
    """Prometheus's text as name, labels, value."""
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.rpartition(" ")
            name, _, labels = key.partition("{")
            found.setdefault(name, {})[labels] = float(value)
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> float:
    """Ask until it holds; return how many seconds that took, and raise AssertionError when it took too long."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not so after {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - started


@contextmanager
def slowest_answer(url: str) -> Iterator[list[float]]:
    """The longest that the server took to say that it lives, in seconds: what is slower was the machine."""
    slowest, over = [0.0], threading.Event()

    def ask_again_and_again() -> None:
        while not over.wait(0.05):
            began = time.monotonic()
            httpx.get(f"{url}/health", trust_env=False, timeout=60)
            slowest[0] = max(slowest[0], time.monotonic() - began)

    asking = threading.Thread(target=ask_again_and_again)
    asking.start()
    try:
        yield slowest
    finally:
        over.set()
        asking.join()


def wait_idle(server: Server, seconds: float) -> None:
    """Return when vLLM has nothing to do, which must be so within so many seconds of a machine that never pauses."""
    with slowest_answer(server.url) as slowest:
        took = wait_for(lambda: server.counters().idle)
    assert took < seconds + slowest[0]


def survivors(family: Mapping[int, str | None]) -> set[int]:
    """Who of the family is still there after a moment: Python's own helpers end when they see that their parent did."""

    def alive() -> set[int]:
        return {pid for pid, start in family.items() if start is not None and born(pid) == start}

    with suppress(AssertionError):
        wait_for(lambda: not alive(), 30)
    return alive()


@contextmanager
def running(folder: Path, say: Say) -> Iterator[Server]:
    """A server of our own; when it has been stopped, none of its processes is left."""
    port, engine_port = free_port(), free_port(4)
    remote = {name: free_port() for name in ("qwen", "outcome", "nowhere")}
    log, config = folder / "server.log", folder / "outthink.toml"
    make_rewards(folder / "rewards", say)
    limits = {"body_bytes": BODY_BYTES, "branches": BRANCHES, "queue": QUEUE + 1}
    limits |= {"requests": REQUESTS, "tokens": TOKENS}
    config.write_text(CONFIG.format(rewards=folder / "rewards", **limits, **remote))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(folder, config, port, engine_port),
        )
    urls = [f"http://127.0.0.1:{number}" for number in (port, engine_port, engine_port + 1)]
    server = Server(urls[0], urls[1], folder / "data", log, urls[2], remote)
    family = {process.pid: born(process.pid)}
    try:
        wait_ready(process, server, say)
        family |= descendants(process.pid)
        yield server
        running = server.logs()  # vLLM, not we, may log a traceback of its own when it is ended: not looked at
    finally:
        stopped_in_time = stop(process)
        left = survivors(family)
    assert stopped_in_time, f"the server was still there {STOP_SECONDS:.0f} s after SIGTERM"
    assert process.returncode in (0, -signal.SIGTERM), f"the server exited with {process.returncode}\n{tail(log)}"
    assert len(family) > 4, "vLLM alone is more processes than these: the check below would see nothing"
    assert not left, f"processes outlived the server: {left}"
    assert "Traceback" not in running + log.read_text(), f"a traceback is in the logs of {folder}"


def make_rewards(folder: Path, say: Say) -> None:
    """The demo model for its tokenizer, and the reward models made with it."""
    say("reward models: making them")
    settings = Settings()
    tokenizer = demo_model.ensure(settings.cache_dir)
    run_module("tests.integration.reward_models", "make", str(tokenizer), str(folder))


def run_module(module: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@contextmanager
def pooling(server: Server, name: str) -> Iterator[None]:
    """For one of the small reward models a vLLM of its own, as somebody else would run it."""
    process = start_pooling(server, name)
    try:
        wait_for(lambda: answers(server, name, process), START_SECONDS)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def start_pooling(server: Server, name: str) -> subprocess.Popen[bytes]:
    arguments = ["--model", str(server.rewards / name), "--served-model-name", name, "--runner", "pooling"]
    options = ["--enforce-eager", "--no-enable-chunked-prefill", "--dtype", "float32", "--disable-uvicorn-access-log"]
    address = ["--host", "127.0.0.1", "--port", str(server.remote[name])]
    if name == "qwen":  # the mark of Qwen's own tokenizer has another id
        options += ["--pooler-config", json.dumps({"tok_pooling_type": "STEP", "step_tag_id": TAG_ID})]
    with pooling_log(server, name).open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", MODULE, *arguments, *options, *address],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_WAIT_POLICY": "passive"},
            start_new_session=True,
        )


def pooling_log(server: Server, name: str) -> Path:
    return server.rewards.parent / f"{name}.log"


def answers(server: Server, name: str, process: subprocess.Popen[bytes]) -> bool:
    log = tail(pooling_log(server, name))
    assert process.poll() is None, f"vLLM for {name} exited with {process.returncode}\n{log}"
    with suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{server.remote[name]}/health", trust_env=False).status_code == 200
    return False


def environment(folder: Path, config: Path, port: int, engine_port: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OUTTHINK_")}
    ours = {
        "CONFIG": config,
        "HOST": "127.0.0.1",
        "PORT": port,
        "ENGINE_PORT": engine_port,
        "DATA_DIR": folder / "data",
        "API_KEYS": f"{CLIENT_KEY},{LIMITED_KEY}",
        "ADMIN_KEYS": ADMIN_KEY,
        "ANSWER_WORKERS": 1,
        "WORKER": 0,  # the tests of training start their own
        "CACHE_DIR": os.environ.get("OUTTHINK_CACHE_DIR", ""),  # empty: the usual place
    }
    return kept | {f"OUTTHINK_{name}": str(value) for name, value in ours.items()} | {"PYTHONUNBUFFERED": "1"}


def wait_ready(process: subprocess.Popen[bytes], server: Server, say: Say) -> None:
    """Follow /ready, telling what it tells; raise AssertionError with the end of the log when it will not be 200."""
    assert server.log is not None
    limit, said = time.monotonic() + START_SECONDS, ""
    while True:
        assert process.poll() is None, f"the server exited with {process.returncode}\n{tail(server.log)}"
        assert time.monotonic() < limit, f"not ready after {START_SECONDS:.0f} s\n{tail(server.log)}"
        try:
            reply = server.ready()
        except httpx.TransportError:
            time.sleep(0.2)  # it does not listen yet; there is nothing to wait on
            continue
        if reply.status_code == 200:
            say("vLLM: ready")
            return
        stage = reply.json()["error"]["message"].removeprefix("the engine is not ready: ")
        if stage.rpartition(",")[0] != said:
            said = stage.rpartition(",")[0]
            say(f"vLLM: {stage}")
        time.sleep(0.2)


def tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def stop(process: subprocess.Popen[bytes]) -> bool:
    """End it as a supervisor would; false when it had to be killed."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def descendants(root: int) -> dict[int, str | None]:
    """Every process below this one, with its time of birth, since numbers are used again."""
    parents = {int(path.name): parent(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    family, size = {root}, 0
    while len(family) > size:
        size = len(family)
        family |= {pid for pid, above in parents.items() if above in family}
    return {pid: born(pid) for pid in family - {root}}


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none when there is no such process or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] in "ZX" else fields


def parent(pid: int) -> int | None:
    fields = stat(pid)
    return int(fields[1]) if fields else None


def born(pid: int) -> str | None:
    fields = stat(pid)
    return fields[19] if fields else None
