"""The supervision of vLLM: on small real servers, and once on vLLM itself."""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.engines import managed, watcher
from service.engines.command import (
    EngineFailed,
    context_length,
    model_context,
    policy_share,
    vllm_command,
    vllm_environment,
)
from service.engines.managed import ManagedEngine, Pace, State
from service.engines.process import Log, port_free, stage_of
from service.settings import Settings
from tests.conftest import free_port

QUICK = Pace(starting=0.02, ready=0.05, health=2, first_pause=0.05, longest_pause=0.2, healthy=60, grace=30)
SECONDS = 120.0  # for things that take a fraction of one; only a failing test waits that long

# Answers /health as vLLM does, with a helper in the group that outlives it if it can. While the file DEAD exists, the
# engine behind the server is dead.
SERVER = """
import http.server, os, signal, sys
port, dead = int(sys.argv[1]), sys.argv[2]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists(dead) else 200)
        self.end_headers()

if os.path.exists(dead):
    os.unlink(dead)
if os.fork() == 0:
    signal.pause()
print("Starting to load model", flush=True)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", engine_port=free_port())


Make = Callable[..., ManagedEngine]


@pytest.fixture
async def make(settings: Settings, tmp_path: Path) -> AsyncIterator[Make]:
    """Engines that are stopped after the test; by default on SERVER."""
    made = []

    def make(*code: str, pace: Pace = QUICK, **changes: Any) -> ManagedEngine:
        chosen = settings.model_copy(update=changes)
        arguments = code or (SERVER, str(chosen.engine_port), str(tmp_path / "dead"))
        made.append(ManagedEngine(chosen, command=(sys.executable, "-I", "-c", *arguments), pace=pace))
        return made[-1]

    yield make
    for engine in made:
        await engine.stop()


async def group_of(engine: ManagedEngine) -> int:
    """The group of its processes, once the watcher has told: on a busy machine the server may answer before."""
    assert engine.process is not None
    async with asyncio.timeout(SECONDS):
        while engine.process.pgid is None:  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0.01)
    return engine.process.pgid


async def next_ready(engine: ManagedEngine) -> None:
    """Wait until it is not ready, and then until it is again."""
    async with asyncio.timeout(SECONDS):
        if engine.state is State.READY:
            await engine.wait_change()
    await engine.wait_ready(SECONDS)


async def test_ready_when_health_answers(make: Make) -> None:
    engine = make()
    await engine.start()
    assert engine.state is State.STARTING
    await engine.wait_ready(SECONDS)
    assert (engine.state, engine.detail) == (State.READY, "ready")
    assert engine.since <= asyncio.get_running_loop().time()


async def test_nothing_is_left_when_stop_returns(make: Make) -> None:
    engine = make()
    await engine.start()
    await engine.wait_ready(SECONDS)
    group = await group_of(engine)
    assert len(watcher.members(group)) == 2
    await engine.stop()
    assert watcher.members(group) == []
    assert engine.state is State.STOPPED
    await engine.stop()  # again is nothing


async def test_stop_without_start(make: Make) -> None:
    engine = make()
    await engine.stop()
    assert engine.state is State.STOPPED
    with pytest.raises(EngineFailed):
        await engine.wait_ready(SECONDS)


@pytest.mark.parametrize("turns", [0, 1, 5, 50])
async def test_stop_cuts_a_start_short(make: Make, turns: int) -> None:
    engine = make()
    await engine.start()
    for _ in range(turns):
        await asyncio.sleep(0)
    await engine.stop()
    assert engine.state is State.STOPPED
    assert engine.process is None or watcher.members(engine.process.pgid or -1) == []
    assert port_free(engine.settings.engine_port)


async def test_two_stops_at_once(make: Make) -> None:
    engine = make()
    await engine.start()
    await engine.wait_ready(SECONDS)
    group = await group_of(engine)
    await asyncio.gather(engine.stop(), engine.stop())
    assert watcher.members(group) == []


async def test_a_crash_is_followed_by_a_restart(make: Make) -> None:
    engine = make()
    await engine.start()
    await engine.wait_ready(SECONDS)
    group = await group_of(engine)
    os.kill(group, signal.SIGKILL)
    assert await engine.wait_change() is State.DOWN
    assert engine.detail.startswith("crashed")
    await engine.wait_ready(SECONDS)
    assert await group_of(engine) != group
    assert watcher.members(group) == []


async def test_a_dead_engine_behind_a_living_server_is_restarted(make: Make, tmp_path: Path) -> None:
    engine = make()
    await engine.start()
    await engine.wait_ready(SECONDS)
    group = await group_of(engine)
    (tmp_path / "dead").touch()
    await next_ready(engine)
    assert await group_of(engine) != group
    assert watcher.members(group) == []


async def test_a_server_that_is_slow_to_answer_is_left_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, look = asyncio.Semaphore(0), managed.health

    async def unanswered(client: httpx.AsyncClient) -> int | None:
        status = await look(client)
        if status is None:
            looks.release()
        return status

    engine = make(pace=Pace(starting=0.02, ready=0.01, health=0.2, first_pause=0.05))
    await engine.start()
    await engine.wait_ready(SECONDS)
    group = await group_of(engine)
    monkeypatch.setattr(managed, "health", unanswered)
    os.kill(group, signal.SIGSTOP)
    async with asyncio.timeout(SECONDS):
        for _ in range(3):
            await looks.acquire()
    os.kill(group, signal.SIGCONT)
    assert engine.state is State.READY
    assert await group_of(engine) == group


async def test_a_killed_watcher_takes_the_group_with_it(make: Make) -> None:
    engine = make()
    await engine.start()
    await engine.wait_ready(SECONDS)
    group = await group_of(engine)
    assert engine.process is not None
    engine.process.process.kill()
    await next_ready(engine)
    assert await group_of(engine) != group
    assert watcher.members(group) == []


async def test_pauses_double_up_to_a_limit(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(pace=Pace(first_pause=1, longest_pause=10))
    pauses: list[float] = []

    async def crash(*_: object) -> managed.Ended:
        engine._ever_ready = True
        return managed.Ended("crashed", ready_for=60 if len(pauses) == 6 else 1)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            raise EngineFailed("enough")

    monkeypatch.setattr(engine, "_run", crash)
    monkeypatch.setattr("asyncio.sleep", sleep)
    await engine.start()
    with pytest.raises(EngineFailed, match="enough"):
        await engine.wait_ready(SECONDS)
    assert pauses == [1, 2, 4, 8, 10, 10, 1, 2]  # a minute of health makes them begin anew


async def test_three_failed_starts_are_enough(make: Make) -> None:
    usage = "print('usage: vllm [-h]'); print('            [--one | --two]')"
    engine = make(f"{usage}; print('vllm: error: unrecognized arguments: --nonsense'); raise SystemExit(2)")
    await engine.start()
    with pytest.raises(EngineFailed) as failure:
        await engine.wait_ready(SECONDS)
    assert engine.state is State.STOPPED
    assert engine.detail == "vLLM failed 3 times to start: crashed (exit 2)"
    assert "--nonsense" in str(failure.value)
    assert "--one" not in str(failure.value)
    assert "correct OUTTHINK_VLLM_ARGS" in str(failure.value)
    assert str(engine.log.path) in str(failure.value)


async def test_a_start_that_takes_too_long_is_ended(make: Make) -> None:
    engine = make("import signal; signal.pause()", engine_start_seconds=0.1)
    await engine.start()
    with pytest.raises(EngineFailed, match="not ready after 0 s"):
        await engine.wait_ready(SECONDS)
    assert watcher.members(await group_of(engine)) == []


async def test_waiting_has_an_end(make: Make) -> None:
    engine = make("print('Starting to load model', flush=True); import signal; signal.pause()")
    await engine.start()
    with pytest.raises(EngineFailed, match="vLLM is not ready after 0 s"):
        await engine.wait_ready(0.2)


async def test_a_taken_port_is_said_before_anything_starts(make: Make, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", settings.engine_port)):
        engine = make()
        await engine.start()
        with pytest.raises(EngineFailed, match=f"port {settings.engine_port} is taken .* OUTTHINK_ENGINE_PORT"):
            await engine.wait_ready(SECONDS)
        assert engine.process is None


async def test_two_servers_on_one_data_folder_are_told_apart(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make(), make(pace=Pace(grace=-5))  # no time to wait for the first one's end
    await first.start()
    await first.wait_ready(SECONDS)
    await second.start()
    with pytest.raises(EngineFailed, match="another Outthink"):
        await second.wait_ready(SECONDS)
    assert first.state is State.READY


async def test_a_folder_that_cannot_be_made_is_explained(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    engine = make(data_dir=tmp_path / "file" / "data")
    await engine.start()
    with pytest.raises(EngineFailed, match="OUTTHINK_DATA_DIR"):
        await engine.wait_ready(SECONDS)


async def test_the_log_of_the_run_before_is_kept(make: Make) -> None:
    engine = make()
    await engine.start()
    await engine.wait_ready(SECONDS)
    assert "Starting to load model" in engine.log.path.read_text()
    os.kill(await group_of(engine), signal.SIGKILL)
    await next_ready(engine)
    assert "Starting to load model" in engine.log.path.with_name("vllm.log.1").read_text()


# The service, as far as its engine is concerned: says what state the engine is in, and never stops by itself.
SERVICE = """
import asyncio, json, sys
from service.engines.managed import ManagedEngine, Pace
from service.settings import Settings

