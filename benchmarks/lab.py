"""`make lab`: the whole story on generated arithmetic, told by the product itself through its API.

    SFT on few examples -> verifier -> compare strategies -> distil what search finds -> DPO -> compare again

Every step of a solution can be checked, and train, validation and test never share a question. Each stage is a job of
the server; its id is kept in the folder, so that a lab that was stopped goes on where it was. All checkpoints have
weights of their own (`publish: merged`), since adapters are slow on a CPU.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.faults import Fault, Marks
from benchmarks.servers import free_port, running
from service.benchmarks import plot
from service.benchmarks.arithmetic import Problem, generate
from service.benchmarks.statistics import pareto, wilson
from service.commands.client import CommandError, fail, read_reply
from service.engines.command import on_cpu
from service.settings import PREFIX

LOOK_SECONDS = 2.0
ENDED = ("succeeded", "failed", "cancelled")
TEMPERATURE, SEED = 1.0, 7
MATH = {"type": "math", "name": "right", "reference": "{{item.answer}}"}

console = Console()


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. `samples` are those of a question in a comparison."""

    operations: int = 4
    digits: int = 1
    tests: int = 200
    samples: int = 16
    base_samples: int = 4
    examples: int = 448
    sft_steps: int = 28
    marked: int = 500  # questions for the verifier
    solutions: int = 8
    rollouts: int = 1
    verifier_steps: int = 150
    distilled: int = 80  # questions
    dpo_steps: int = 12
    max_tokens: int = 96


QUICK = Scale(
    operations=1,
    tests=4,
    samples=4,
    base_samples=2,
    examples=192,
    sft_steps=12,
    marked=6,
    solutions=6,
    rollouts=2,
    verifier_steps=2,
    distilled=8,
    dpo_steps=2,
)


