"""Real trainings of a tiny model, without an engine: in the child that a worker starts."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.graders import Sample
from service.graders.template import fill
from service.jobs import Event, Job, Store
from service.jobs.published import MARKER, whole
from service.settings import Settings
from strategies.types import Call, Generation
from tests.conftest import free_port
from tests.integration.server import descendants, stop, survivors
from tests.training.support import ASSISTANT, USER, Characters, queued, spec, until
from training.conversations import render
from training.errors import TrainingError
from training.recipe import Room, resolve
from training.task import Facts, Note, Report, Task
from training.worker import Pace, Worker

pytestmark = [pytest.mark.training, pytest.mark.flaky(reruns=2)]  # of processes, leases and seconds

ROWS = b"".join(json.dumps({"messages": [USER, {**ASSISTANT, "content": f"{i}"}]}).encode() + b"\n" for i in range(8))
PAIRS = b"".join(
    json.dumps(
        {
            "input": {"messages": [USER]},
            "preferred_output": [{**ASSISTANT, "content": f"A{i}"}],
            "non_preferred_output": [{**ASSISTANT, "content": f"B{i}"}],
        }
    ).encode()
    + b"\n"
    for i in range(8)
)
SECONDS = 180.0
"""Starting a child takes ten of them, when the machine does nothing else."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run([sys.executable, "-m", "tests.training.tiny", str(folder)], check=True)
    return folder


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """For so small a model, threads are nothing but waiting for each other, most of all on a busy machine."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def settings(tmp_path: Path, base: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", model=str(base), model_name="tiny", engine_port=free_port(), retries=0)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store.open(settings.data_dir)
    yield store
    store.close()


@pytest.fixture
def worker(settings: Settings, store: Store) -> Iterator[Worker]:
    worker = Worker(settings, store, Pace(renewal=0.1))
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield worker
    worker.stopping.set()
    thread.join()


def ended(store: Store, job: Job) -> Job:
    until(lambda: store.job(job.id).ended, SECONDS)
    return store.job(job.id)


def rows_of(store: Store, job: Job) -> list[str]:
    [file] = job.result["result_files"]
    return store.path(file).read_text().splitlines()


def test_full_weights_are_measured_and_published_whole(settings: Settings, store: Store, worker: Worker) -> None:
    held_out = store.write_file("fine-tune", "held-out.jsonl", ROWS).id
    extras = {"weights": "full", "publish": "merged", "learning_rate": 0.01}
    done = ended(store, queued(store, ROWS, extras=extras, validation_file=held_out, n_epochs=4, batch_size=4))
    assert done.status == "succeeded", done.error
    [checkpoint] = store.checkpoints(done.id)
    assert (checkpoint.form, checkpoint.step) == ("merged", 8)
    assert checkpoint.metrics["valid_loss"] < 5
    folder = settings.data_dir / checkpoint.path
    assert whole(folder)
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", MARKER} <= {
        path.name for path in folder.iterdir()
    }
    assert not (folder / "adapter_config.json").exists(), "the engine's resolver must not take it for an adapter"
    first, *_, last = rows_of(store, done)[1:]
    assert float(last.split(",")[1]) < float(first.split(",")[1])
    assert done.progress["hyperparameters"]["total_steps"] == 8


def test_weights_that_are_no_numbers_fail_the_job_and_are_not_published(
    settings: Settings, store: Store, worker: Worker
) -> None:
    extras = {"learning_rate": 1.0, "max_steps": 4}
    done = ended(store, queued(store, ROWS, extras=extras, learning_rate_multiplier=1e30))
    assert done.status == "failed"
    assert done.error is not None
    assert done.error["code"] == "invalid_weights"
    assert "not finite" in done.error["message"]
    assert store.checkpoints(done.id) == []
    assert list((settings.data_dir / "checkpoints").iterdir()) == []


def test_a_paused_training_goes_on_where_it_was(settings: Settings, store: Store, worker: Worker) -> None:
    """DPO on a checkpoint, so that it has two adapters to save: the one that is trained and the reference."""
    taught = ended(store, queued(store, ROWS, extras={"max_steps": 2}))
    job = queued(store, PAIRS, method="dpo", model=taught.result["fine_tuned_model"], n_epochs=20, batch_size=1)
    until(lambda: store.job(job.id).progress.get("step", 0) > 8, SECONDS)
    store.want(job.id, "pause")
    until(lambda: store.job(job.id).paused, SECONDS)
    stopped = store.job(job.id).progress["step"]
    store.want(job.id, "run")
    done = ended(store, job)
    assert done.status == "succeeded", done.error
    assert stopped < 160, "it was still running when it was paused"
    rows = [row.split(",") for row in rows_of(store, done)]
    assert [int(row[0]) for row in rows[1:]] == list(range(1, 161)), "no step is missing, none was done twice"
    column = rows[0].index("train_reward_margin")
    margins = [float(row[column]) for row in rows[1:]]
    assert abs(margins[0]) < 1e-3, "training begins where its reference is"
    assert margins[stopped - 1] > 0.01
    assert margins[stopped] > margins[stopped - 1] / 2, "and goes on from where it had come, with that reference"
    assert margins[-1] > margins[stopped]
    messages = [event.message for event in store.events(job.id, limit=1000).data]
    assert f"Going on from step {stopped}" in messages
    assert store.checkpoint(done.result["fine_tuned_model"]).parent == taught.result["fine_tuned_model"]


def test_a_share_of_sfts_loss_is_added_to_dpos(settings: Settings, store: Store, worker: Worker, base: Path) -> None:
    """At the first step the policy is its reference, so DPO's loss is ln 2; SFT's is the base model's own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def first_loss(**extras: float) -> float:
        options: dict[str, Any] = {"max_steps": 1, **extras}
        done = ended(store, queued(store, PAIRS, method="dpo", batch_size=8, extras=options))
        assert done.status == "succeeded", done.error
        head, row, *_ = (line.split(",") for line in rows_of(store, done))
        return float(row[head.index("train_loss")])

    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    prompt = render(tokenizer, [USER], answer=True)
    answers = [tokenizer.encode(f"A{i}<|end|>", add_special_tokens=False) for i in range(8)]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer for answer in answers])).logits[:, len(prompt) - 1 : -1]
    surprise = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(answers).flatten()).item()
    assert first_loss() == pytest.approx(math.log(2), abs=1e-4)
    assert first_loss(rpo_alpha=0.5) == pytest.approx(math.log(2) + 0.5 * surprise, abs=1e-3)