async def main(settings, command):
    engine = ManagedEngine(Settings(**settings), command=command, pace=Pace(first_pause=0.1))
    await engine.start()
    while True:
        await engine.wait_ready(300)
        while engine.process.pgid is None:  # the watcher tells in a moment
            await asyncio.sleep(0.01)
        print(engine.process.pgid, flush=True)
        await engine.wait_change()

asyncio.run(main(*json.loads(sys.argv[1])))
"""


@contextmanager
def service(settings: dict[str, Any], command: list[str] | None) -> Iterator[subprocess.Popen[str]]:
    root = Path(managed.__file__).parents[2]
    arguments = [sys.executable, "-c", SERVICE, json.dumps([settings, command])]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, cwd=root) as process:
        try:
            yield process
        finally:
            process.kill()


def server(settings: Settings, folder: Path) -> tuple[dict[str, Any], list[str]]:
    plain = {"data_dir": str(settings.data_dir), "engine_port": settings.engine_port}
    return plain, [sys.executable, "-I", "-c", SERVER, str(settings.engine_port), str(folder / "dead")]


def said(process: subprocess.Popen[str], seconds: float) -> int:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    assert ready, "the service says nothing"
    return int(process.stdout.readline())


def all_die(pids: list[int], seconds: float) -> bool:
    """Whether these processes are gone within that time."""
    handles = []
    for pid in pids:
        try:
            handles.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue
    dead = [bool(select.select([handle], [], [], seconds)[0]) for handle in handles]
    for handle in handles:
        os.close(handle)
    return all(dead)


def test_a_killed_service_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    with service(*server(settings, tmp_path)) as process:
        group = said(process, SECONDS)
        members = [member.pid for member in watcher.members(group)]
        assert len(members) == 2
        process.kill()
        assert all_die(members, SECONDS)
        assert watcher.members(group) == []


async def test_what_a_service_left_that_was_killed_with_its_watcher_is_ended_first(
    make: Make, settings: Settings, tmp_path: Path
) -> None:
    with service(*server(settings, tmp_path)) as process:
        group = said(process, SECONDS)
        leader = watcher.look(group)
        assert leader is not None
        os.kill(leader.parent, signal.SIGSTOP)  # so that it does not see the service die
        process.kill()
        os.kill(leader.parent, signal.SIGKILL)
    assert len(watcher.members(group)) == 2
    engine = make()
    await engine.start()
    await engine.wait_ready(SECONDS)
    assert watcher.members(group) == []


@pytest.mark.engine
def test_vllm_is_restarted_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its API server is killed, then the service: each time nothing of vLLM may live on."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("OUTTHINK_ADMIN_KEYS", "sesame")
    port = free_port()
    plain = {"data_dir": str(tmp_path / "data"), "engine_port": port, "engine_api_key": "open"}
    with service(plain, None) as process:
        group = said(process, 300)
        first = watcher.members(group)
        assert len(first) >= 3  # the API server, EngineCore, Worker
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            for path in ("/v1/completions", "/invocations", "/tokenize", "/pause"):
                assert client.post(path, json={"prompt": "a", "model": "smollm2"}).status_code == 401, path
            models = client.get("/v1/models", headers={"Authorization": "Bearer open"}).json()
        assert models["data"][0]["id"] == "smollm2"
        assert b"sesame" not in Path(f"/proc/{group}/environ").read_bytes()

        os.kill(group, signal.SIGKILL)
        again = said(process, 300)
        assert again != group
        assert watcher.members(group) == []

        second = [member.pid for member in watcher.members(again)]
        process.kill()
        assert all_die(second, SECONDS)
        assert watcher.members(again) == []


DEMO = Settings(engine_port=8123, data_dir=Path("/data"))
MODEL = Settings(engine_port=8123, data_dir=Path("/data"), model="Qwen/Qwen2.5-Math-1.5B-Instruct")


def with_arguments(settings: Settings, text: str) -> Settings:
    return settings.model_copy(update={"vllm_args": text})


def value(command: list[str], option: str) -> str:
    assert command.count(option) == 1, f"{option} in {command}"
    return command[command.index(option) + 1]


def test_command_of_the_demo_model_on_the_cpu() -> None:
    command = vllm_command(DEMO, "/cache/model", cpu=True, context=8192)
    assert command[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    assert value(command, "--model") == "/cache/model"
    assert value(command, "--served-model-name") == "smollm2"
    assert (value(command, "--host"), value(command, "--port")) == ("127.0.0.1", "8123")
    assert value(command, "--max-model-len") == value(command, "--max-num-batched-tokens") == "8192"
    assert value(command, "--tool-call-parser") == "hermes"
    assert value(command, "--max-lora-rank") == "16"
    assert {"--enforce-eager", "--no-enable-chunked-prefill", "--enable-lora", "--enable-prefix-caching"} <= {*command}


def test_no_media_from_other_hosts() -> None:
    command = vllm_command(MODEL, MODEL.model, cpu=False)
    assert "/" in value(command, "--allowed-media-domains")  # which no host's name contains
    assert "--allowed-local-media-path" not in command


def test_a_gpu_keeps_vllms_own_schedule() -> None:
    command = vllm_command(MODEL, MODEL.model, cpu=False, context=None)
    assert not {"--enforce-eager", "--no-enable-chunked-prefill", "--max-model-len", "--max-num-seqs"} & {*command}
    assert "--enable-auto-tool-choice" not in command  # which parser a model needs, its user knows


REWARD = {"prm": {"kind": "prm", "model": "reward"}}


@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({}, None),
        ({"scorers": REWARD}, "0.60"),
        ({"full_models": 1}, "0.45"),
        ({"full_models": 1, "scorers": REWARD}, "0.30"),
    ],
)
def test_a_gpu_is_shared_where_others_need_a_part(fields: dict[str, Any], share: str | None) -> None:
    settings = MODEL.model_copy(update=fields)
    command = vllm_command(settings, MODEL.model, cpu=False, share=policy_share(settings))
    assert (value(command, "--gpu-memory-utilization") if share else None) == share


async def test_weights_of_their_own_are_served_without_adapters(tmp_path: Path) -> None:
    folder = tmp_path / "ft:smollm2:x:1"
    folder.mkdir()
    (folder / "config.json").write_text('{"max_position_embeddings": 2048}')
    settings = MODEL.model_copy(update={"data_dir": tmp_path})
    plan = await managed.ManagedCheckpoint(settings, "ft:smollm2:x:1", folder, 8125, places=1)._plan()
    command = list(plan.command)
    assert value(command, "--model") == str(folder)
    assert value(command, "--served-model-name") == "ft:smollm2:x:1"
    assert value(command, "--port") == "8125"
    assert value(command, "--max-model-len") == "2048"
    assert not {"--enable-lora", "--max-lora-rank"} & {*command}
    assert plan.environment["OMP_WAIT_POLICY"] == "passive", "it shares the cores of the base's"


@pytest.mark.parametrize(("context", "length"), [(4096, "4096"), (131072, "8192")])
def test_a_long_context_is_cut_on_the_cpu_and_a_short_one_kept(context: int, length: str) -> None:
    command = vllm_command(MODEL, MODEL.model, cpu=True, context=context)
    assert value(command, "--max-model-len") == value(command, "--max-num-batched-tokens") == length


def test_an_unknown_context_is_left_to_vllm() -> None:
    command = vllm_command(MODEL, MODEL.model, cpu=True, context=None)
    assert not {"--max-model-len", "--max-num-batched-tokens"} & {*command}


@pytest.mark.parametrize(
    ("arguments", "gone", "kept"),
    [
        ("--max-num-seqs 4", (), ("--max-num-seqs",)),
        ("--max_num_seqs=4", ("--max-num-seqs",), ("--max_num_seqs=4",)),
        ("--no-enforce-eager", ("--enforce-eager",), ("--no-enforce-eager",)),
        ("--enable-chunked-prefill", ("--no-enable-chunked-prefill",), ("--enable-chunked-prefill",)),
        ("--max-model-len 32k", ("--max-num-batched-tokens",), ("--max-model-len",)),
        ("--no-enable-lora", ("--enable-lora",), ("--no-enable-lora",)),
        ("--hf-overrides '{\"a\": 1}'", (), ('{"a": 1}',)),
    ],
)
def test_the_users_arguments_replace_ours(arguments: str, gone: tuple[str, ...], kept: tuple[str, ...]) -> None:
    command = vllm_command(with_arguments(MODEL, arguments), MODEL.model, cpu=True, context=8192)
    assert not {*gone} & {*command}
    assert all(command.count(argument) == 1 for argument in kept)
    assert command[-1] in arguments  # they come last


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        ("--port 9", "OUTTHINK_ENGINE_PORT"),
        ("--host=0.0.0.0", "loopback only"),
        ("--served_model_name x", "OUTTHINK_MODEL_NAME"),
        ("--model x", "OUTTHINK_MODEL"),
        ("--hf-overrides '{", "cannot be split"),
    ],
)
def test_arguments_that_would_break_the_service_are_refused(arguments: str, instead: str) -> None:
    with pytest.raises(EngineFailed, match=instead):
        vllm_command(with_arguments(MODEL, arguments), MODEL.model, cpu=True)


def test_keys_never_reach_vllm() -> None:
    environ = {"OUTTHINK_API_KEYS": "a", "OUTTHINK_ADMIN_KEYS": "b", "VLLM_API_KEY": "c", "HF_TOKEN": "d", "PATH": "e"}
    environment = vllm_environment(DEMO, environ, cpu=True)
    assert not {"a", "b", "c"} & set(environment.values())
    assert (environment["HF_TOKEN"], environment["PATH"]) == ("d", "e")


def test_environment() -> None:
    environment = vllm_environment(DEMO, {"VLLM_MEDIA_URL_ALLOW_REDIRECTS": "1"}, cpu=True)
    assert environment["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    assert environment["VLLM_LORA_RESOLVER_CACHE_DIR"] == "/data/checkpoints"
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert environment["VLLM_NO_USAGE_STATS"] == environment["DO_NOT_TRACK"] == "1"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert "VLLM_PLUGINS" not in environment


def test_environment_keeps_what_the_user_chose() -> None:
    chosen = {"VLLM_CPU_KVCACHE_SPACE": "8", "VLLM_PLUGINS": "mine"}
    environment = vllm_environment(MODEL, chosen, cpu=True)
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "8"
    assert environment["VLLM_PLUGINS"] == "mine,lora_filesystem_resolver"
    assert "HF_HUB_OFFLINE" not in environment
    assert "VLLM_CPU_KVCACHE_SPACE" not in vllm_environment(MODEL, {}, cpu=False)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 32768}, 32768),
        ({"n_positions": 1024, "seq_length": 512}, 512),
        ({"text_config": {"max_position_embeddings": 4096}}, 4096),
        ({"max_position_embeddings": None}, None),
        ({}, None),
    ],
)
def test_context_is_read_from_the_models_configuration(config: dict[str, object], length: int | None) -> None:
    assert context_length(config) == length


async def test_context_of_a_local_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 2048}')
    assert await model_context(str(tmp_path), {}) == 2048
    (tmp_path / "config.json").write_text("{")
    assert await model_context(str(tmp_path), {}) is None


@pytest.mark.parametrize(
    ("lines", "stage"),
    [
        (["(Worker pid=1) INFO Starting to load model /cache/model..."], "loading weights"),
        (["Loading safetensors checkpoint shards:  50% Completed | 1/2"], "loading weights, 50 %"),
        (["model.safetensors:  34%|###   | 1G/3G"], "downloading the model, 34 %"),
        (["Starting to load model x", "GPU KV cache size: 9 tokens", "something else"], "warming up"),
        (["nothing of interest"], None),
    ],
)
def test_stages_are_read_from_the_log(lines: list[str], stage: str | None) -> None:
    assert stage_of(lines) == stage


def test_a_log_is_read_piece_by_piece(tmp_path: Path) -> None:
    log = Log(tmp_path / "logs" / "vllm.log")
    with log.rotate() as file:
        file.write(b"Starting to load")
        file.flush()
        assert log.stage() is None
        file.write(b" model\nmore")
        file.flush()
        assert log.stage() == "loading weights"
        assert log.stage() is None