@dataclass(slots=True)
class Lab:
    """The server, and what is done already: results by stage, in a file."""

    client: httpx.Client
    folder: Path
    scale: Scale
    state: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file.exists():
            self.state = json.loads(self.file.read_text())

    @property
    def file(self) -> Path:
        return self.folder / "lab.json"

    def keep(self, name: str, value: Any) -> None:
        self.state[name] = value
        self.save()

    def save(self) -> None:
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.state, indent=1))
        partial.replace(self.file)

    def stage(self, name: str, create: Callable[[], tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        """The job of a stage when it has succeeded; made by `create` (path and body), unless it was made before."""
        done: dict[str, Any] | None = self.state.get(f"{name}.job")
        if done is not None:
            console.print(f"{name}: done before", highlight=False)
            return done
        if name not in self.state:
            path, body = create()
            self.keep(name, {"path": f"{path}/{self.post(path, body)['id']}", "began": time.time()})
        job = self.follow(name, self.state[name]["path"])
        if job["status"] != "succeeded":
            del self.state[name]  # the next lab makes another
            self.save()
            raise CommandError(f"{name} {job['status']}: {(job.get('error') or {}).get('message')}")
        self.keep(f"{name}.job", {**job, "minutes": (time.time() - self.state[name]["began"]) / 60})
        return self.state[f"{name}.job"]  # type: ignore[no-any-return]

    def follow(self, name: str, path: str) -> dict[str, Any]:
        """Show how far a job is until it has ended."""
        columns = (TextColumn("{task.description:>10}"), BarColumn(), TextColumn("{task.fields[said]}"))
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task(name, total=None, said="queued")
            while (job := read_reply(self.client.get(path)))["status"] not in ENDED:
                done, total, said = progress(job)
                bar.update(task, completed=done, total=total, said=said)
                time.sleep(LOOK_SECONDS)
            bar.update(task, completed=1, total=1, said=job["status"])
        return job

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return read_reply(self.client.post(path, json=body))

    def upload(self, name: str, rows: Sequence[Mapping[str, Any]], purpose: str = "fine-tune") -> str:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        reply = self.client.post("/files", data={"purpose": purpose}, files={"file": (f"{name}.jsonl", content)})
        return str(read_reply(reply)["id"])

    def tune(self, name: str, model: str, training_file: Callable[[], str], method: str, **more: Any) -> str:
        """The checkpoint of a fine-tuning job."""
        hyperparameters, extras = more.pop("hyperparameters", {}), more

        def create() -> tuple[str, dict[str, Any]]:
            body = {"model": model, "training_file": training_file(), "suffix": name, "seed": SEED}
            ways = {"type": method, method: {"hyperparameters": hyperparameters}}
            return "/fine_tuning/jobs", body | {"method": ways, "outthink": {"publish": "merged", **extras}}

        return str(self.stage(name, create)["fine_tuned_model"])

    def compare(self, name: str, model: str, strategies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A benchmark of strategies on the test questions; its report goes to the folder."""
        scale = self.scale
        dataset = {"name": "arithmetic", "questions": scale.tests, **difficulty(scale)}
        body = {
            "name": name,
            "model": model,
            "dataset": dataset,
            "strategies": strategies,
            "seeds": [1],
            "concurrency": 8,
            "sampling": {"max_tokens": scale.max_tokens, "temperature": TEMPERATURE},
        }
        job = self.stage(name, lambda: ("/benchmarks", body))
        for file in ("report", "results.csv", "samples.jsonl"):
            target = self.folder / f"{name.replace(' ', '-')}-{file}{'.html' if file == 'report' else ''}"
            if not target.exists():
                reply = self.client.get(f"/benchmarks/{job['id']}/{file}").raise_for_status()
                target.write_bytes(reply.content)
        return job


def progress(job: Mapping[str, Any]) -> tuple[float, float | None, str]:
    """How far a job of any kind is, and a word about it."""
    now = job["progress"] if "progress" in job else job["outthink"]["progress"]
    if "total_steps" in now:
        said = f"loss {now['loss']:.3f}" if "loss" in now else ""
        return now.get("step", 0), now["total_steps"], f"step {now.get('step', 0)} of {now['total_steps']} {said}"
    if "marked" in now:
        return now["marked"], now["questions"], f"{now['marked']} of {now['questions']} questions marked"
    if "done" in now:
        return now["done"], now["total"], f"{now['done']} of {now['total']}"
    return 0, None, str(job["status"])


# The stages


SMALL_STEPS = {"batch_size": 8, "n_epochs": 2}
"""A pair of DPO is two answers, and each is read by the reference as well."""
SELECT = "weighted_vote"
"""Best of N as in Snell et al. (2024): the marks of equal answers add up. The page has the highest mark beside it."""
MARKS = {"batch_size": 16, "n_epochs": 2, "learning_rate_multiplier": 0.75}
"""A verifier's marks are a token each: it takes many to learn what a wrong equation is."""


def run_stages(lab: Lab) -> dict[str, Any]:
    """Run every stage that is not done; return what the page is made of."""
    scale = lab.scale
    problems = iter(generate(scale.examples + scale.marked + scale.distilled, **difficulty(scale), split="train"))
    examples, marked, distilled = (list(islice(problems, n)) for n in (scale.examples, scale.marked, scale.distilled))
    base = str(read_reply(lab.client.get("/models"))["data"][0]["id"])
    lab.compare("base", base, [{"type": "self_consistency", "samples": powers(scale.base_samples)}])
    sft = lab.tune("sft", base, partial(conversations, lab, examples), "supervised", max_steps=scale.sft_steps)
    verifier = train_verifier(lab, sft, marked)
    sampled = {"type": "best_of_n", "scorer": verifier, "select": SELECT, "samples": powers(scale.samples)}
    beams = {"type": "beam_search", "scorer": verifier, "samples": [scale.samples // 2], "step": {"max_tokens": 48}}
    fewer = {**sampled, "samples": powers(scale.samples // 2)}
    lab.compare("after SFT", sft, [sampled])
    pairs = partial(preference_pairs, lab, sft, distilled)
    dpo = lab.tune("dpo", sft, pairs, "dpo", max_steps=scale.dpo_steps, hyperparameters=SMALL_STEPS)
    lab.compare("after DPO", dpo, [fewer])
    lab.compare("search", sft, [beams])
    return lab.state


def conversations(lab: Lab, problems: Sequence[Problem]) -> str:
    """A file of worked examples."""
    rows = [
        {"messages": [{"role": "user", "content": p.question}, {"role": "assistant", "content": p.solution}]}
        for p in problems
    ]
    return lab.upload("examples", rows)


def questions(lab: Lab, problems: Sequence[Problem]) -> str:
    """A file of questions with their answers."""
    return lab.upload("questions", [{"question": p.question, "answer": p.answer} for p in problems])


def train_verifier(lab: Lab, model: str, problems: Sequence[Problem]) -> str:
    """A verifier of the model's own solutions, one sequence with a mark on every step."""
    scale = lab.scale
    sampling = {"samples": scale.solutions, "rollouts": scale.rollouts, "temperature": TEMPERATURE}
    sampling |= {"max_tokens": scale.max_tokens}
    training = {"max_steps": scale.verifier_steps, "hyperparameters": MARKS, "format": "rlhflow"}
    return lab.tune("verifier", model, partial(questions, lab, problems), "verifier", **sampling, **training)


def preference_pairs(lab: Lab, model: str, problems: Sequence[Problem]) -> str:
    """A file of pairs: right answers of the model against wrong ones to the same question."""

    def create() -> tuple[str, dict[str, Any]]:
        return "/distillations", {
            "model": model,
            "file": questions(lab, problems),
            "strategy": {"type": "self_consistency", "samples": 8},
            "grader": MATH,
            "k": 3,
            "max_tokens": lab.scale.max_tokens,
            "temperature": TEMPERATURE,
            "seed": SEED,
        }

    file = lab.stage("distillation", create)["results"]["dpo_file"]
    if file is None:
        raise CommandError(
            "distillation: no question has right and wrong answers, so there are no pairs: more SFT steps?"
        )
    return str(file)


def difficulty(scale: Scale) -> dict[str, Any]:
    return {"steps": scale.operations, "digits": scale.digits}


def powers(most: int) -> list[int]:
    return [2**i for i in range(most.bit_length()) if 2**i <= most]


# The page


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of the questions, and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, questions: int) -> Rate:
        return cls(value, *wilson(value, questions))

    def beats(self, other: Rate) -> bool:
        """Whether it is the better one, and each is outside of the other's interval."""
        return self.low > other.value and self.value > other.high

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})".replace("%", " %")


def gates(state: Mapping[str, Any], scale: Scale, marks: Marks) -> list[tuple[str, Rate, Rate]]:
    """What should be so, the first three, and what would be better still: the first rate beats the second."""
    base, sft = cells(state, "base"), cells(state, "after SFT")
    many, best = scale.samples, sft["best_of_n", scale.samples]
    rate = partial(Rate.of, questions=scale.tests)
    one, majority, weighted = (
        rate(x) for x in (sft["best_of_n", 1]["accuracy"], best["majority_at_k"], best["accuracy"])
    )
    return [
        ("SFT beats the base (pass@1)", one, rate(base["self_consistency", 1]["accuracy"])),
        (f"majority of {many} beats pass@1", majority, one),
        (f"best of {many}, weighted by the verifier, beats pass@1", weighted, one),
        (f"best of {many}, weighted by the verifier, beats the plain majority", weighted, majority),
        (f"best of {many} by the verifier's highest score beats pass@1", rate(marks.best), one),
    ]


def cells(state: Mapping[str, Any], name: str) -> dict[tuple[str, int], dict[str, Any]]:
    """The cells of a comparison by strategy and size."""
    return {(cell["name"], cell["samples"]): cell for cell in listed_cells(state, name)}


def listed_cells(state: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The cells of a comparison, each under its strategy's plain name: what else was stated is the same in all."""
    return [cell | {"name": cell["strategy"]["type"]} for cell in state[f"{name}.job"]["results"]]


COMPARED = {"base": "base", "after SFT": "SFT", "search": "SFT", "after DPO": "SFT, DPO"}


def page(state: Mapping[str, Any], scale: Scale, marks: Marks) -> str:
    """docs/lab.md: the comparisons, a table of all cells, the plot, what each stage took."""
    rows = [row(shown, cell, scale) for name, shown in COMPARED.items() for cell in listed_cells(state, name)]
    checks = [
        f"| {what} | {first} | {second} | {'yes' if first.beats(second) else 'no'} |"
        for what, first, second in gates(state, scale, marks)
    ]
    minutes = [f"| {name} | {state[f'{name}.job']['minutes']:.1f} | {outcome(state, name)} |" for name in STAGES]
    total = sum(state[f"{name}.job"]["minutes"] for name in STAGES)
    return "\n".join(
        [
            "# The lab",
            "",
            "`make lab` runs the whole post-training loop on one task, through the product's own API: SFT, a verifier, "
            "best of N, distillation, DPO and beam search. This page is generated from the results, whatever they are.",
            "",
            "## Setup",
            "",
            f"Each question has {scale.operations} additions or subtractions of numbers of up to {scale.digits} "
            f"digit{'s' * (scale.digits > 1)}; its solution has one equation per step "
            f"(`service/benchmarks/arithmetic.py`). The {scale.tests} test questions appear in no training stage. "
            f"Temperature {TEMPERATURE}, at most {scale.max_tokens} tokens per answer, one seed. "
            f"Machine: {os.cpu_count()} cores ({platform.machine()}), {'no GPU' if on_cpu() else 'a GPU'}. "
            f"Model: the demo model, 135 M parameters. Total time: {total:.0f} minutes.",
            "",
            "## Results",
            "",
            "A comparison holds when each rate lies outside the other's 95 % interval.",
            "",
            "| comparison | first | second | holds |",
            "| --- | --- | --- | --- |",
            *checks,
            "",
            "| model | strategy | size | accuracy (95 %) | plain majority | pass@k | tokens, policy + scorer |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            "![Accuracy against tokens and seconds](lab.svg)",
            "",
            "`pass@k` is the accuracy of a perfect selector; for beam search: whether any final answer is correct. "
            "Intervals are Wilson intervals over questions. [benchmarks.md](benchmarks.md#the-figures) explains how "
            "the figures are computed. `make lab` also writes an HTML report with every question after SFT, all its "
            "answers and their step scores: `data/lab/after-SFT-report.html`.",
            "",
            "## What the verifier learned",
            "",
            *worth(marks),
            "",
            "## Time per stage",
            "",
            "| stage | minutes, pauses included | what |",
            "| --- | --- | --- |",
            *minutes,
            "",
        ]
    )


def row(model: str, cell: Mapping[str, Any], scale: Scale) -> str:
    majority, passed = (f"{cell[name]:.1%}".replace("%", " %") for name in ("majority_at_k", "pass_at_k"))
    tokens = f"{cell['tokens']['policy']:.0f} + {cell['tokens']['scorer']:.0f}"
    rate = Rate.of(cell["accuracy"], scale.tests)
    return f"| {model} | {cell['name']} | {cell['samples']} | {rate} | {majority} | {passed} | {tokens} |"


FAULTS: dict[Fault, str] = {
    "result": "wrong result",
    "sign": "wrong sign",
    "number": "wrong number",
    "form": "no equation, or an extra one",
}


def worth(marks: Marks) -> list[str]:
    """What the verifier's marks are worth, with a row for every fault."""
    areas = {fault: marks.area(fault) for fault in FAULTS}
    return [
        "How often the verifier scores the first wrong step of a solution lower than the correct equation in its place "
        "(0.5 is chance), for solutions sampled after SFT, by type of error (`benchmarks/faults.py`).",
        "",
        "| type of error | wrong steps | scored lower |",
        "| --- | --- | --- |",
        *(
            f"| {FAULTS[fault]} | {len(marks.told[fault])} | {'' if area is None else f'{area:.2f}'} |"
            for fault, area in areas.items()
        ),
    ]


STAGES = {
    "base": "benchmark of the base model",
    "sft": "SFT: {total_steps} steps of {batch_size} examples",
    "verifier": "verifier: solutions and step labels sampled; {total_steps} steps of {batch_size} sequences",
    "after SFT": "benchmark: best of N weighted by the verifier, majority and pass@k of the same samples",
    "distillation": "{questions} questions, {solved} solved: {dpo_rows} pairs",
    "dpo": "DPO: {total_steps} steps of {batch_size} pairs",
    "after DPO": "the same benchmark after DPO",
    "search": "benchmark of beam search",
}


def outcome(state: Mapping[str, Any], name: str) -> str:
    job = state[f"{name}.job"]
    now = job.get("outthink", {}).get("progress", {})
    known = {**now, **now.get("hyperparameters", {}), **(job["results"] if name == "distillation" else {})}
    return STAGES[name].format_map(known)


def draw(state: Mapping[str, Any]) -> str:
    """The accuracy of every curve, models by what was done to them."""
    return plot_cells(
        [cell | {"model": model} for name, model in COMPARED.items() for cell in listed_cells(state, name)]
    )


def plot_cells(shown: Sequence[Mapping[str, Any]]) -> str:
    """A plot of cells, and the Pareto set of all of them together."""
    unbeaten = pareto([plot.generated_tokens(cell) for cell in shown], [cell["accuracy"] for cell in shown])
    marked = [{**cell, "pareto": best} for cell, best in zip(shown, unbeaten, strict=True)]
    return '<?xml version="1.0" encoding="utf-8"?>\n' + plot.svg(marked)


@contextmanager
def serve(folder: Path) -> Iterator[httpx.Client]:
    """The service with its training worker and the demo model, whatever the shell has set, over a folder that stays."""
    for name in [name for name in os.environ if name.startswith(PREFIX) and name != f"{PREFIX}CACHE_DIR"]:
        del os.environ[name]
    port = free_port()
    own = {"PORT": port, "DATA_DIR": folder / "data", "ENGINE_PORT": free_port(), "FULL_MODELS": 2}
    environment = {f"{PREFIX}{name}": str(value) for name, value in (own | {"LOG_LEVEL": "WARNING"}).items()}
    with (
        running(["service", "serve"], port, "/ready", environment) as server,
        httpx.Client(base_url=f"{server.url}/v1", timeout=600, trust_env=False) as client,
    ):
        yield client


Folder = Annotated[
    Path | None,
    typer.Option(help="Where its server keeps everything, and the lab what is done; data/lab or data/lab-quick."),
]
Out = Annotated[Path | None, typer.Option(help="Where the page and its plot are written; docs, or the folder.")]
Quick = Annotated[bool, typer.Option(help="A few of everything, to see whether it runs.")]
State = Mapping[str, Any]


def run_part(
    folder: Path | None,
    out: Path | None,
    quick: bool,
    stages: Callable[[Lab], State],
    pages: Callable[[State, Scale, Path], Mapping[str, str]],
) -> None:
    """Run what is left of one part of the lab, and write its pages, by the names of their files."""
    scale = QUICK if quick else Scale()
    folder = folder or Path("data/lab-quick" if quick else "data/lab")
    out = out or (folder if quick else Path("docs"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with serve(folder.absolute()) as client:
            state = stages(Lab(client, folder, scale))
    except (CommandError, httpx.HTTPError, RuntimeError, TimeoutError) as error:
        fail(str(error), 1)
    written = pages(state, scale, folder)
    for name, text in written.items():
        (out / name).write_text(text)
    console.print(f"{', '.join(str(out / name) for name in written)}; reports in {folder}", highlight=False)


def pages(state: State, scale: Scale, folder: Path) -> dict[str, str]:
    marks = Marks.of(folder / "after-SFT-samples.jsonl")
    return {"lab.md": page(state, scale, marks), "lab.svg": draw(state)}


def main(folder: Folder = None, out: Out = None, quick: Quick = False) -> None:
    """Run what is left of the lab, and write the page."""
    run_part(folder, out, quick, run_stages, pages)


if __name__ == "__main__":
    typer.run(main)