def test_a_file_that_is_too_long_to_learn_from_says_so(settings: Settings, store: Store, worker: Worker) -> None:
    row = {"messages": [{"role": "user", "content": "x" * 400}, ASSISTANT]}
    done = ended(store, queued(store, json.dumps(row).encode() + b"\n"))
    assert done.error is not None
    assert done.error["message"] == "the training file has nothing to learn from"
    assert done.error["param"] == "training_file"


def test_a_step_is_told_with_all_that_is_known_of_it() -> None:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from training.progress import Progress

    sent: list[Report] = []
    recipe = resolve(spec(n_epochs=1, batch_size=1), 4, Room(32, 256))
    progress = Progress(recipe, sent.append, threading.Event(), lambda step, metrics: None)
    arguments, state, control = TrainingArguments("unused", use_cpu=True), TrainerState(), TrainerControl()
    progress.on_train_begin(arguments, state, control)
    state.global_step = 3
    logs = {"loss": 0.5, "reward": 0.25, "learning_rate": 0.1, "num_tokens": 9}
    state.log_history = [{"step": 3, **logs}]
    progress.on_log(arguments, state, control, logs)
    note, facts = sent
    assert isinstance(note, Note)
    assert note.data is not None
    assert note.data.keys() == {
        *("step", "total_steps", "train_loss", "train_reward", "learning_rate", "tokens", "eta_seconds")
    }
    assert isinstance(facts, Facts)
    shown = {"step": 3, "total_steps": 4, "loss": 0.5, "reward": 0.25, "learning_rate": 0.1, "trained_tokens": 9}
    assert shown.items() <= facts.facts.items()
    assert facts.facts["eta_seconds"] == note.data["eta_seconds"] >= 0


def test_the_same_seed_asks_for_the_same_samples(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # as in the child
    from training.grpo import Rollouts

    def seeds(seed: int) -> list[int | None]:
        own = spec("reinforcement").model_copy(update={"seed": seed})
        task = Task(settings, store.create_job("fine_tuning", "tiny", own.model_dump(mode="json")), settings.data_dir)
        run: Any = SimpleNamespace(task=task, spec=task.spec)
        rollouts = Rollouts(run, resolve(own, 8, Room(32, 256)))
        return [rollouts.call(4, step, 9).seed for step in (0, 0, 1)]

    assert seeds(7) == seeds(7)
    assert len({*seeds(7), *seeds(8)}) == 6


def test_the_length_of_a_conversation_bounds_what_is_sampled(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    from training.grpo import Rollouts

    asked: list[Call] = []

    def continued(prefixes: Any, call: Call) -> list[list[Generation]]:
        asked.append(call)
        return [[Generation("", ids=(1,), logprobs=({"logprob": -1.0},))] * call.n for _ in prefixes]

    own = spec("reinforcement", extras={"max_length": 32, "max_tokens": 20})
    task = Task(settings, store.create_job("fine_tuning", "tiny", own.model_dump(mode="json")), settings.data_dir)
    run: Any = SimpleNamespace(
        task=task, spec=own, tokenizer=Characters(), serving=SimpleNamespace(continue_prefixes=continued)
    )
    rollouts = Rollouts(run, resolve(own, 8, Room(32, 256)))
    model, state = SimpleNamespace(training=True), SimpleNamespace(global_step=0)
    trainer: Any = SimpleNamespace(num_generations=2, model=model, state=state)
    for prompts in (["short"] * 2, ["short"] * 2 + ["x" * 20] * 2):
        assert len(rollouts(prompts, trainer)["completion_ids"]) == len(prompts)
    assert [call.max_tokens for call in asked] == [20, 12]
    with pytest.raises(TrainingError, match="32 tokens of a conversation"):
        rollouts(["x" * 32] * 2, trainer)


def test_a_step_is_as_good_as_what_comes_of_it(tmp_path: Path) -> None:
    """By the ways on that were sampled from it, and by the solutions that have it: each once, equal steps together."""
    from training.verifier import Labelling

    own = spec("verifier", extras={"samples": 4, "rollouts": 2})
    solutions = ("a\n\nb\n\n1", "a\n\nb\n\n0", "a\n\nx\n\n0", "a\n\nx\n\ncut")
    ways = {"a\n\n": ("0", "0"), "a\n\nb\n\n": ("0", "0"), "a\n\nx\n\n": ("0", "cut")}
    graded: list[str] = []

    def written(text: str) -> Generation:
        return Generation(text, ids=tuple(map(ord, text)), finish_reason="length" if text.endswith("cut") else "stop")

    def continued(prefixes: Any, call: Call) -> list[list[Generation]]:
        said = ["".join(map(chr, prefix)).partition("<a:")[2] for prefix in prefixes]
        return [[written(text) for text in (ways[prefix] if prefix else solutions)] for prefix in said]

    def grade(rows: Any, samples: list[Sample]) -> list[float]:
        graded.extend(sample.output_text for sample in samples)
        return [float(sample.output_text.endswith("1")) for sample in samples]

    run: Any = SimpleNamespace(
        task=SimpleNamespace(folder=tmp_path),
        spec=own,
        tokenizer=Characters(),
        serving=SimpleNamespace(continue_prefixes=continued),
        pause_if_asked=lambda: None,
        send=lambda report: None,
    )
    judge: Any = SimpleNamespace(grade=grade)
    found = Labelling(run, judge, resolve(own, 1, Room(32, 256)), "training", [{"messages": [USER]}]).labels()
    assert {mark.solution: (mark.right, mark.rollouts) for mark in found} == {
        "a": (1, 6),
        "a\n\nb": (1, 4),
        "a\n\nx": (0, 4),
        "a\n\nb\n\n1": (2, 2),
        "a\n\nb\n\n0": (0, 2),
        "a\n\nx\n\n0": (0, 2),
    }
    assert len(graded) == len(set(graded)) == 4, "each answer once"


def test_tool_calls_that_were_sampled_are_graded(base: Path) -> None:
    """TRL and transformers read them; the template is Qwen3's own."""
    from transformers import AutoTokenizer
    from trl.chat_template_utils import qwen3_chat_template

    from training import tools

    tokenizer = AutoTokenizer.from_pretrained(base)
    with pytest.raises(TrainingError, match="how this model writes tool calls") as refused:
        tools.prepare(tokenizer)
    assert refused.value.param == "training_file"
    tokenizer.chat_template = qwen3_chat_template
    tools.prepare(tokenizer)
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
    add = [{"type": "function", "function": {"name": "add", "parameters": parameters}}]
    prompt = render(tokenizer, [USER], add, answer=True)
    assert '"name": "add"' in tokenizer.decode(prompt)

    def sampled(text: str) -> Sample:
        return tools.sample(tokenizer, prompt, tokenizer.encode(text), add)

    called = sampled('I add.\n<tool_call>\n{"name": "add", "arguments": {"a": 3}}\n</tool_call><|im_end|>')
    path = "{{sample.output_tools[0].function.name}}({{sample.output_tools[0].function.arguments}})"
    assert fill(path, {}, called) == 'add({"a": 3})'
    assert called.output_text.strip() == "I add."
    for text in ("It is 7.<|im_end|>", "<tool_call>\n{broken\n</tool_call><|im_end|>", "<tool_call>\n{"):
        assert not sampled(text).output_tools
    assert sampled("It is 7.<|im_end|>").output_text == "It is 7."


def test_another_worker_finishes_what_a_killed_one_left(settings: Settings, store: Store) -> None:
    job = queued(store, ROWS, n_epochs=12, batch_size=1, extras={"save_steps": 1})
    with command(settings) as first:
        saves = settings.data_dir / "jobs" / job.id
        until((saves / "checkpoint-3" / "trainer_state.json").exists, SECONDS)
        family = descendants(first.pid)
        first.kill()
    assert not survivors(family), "its child dies with it"
    left = store.job(job.id)
    assert left.status == "running", "nobody has noticed yet"
    with command(settings) as second:
        until(lambda: store.job(job.id).ended, SECONDS)  # taken up when the lease has ended
        assert stop(second)
    assert store.job(job.id).status == "succeeded"
    events = story(store, job)
    [place] = [i for i, event in enumerate(events) if goes_on(event)]
    saved = int(events[place].message.rpartition(" ")[2])
    steps = [event.data["step"] for event in events[place:] if event.data]
    assert saved >= 3
    assert steps == list(range(saved + 1, 12 * 8 + 1)), "it goes on behind what was saved"


def story(store: Store, job: Job) -> list[Event]:
    return list(store.events(job.id, limit=1000, order="asc").data)


def goes_on(event: Event) -> bool:
    return event.message.startswith("Going on from step")


@contextmanager
def command(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """`outthink worker` as a shell would start it."""
    ours = {"DATA_DIR": settings.data_dir, "MODEL": settings.model, "ENGINE_PORT": settings.engine_port, "RETRIES": 0}
    environment = os.environ | {f"OUTTHINK_{name}": str(value) for name, value in ours.items()}
    process = subprocess.Popen([sys.executable, "-m", "service", "worker"], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
